/** `iteris-web inspect`. */
import { access, stat } from "node:fs/promises";
import { join } from "node:path";
import { IterisError } from "../../lib/errors.ts";
import type { AdapterFacts, BaseFacts, SamplesFacts } from "../../lib/types.ts";
import { inspectAdapter, inspectBase, inspectSamples } from "../index.ts";
import type { InspectCommand } from "./args.ts";
import type { Terminal } from "./terminal.ts";

/** What a path turned out to hold. */
type Found =
  | { path: string; kind: "base"; facts: BaseFacts }
  | { path: string; kind: "adapter"; facts: AdapterFacts }
  | { path: string; kind: "samples"; facts: SamplesFacts };

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function find(path: string): Promise<Found> {
  const about = await stat(path).catch((cause) => {
    throw new IterisError("read_failed", `There is no such file or folder: ${path}`, { cause });
  });
  if (about.isFile()) return { path, kind: "samples", facts: await inspectSamples(path) };
  return (await exists(join(path, "adapter_config.json")))
    ? { path, kind: "adapter", facts: await inspectAdapter(path) }
    : { path, kind: "base", facts: await inspectBase(path) };
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
    for (const [name, value] of rows) terminal.stdout.write(`  ${name}: ${show(value)}\n`);
  }
}
