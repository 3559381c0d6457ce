/** `iteris-web inspect`. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import {
  type AdapterFacts,
  type BaseFacts,
  holdsPictures,
  IterisError,
  inspectAdapter,
  inspectBase,
  inspectSamples,
  type SamplesFacts,
  weightsKind,
} from "../index.ts";
import type { InspectCommand } from "./args.ts";
import type { Terminal } from "./terminal.ts";

/** What a path turned out to hold. */
type Found =
  | { path: string; kind: "base"; facts: BaseFacts }
  | { path: string; kind: "adapter"; facts: AdapterFacts }
  | { path: string; kind: "samples"; facts: SamplesFacts };

async function holdsAdapter(path: string): Promise<boolean> {
  return (await weightsKind(path)) === "adapter";
}

async function kindOfFolder(path: string): Promise<Found["kind"]> {
  const names = await readdir(path);
  if (names.includes("adapter_config.json")) return "adapter";
  const weights = names.filter((name) => name.endsWith(".safetensors"));
  const [only] = weights;
  if (names.includes("config.json")) return "base";
  // Classes of pictures are a folder each.
  if (weights.length === 0 && (await readdir(path, { recursive: true })).some(holdsPictures))
    return "samples";
  if (weights.length !== 1 || only === undefined) return "base";
  return (await holdsAdapter(join(path, only))) ? "adapter" : "base";
}

async function kindOf(path: string): Promise<Found["kind"]> {
  const about = await stat(path).catch((cause) => {
    throw new IterisError("read_failed", `There is no such file or folder: ${path}`, { cause });
  });
  if (!about.isFile()) return kindOfFolder(path);
  if (!path.endsWith(".safetensors")) return "samples";
  return (await holdsAdapter(path)) ? "adapter" : "base";
}

async function find(path: string): Promise<Found> {
  const kind = await kindOf(path);
  switch (kind) {
    case "adapter":
      return { path, kind, facts: await inspectAdapter(path) };
    case "base":
      return { path, kind, facts: await inspectBase(path) };
    case "samples":
      return { path, kind, facts: await inspectSamples(path) };
  }
}

/** How many samples are of each kind that occurs. */
function showKinds(kinds: SamplesFacts["kinds"]): string {
  const entries = Object.entries(kinds).filter(([, count]) => count > 0);
  return entries.map(([kind, count]) => `${count} ${kind}`).join(", ");
}

function show(value: unknown): string {
  if (Array.isArray(value)) return value.map(show).join(", ");
  if (typeof value === "object" && value !== null) return Object.values(value).map(show).join(" ");
  return String(value);
}

/** A line a group of layers, in columns. */
function showGroups(groups: AdapterFacts["groups"]): string {
  const width = Math.max(...groups.map(({ pattern }) => pattern.length));
  const lines = groups.map(({ pattern, modules, ranks }) => {
    const rank = ranks.length > 1 ? `ranks ${ranks[0]} to ${ranks.at(-1)}` : `rank ${ranks[0]}`;
    return `    ${pattern.padEnd(width)}  ${modules} x ${rank}\n`;
  });
  return lines.join("");
}

/** Tells what each path holds. */
export async function runInspect(command: InspectCommand, terminal: Terminal): Promise<void> {
  const found: Found[] = [];
  for (const path of command.paths) found.push(await find(path));
  if (command.json) {
    terminal.stdout.write(`${JSON.stringify({ found })}\n`);
    return;
  }
  for (const { path, kind, facts } of found) {
    const shown = kind === "samples" ? { ...facts, kinds: showKinds(facts.kinds) } : facts;
    const rows = Object.entries(shown).filter(([, value]) => value !== null && show(value) !== "");
    terminal.stdout.write(`${path}: ${kind}\n`);
    for (const [name, value] of rows) {
      // The first of them are in the preview.
      if (name !== "groups" && name !== "pictures") terminal.stdout.write(`  ${name}: ${show(value)}\n`);
    }
    if (kind === "adapter") terminal.stdout.write(`  layers:\n${showGroups(facts.groups)}`);
  }
}
