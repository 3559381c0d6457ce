/** `iteris-web merge …`, parsed into what it asks for. */
import { basename, resolve } from "node:path";
import type { DeviceRequest, MergeOptions, SelfOptions } from "../../lib/types.ts";
import { flag, type Given, help, list, optional, pair, readWords, text, Usage } from "./values.ts";

/** One adapter of the command line. */
export interface AdapterArgument {
  name: string;
  folder: string;
  /** A file, or how the adapter is to write its samples itself. */
  samples: string | { self: SelfOptions } | undefined;
  weight: number | undefined;
  compare: string | undefined;
}

/** What `iteris-web merge` is asked for. */
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

const usage = new Usage("merge");

const table = {
  base: text,
  adapter: list,
  name: list,
  samples: list,
  "self-prompt": list,
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
  "decoder-inputs": text,
  "max-new-tokens": text,
  positions: text,
  seed: text,
  device: text,
  json: flag,
  help,
} as const;

type Values = ReturnType<typeof readWords<typeof table>>["values"];

/** @throws IterisError `option_invalid` with what is wrong and where the help is */
export function parseMerge(args: string[]): MergeCommand | { command: "help"; of: "merge" } {
  const { values, given } = readWords(args, table, usage);
  if (values.help) return { command: "help", of: "merge" };
  if (values.base === undefined) throw usage.error("--base is missing: the folder of the base model.");
  if (values.out === undefined) throw usage.error("--out is missing: the folder to write to.");
  const options = readOptions(values);
  const adapters = readAdapters(given, values);
  refuseNonsense(options, adapters, values);
  return {
    command: "merge",
    base: values.base,
    adapters,
    out: values.out,
    force: values.force ?? false,
    options,
    device: usage.device(values.device),
    json: values.json ?? false,
  };
}

function readAdapters(given: Given, values: Values): AdapterArgument[] {
  const folders = values.adapter ?? [];
  const of = (name: string) => pair(given, name, folders.length, usage);
  const [names, samples, prompts] = [of("name"), of("samples"), of("self-prompt")];
  const [weights, compare] = [of("weight"), of("compare")];
  const compared = compare.filter((value) => value !== undefined).length;
  if (compared > 0 && compared < folders.length) {
    throw usage.error(
      `--compare needs a file for each of the ${folders.length} adapters, not for ${compared}.`,
    );
  }
  const seed = optional(values.seed, (value) => usage.count("seed", value, 0));
  return folders.map((folder, i) => ({
    // Resolved first, so that `.` and `a/..` have a name too.
    name: names[i] ?? basename(resolve(folder)),
    folder,
    samples: readSamples(samples[i], prompts[i], seed),
    weight: optional(weights[i], (value) => usage.number("weight", value)),
    compare: compare[i],
  }));
}

/** `self` is no file of samples: those have an ending. */
function readSamples(samples: string | undefined, prompt: string | undefined, seed: number | undefined) {
  if (samples !== "self") {
    if (prompt !== undefined) throw usage.error(`--self-prompt ${prompt} goes with --samples self.`);
    return samples;
  }
  return { self: { ...(prompt === undefined ? {} : { prompt }), ...(seed === undefined ? {} : { seed }) } };
}

/** Options that would do nothing beside others: whoever gives them expects something. */
function refuseNonsense(
  { method = "iteris", ...options }: Partial<MergeOptions>,
  adapters: readonly AdapterArgument[],
  values: Values,
): void {
  const writes = adapters.some(({ samples }) => typeof samples === "object");
  const compares = adapters.some(({ compare }) => compare !== undefined);
  if (values.seed !== undefined && !writes) throw usage.error("--seed goes with --samples self.");
  if (method !== "iteris") {
    if (writes) throw usage.error(`--samples self does nothing here: --method ${method} needs no samples.`);
    for (const name of ["decoder-inputs", "positions"] as const) {
      if (values[name] !== undefined) {
        throw usage.error(`--${name} does nothing here: --method ${method} reads no samples.`);
      }
    }
  }
  const reads = method === "iteris" && options.decoderInputs !== "start";
  if (options.maxNewTokens !== undefined && !reads && !compares) {
    throw usage.error("--max-new-tokens does nothing here: no adapter writes an answer.");
  }
  if (options.decoderInputs !== undefined && options.positions === "completion") {
    throw usage.error(
      "--decoder-inputs is for encoder-decoders, --positions completion for decoder-only models; give one.",
    );
  }
}

/** The options that were given; the core fills in the others. */
function readOptions(values: Values): Partial<MergeOptions> {
  const alpha = optional(values.alpha, (value) => usage.number("alpha", value));
  const count = (name: "max-iter" | "rank" | "max-length" | "max-new-tokens") =>
    optional(values[name], (value) => usage.count(name, value));
  const options: { [Name in keyof MergeOptions]: MergeOptions[Name] | undefined } = {
    method: optional(values.method, (value) =>
      usage.oneOf("method", value, ["iteris", "linear", "task-arithmetic"]),
    ),
    schedule: optional(values.schedule, (value) => usage.oneOf("schedule", value, ["sweep", "iterate"])),
    maxIter: count("max-iter"),
    target: optional(values.target, (value) => usage.oneOf("target", value, ["delta", "full"])),
    alpha1: alpha,
    alpha2: alpha,
    adaptiveWeights: values["no-adaptive-weights"] ? false : undefined,
    padding: optional(values.padding, (value) => usage.oneOf("padding", value, ["exclude", "include"])),
    scale: optional(values.scale, (value) => usage.number("scale", value)),
    rank: count("rank"),
    output: optional(values.output, (value) => usage.oneOf("output", value, ["adapter", "base"])),
    dtype: optional(values.dtype, (value) => usage.oneOf("dtype", value, ["f32", "f16"])),
    maxLength: count("max-length"),
    decoderInputs: optional(values["decoder-inputs"], (value) =>
      usage.oneOf("decoder-inputs", value, ["own", "start"]),
    ),
    maxNewTokens: count("max-new-tokens"),
    positions: optional(values.positions, (value) => usage.oneOf("positions", value, ["all", "completion"])),
  };
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
