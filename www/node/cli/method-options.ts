/**
 * The options that say how to merge: of `merge`, and of `compare`, which merges in several ways.
 *
 * Whoever gives an option expects something of it, so one that would do nothing where it stands is refused. Which
 * method looks at which option is told by `METHODS` alone.
 */
import {
  METHODS,
  type MergeOptions,
  type MethodFacts,
  type MethodOption,
  methodNamed,
  optionChoices,
} from "../index.ts";
import { flag, list, optional, text, type Usage } from "./values.ts";

/** All options of this kind, without the choice of the method itself. */
export const methodOptions = {
  schedule: text,
  "max-iter": text,
  target: text,
  alpha: text,
  "no-adaptive-weights": flag,
  padding: text,
  "non-diagonal": text,
  scale: text,
  density: text,
  "majority-sign-method": text,
  "svd-rank": text,
  seed: text,
  "layer-weights": list,
  rank: text,
  energy: text,
  ranks: text,
  format: text,
  output: text,
  dtype: text,
  "max-shard-size": text,
  "max-length": text,
  "decoder-inputs": text,
  "max-new-tokens": text,
  positions: text,
} as const;

/** Which of them belong to some methods only, and as what. */
export const ownOptions = {
  schedule: "schedule",
  "max-iter": "maxIter",
  target: "target",
  alpha: "alpha1",
  "no-adaptive-weights": "adaptiveWeights",
  padding: "padding",
  "non-diagonal": "nonDiagonal",
  scale: "scale",
  density: "density",
  "majority-sign-method": "majoritySignMethod",
  "svd-rank": "svdRank",
  seed: "seed",
} as const satisfies { readonly [Name in keyof typeof methodOptions]?: MethodOption };

/** Such options as they were given. */
export type MethodValues = {
  [Name in keyof typeof methodOptions]?:
    | ((typeof methodOptions)[Name] extends { type: "boolean" }
        ? boolean
        : (typeof methodOptions)[Name] extends { multiple: true }
          ? string[]
          : string)
    | undefined;
};

/** The method of that name. */
export function readMethod(option: string, name: string, usage: Usage): MethodFacts {
  const method = methodNamed(name);
  if (method !== undefined) return method;
  throw usage.error(`--${option} must be one of ${METHODS.map((one) => one.name).join(", ")}, not ${name}.`);
}

/** The options that were given; the core fills in the others. */
export function readMethodOptions(
  values: MethodValues,
  methods: readonly MethodFacts[],
  adapters: number,
  usage: Usage,
): Partial<MergeOptions> {
  const number = (name: "alpha" | "non-diagonal" | "scale" | "density" | "energy") =>
    optional(values[name], (value) => usage.number(name, value));
  const count = (name: "max-iter" | "svd-rank" | "rank" | "max-length" | "max-new-tokens") =>
    optional(values[name], (value) => usage.count(name, value));
  const choice = <T extends string>(name: keyof MethodValues & string, choices: readonly T[]) =>
    optional(values[name] as string | undefined, (value) => usage.oneOf(name, value, choices));
  const alpha = number("alpha");
  const drawn = methods.some(({ options }) => options.includes("seed"));
  const seed = optional(values.seed, (value) => usage.count("seed", value, 0));
  const options: { [Name in Exclude<keyof MergeOptions, "method">]: MergeOptions[Name] | undefined } = {
    schedule: choice("schedule", optionChoices.schedule),
    maxIter: count("max-iter"),
    target: choice("target", optionChoices.target),
    alpha1: alpha,
    alpha2: alpha,
    adaptiveWeights: values["no-adaptive-weights"] ? false : undefined,
    padding: choice("padding", optionChoices.padding),
    nonDiagonal: number("non-diagonal"),
    scale: number("scale"),
    density: number("density"),
    majoritySignMethod: choice("majority-sign-method", optionChoices.majoritySignMethod),
    svdRank: count("svd-rank"),
    // Otherwise it is that of the samples that adapters write.
    seed: drawn ? seed : undefined,
    layerWeights: readLayerWeights(values["layer-weights"], adapters, usage),
    rank: count("rank"),
    energy: number("energy"),
    ranks: choice("ranks", optionChoices.ranks),
    format: choice("format", optionChoices.format),
    output: choice("output", optionChoices.output),
    dtype: choice("dtype", optionChoices.dtype),
    maxShardBytes: optional(values["max-shard-size"], (value) => usage.bytes("max-shard-size", value)),
    maxLength: count("max-length"),
    decoderInputs: choice("decoder-inputs", optionChoices.decoderInputs),
    maxNewTokens: count("max-new-tokens"),
    positions: choice("positions", optionChoices.positions),
  };
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

/** `PATTERN: [1, 0.5]` or `PATTERN=1,0.5`; the pattern ends at the last mark, since it may hold one itself. */
function readLayerWeights(
  given: string[] | undefined,
  adapters: number,
  usage: Usage,
): Record<string, number[]> | undefined {
  if (given === undefined) return undefined;
  const all: Record<string, number[]> = {};
  for (const value of given) {
    const [, pattern, numbers] =
      /^(.*\S)\s*:\s*\[([^[\]]*)\]\s*$/.exec(value) ?? /^(.*\S)\s*=([^=]*)$/.exec(value) ?? [];
    if (pattern === undefined || numbers === undefined) {
      throw usage.error(`--layer-weights is written 'PATTERN: [1, 0.5]' or PATTERN=1,0.5, not ${value}.`);
    }
    const weights = numbers.split(",").map((number) => usage.number("layer-weights", number.trim()));
    if (weights.length !== adapters) {
      throw usage.error(`--layer-weights ${value} has ${weights.length} weights for ${adapters} adapters.`);
    }
    const name = pattern.trim();
    if (Object.hasOwn(all, name)) throw usage.error(`--layer-weights is given twice for ${name}.`);
    all[name] = weights;
  }
  return all;
}

/** Where options stand: beside which others they are to do something. */
export interface Surroundings {
  methods: readonly MethodFacts[];
  /** How the command line names the methods, for example `--method ties`. */
  named: string;
  /** All options that hold, those of a recipe among them. */
  options: Partial<MergeOptions>;
  /** Whether an adapter writes its own samples. */
  writes: boolean;
  /** Whether there are texts to compare on. */
  compares: boolean;
}

/** @throws IterisError `option_invalid` for an option that would do nothing */
export function refuseUseless(values: MethodValues, around: Surroundings, usage: Usage): void {
  const { methods, named, options, writes, compares } = around;
  const samples = methods.some((method) => method.samples);
  for (const [name, property] of Object.entries(ownOptions) as [keyof typeof ownOptions, MethodOption][]) {
    if (values[name] === undefined || methods.some((method) => method.options.includes(property))) continue;
    if (name === "seed" && samples) {
      if (writes) continue;
      throw usage.error("--seed goes with --samples self.");
    }
    const those = METHODS.filter((method) => method.options.includes(property)).map((method) => method.name);
    throw usage.error(`--${name} does nothing here: it is for ${those.join(", ")}, not for ${named}.`);
  }
  if (values["max-iter"] !== undefined && options.schedule !== "iterate") {
    throw usage.error("--max-iter does nothing without --schedule iterate.");
  }
  if (!samples) refuseWithoutSamples(values, around, usage);
  if (options.output === "base") {
    for (const name of ["format", "ranks"] as const) {
      if (values[name] === undefined) continue;
      throw usage.error(`--${name} does nothing here: --output base writes a model, no adapter.`);
    }
  }
  if (values["max-shard-size"] !== undefined && options.output !== "base") {
    throw usage.error("--max-shard-size does nothing without --output base: an adapter is one file.");
  }
  const reads = samples && options.decoderInputs !== "start";
  if (values["max-new-tokens"] !== undefined && !reads && !compares) {
    throw usage.error("--max-new-tokens does nothing here: no adapter writes an answer.");
  }
  if (values["decoder-inputs"] !== undefined && options.positions === "completion") {
    throw usage.error(
      "--decoder-inputs is for encoder-decoders, --positions completion for decoder-only models; give one.",
    );
  }
}

function refuseWithoutSamples(values: MethodValues, { named, writes, compares }: Surroundings, usage: Usage) {
  if (writes) throw usage.error(`--samples self does nothing here: ${named} needs no samples.`);
  for (const name of ["decoder-inputs", "positions"] as const) {
    if (values[name] !== undefined) {
      throw usage.error(`--${name} does nothing here: ${named} reads no samples.`);
    }
  }
  if (values["max-length"] !== undefined && !compares) {
    throw usage.error(`--max-length does nothing here: ${named} reads no samples.`);
  }
}
