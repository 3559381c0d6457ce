/**
 * The command line, parsed into what it asks for.
 *
 * What can go wrong: pairing. `--samples`, `--weight`, `--name` and `--compare` belong to adapters, and
 * people write them either beside each adapter or all in a row. Both are read: as many as there are adapters
 * go to the adapters in order, fewer go each to the `--adapter` before them; anything else is refused rather
 * than guessed.
 */
import { basename, resolve } from "node:path";
import { parseArgs } from "node:util";
import { IterisError } from "../../lib/errors.ts";
import type { DeviceRequest, MergeOptions } from "../../lib/types.ts";

/** One adapter of the command line. */
export interface AdapterArgument {
  name: string;
  folder: string;
  samples: string | undefined;
  weight: number | undefined;
  compare: string | undefined;
}

/** `iteris-web merge …` */
export interface MergeCommand {
  command: "merge";
  base: string;
  adapters: AdapterArgument[];
  out: string;
  force: boolean;
  options: Partial<MergeOptions>;
  device: DeviceRequest;
  json: boolean;
}

/** `iteris-web inspect …` */
export interface InspectCommand {
  command: "inspect";
  paths: string[];
  json: boolean;
}

/** What a command line asks for. */
export type Command =
  | MergeCommand
  | InspectCommand
  | { command: "help"; of: "all" | "merge" | "inspect" }
  | { command: "version" };

function usage(message: string, of: "merge" | "inspect" | null = "merge"): IterisError {
  const help = of === null ? "iteris-web --help" : `iteris-web ${of} --help`;
  return new IterisError("option_invalid", `${message} See: ${help}`);
}

const text = { type: "string" } as const;
const list = { type: "string", multiple: true } as const;
const flag = { type: "boolean" } as const;

const mergeOptions = {
  base: text,
  adapter: list,
  name: list,
  samples: list,
  weight: list,
  compare: list,
  out: text,
  force: flag,
  method: text,
  schedule: text,
  "max-iter": text,
  target: text,
  alpha: text,
  "no-adaptive-weights": flag,
  padding: text,
  scale: text,
  rank: text,
  output: text,
  dtype: text,
  "max-length": text,
  device: text,
  json: flag,
  help: { type: "boolean", short: "h" },
} as const;

/** Whether a command line wants JSON, even where it cannot be parsed: its error is told as JSON then. */
export function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  return argv.slice(0, end === -1 ? argv.length : end).includes("--json");
}

/** @throws IterisError `option_invalid` with what is wrong and where the help is */
export function parseCommand(argv: readonly string[]): Command {
  const [first, ...rest] = argv;
  switch (first) {
    case undefined:
    case "-h":
    case "--help":
    case "help":
      return { command: "help", of: rest[0] === "merge" || rest[0] === "inspect" ? rest[0] : "all" };
    case "-v":
    case "-V":
    case "--version":
      return { command: "version" };
    case "merge":
      return parseMerge(rest);
    case "inspect":
      return parseInspect(rest);
    default:
      throw usage(`There is no command ${first}.`, null);
  }
}

/** What is left of Node's own message after its advice about `--`, which fits no option of this program. */
function firstSentence(thrown: unknown): string {
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return `${message.split(". ", 1)[0]?.replace(/\.$/, "") ?? message}.`;
}

function parseInspect(args: string[]): Command {
  const options = { json: flag, help: { type: "boolean", short: "h" } } as const;
  try {
    const { values, positionals } = parseArgs({ args, options, allowPositionals: true });
    if (values.help) return { command: "help", of: "inspect" };
    if (positionals.length > 0) return { command: "inspect", paths: positionals, json: values.json ?? false };
  } catch (thrown) {
    throw usage(firstSentence(thrown), "inspect");
  }
  throw usage("Give folders or files to inspect.", "inspect");
}

function parseTokens(args: string[]) {
  try {
    return parseArgs({ args, options: mergeOptions, tokens: true });
  } catch (thrown) {
    throw usage(firstSentence(thrown));
  }
}

function parseMerge(args: string[]): Command {
  const { values, tokens } = parseTokens(args);
  if (values.help) return { command: "help", of: "merge" };

  const given = tokens.flatMap((token) =>
    token.kind === "option" && token.value !== undefined ? [{ name: token.name, value: token.value }] : [],
  );
  for (const [name, option] of Object.entries(mergeOptions)) {
    if (
      option.type === "string" &&
      !("multiple" in option) &&
      given.filter((one) => one.name === name).length > 1
    ) {
      throw usage(`--${name} is given twice.`);
    }
  }
  if (values.base === undefined) throw usage("--base is missing: the folder of the base model.");
  if (values.out === undefined) throw usage("--out is missing: the folder to write to.");

  const folders = values.adapter ?? [];
  const names = pair(given, "name", folders.length);
  const samples = pair(given, "samples", folders.length);
  const weights = pair(given, "weight", folders.length);
  const compare = pair(given, "compare", folders.length);
  const compared = compare.filter((value) => value !== undefined).length;
  if (compared > 0 && compared < folders.length) {
    throw usage(`--compare needs a file for each of the ${folders.length} adapters, not for ${compared}.`);
  }
  return {
    command: "merge",
    base: values.base,
    adapters: folders.map((folder, i) => ({
      // Resolved first, so that `.` and `a/..` have a name too.
      name: names[i] ?? basename(resolve(folder)),
      folder,
      samples: samples[i],
      weight: optional(weights[i], (value) => numberOf("weight", value)),
      compare: compare[i],
    })),
    out: values.out,
    force: values.force ?? false,
    options: readOptions(values),
    device: oneOf("device", values.device ?? "auto", ["auto", "cpu", "webgpu"]),
    json: values.json ?? false,
  };
}

type Given = readonly { name: string; value: string }[];

/** The value that each adapter has of one option. */
function pair(given: Given, name: string, adapters: number): (string | undefined)[] {
  const values = given.filter((one) => one.name === name).map(({ value }) => value);
  if (values.length === adapters) return values;
  if (values.length > adapters) {
    throw usage(`--${name} is given ${values.length} times for ${adapters} adapters.`);
  }
  const paired = new Array<string | undefined>(adapters).fill(undefined);
  let adapter = -1;
  for (const one of given) {
    if (one.name === "adapter") adapter += 1;
    if (one.name !== name) continue;
    if (adapter === -1) throw usage(`--${name} ${one.value} stands before the first --adapter.`);
    if (paired[adapter] !== undefined)
      throw usage(`--${name} ${one.value} is the adapter's second --${name}.`);
    paired[adapter] = one.value;
  }
  return paired;
}

function optional<T>(value: string | undefined, read: (value: string) => T): T | undefined {
  return value === undefined ? undefined : read(value);
}

function numberOf(name: string, value: string): number {
  const number = Number(value);
  if (value.trim() === "" || !Number.isFinite(number))
    throw usage(`--${name} must be a number, not ${value}.`);
  return number;
}

function countOf(name: string, value: string): number {
  const number = numberOf(name, value);
  if (!Number.isSafeInteger(number) || number < 1) {
    throw usage(`--${name} must be a whole number above 0, not ${value}.`);
  }
  return number;
}

function oneOf<T extends string>(name: string, value: string, choices: readonly T[]): T {
  const choice = choices.find((one) => one === value);
  if (choice === undefined) throw usage(`--${name} must be ${choices.join(" or ")}, not ${value}.`);
  return choice;
}

type MergeValues = ReturnType<typeof parseTokens>["values"];

/** The options that were given; the core fills in the others. */
function readOptions(values: MergeValues): Partial<MergeOptions> {
  const alpha = optional(values.alpha, (value) => numberOf("alpha", value));
  const options: { [Name in keyof MergeOptions]: MergeOptions[Name] | undefined } = {
    method: optional(values.method, (value) =>
      oneOf("method", value, ["iteris", "linear", "task-arithmetic"]),
    ),
    schedule: optional(values.schedule, (value) => oneOf("schedule", value, ["sweep", "iterate"])),
    maxIter: optional(values["max-iter"], (value) => countOf("max-iter", value)),
    target: optional(values.target, (value) => oneOf("target", value, ["delta", "full"])),
    alpha1: alpha,
    alpha2: alpha,
    adaptiveWeights: values["no-adaptive-weights"] ? false : undefined,
    padding: optional(values.padding, (value) => oneOf("padding", value, ["exclude", "include"])),
    scale: optional(values.scale, (value) => numberOf("scale", value)),
    rank: optional(values.rank, (value) => countOf("rank", value)),
    output: optional(values.output, (value) => oneOf("output", value, ["adapter", "base"])),
    dtype: optional(values.dtype, (value) => oneOf("dtype", value, ["f32", "f16"])),
    maxLength: optional(values["max-length"], (value) => countOf("max-length", value)),
  };
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
