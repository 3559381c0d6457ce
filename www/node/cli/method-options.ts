/**
 * The options that say how to merge: of `merge`, and of `compare`, which merges in several ways.
 *
 * Whoever gives an option expects something of it, so one that would do nothing where it stands is refused. Which
 * method looks at which option is told by `OPTIONS` alone.
 */
import {
  type FlagKinds,
  METHODS,
  type MergeOptions,
  type MethodFacts,
  methodNamed,
  OPTIONS,
  type OptionFacts,
  type OptionName,
  optionNames,
  readLayerWeights,
} from "../index.ts";
import { flag, list, text, type Usage } from "./values.ts";

/** Every flag of this kind with the options that it sets, in the order of the options. */
export const flags: ReadonlyMap<string, readonly OptionName[]> = flagsOf();

function flagsOf(): Map<string, OptionName[]> {
  const all = new Map<string, OptionName[]>();
  for (const name of optionNames) {
    const word = OPTIONS[name].flag?.name;
    if (word !== undefined) all.set(word, [...(all.get(word) ?? []), name]);
  }
  return all;
}

const readAs = ({ kind }: OptionFacts) => (kind === "flag" ? flag : kind === "weights" ? list : text);

/** The flags as the words of a command line are taken apart by, without the choice of the method itself. */
export const methodOptions = Object.fromEntries(
  [...flags].flatMap(([word, [name]]) => (name === undefined ? [] : [[word, readAs(OPTIONS[name])]])),
) as {
  readonly [Flag in keyof FlagKinds]: FlagKinds[Flag] extends "flag"
    ? typeof flag
    : FlagKinds[Flag] extends "weights"
      ? typeof list
      : typeof text;
};

/** Switches that say in one word what such a flag says with a value; the help tells what each stands for. */
export const shorthands: Readonly<Record<string, readonly [flag: string, value: string]>> = {
  "--uniform-rank": ["--ranks", "uniform"],
};

/** The words of a command line with every shorthand written out. */
export const writeOut = (args: readonly string[]): string[] =>
  args.flatMap((word) => shorthands[word] ?? [word]);

/** Such flags as they were given. */
export type MethodValues = Readonly<Record<string, unknown>>;

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
  const options = [...flags].flatMap(([word, names]) => {
    const given = values[word];
    if (given === undefined || given === false) return [];
    // The seed of methods that draw nothing is that of the samples that adapters write.
    if (word === "seed" && !methods.some((method) => method.options.includes("seed"))) return [];
    return names.map((name) => [name, readOption(name, word, given, adapters, usage)]);
  });
  return Object.fromEntries(options);
}

function readOption(
  name: OptionName,
  word: string,
  given: unknown,
  adapters: number,
  usage: Usage,
): MergeOptions[OptionName] {
  const { kind, default: usual, range, choices = {} } = OPTIONS[name];
  switch (kind) {
    case "flag":
      return usual === false;
    case "weights":
      return readPatterns(word, given as string[], adapters, usage);
    case "bytes":
      return usage.bytes(word, String(given));
    case "word":
      return usage.oneOf(word, String(given), Object.keys(choices)) as MergeOptions[OptionName];
    case "number":
      return usage.inRange(word, String(given), range);
  }
}

function readPatterns(
  word: string,
  given: readonly string[],
  adapters: number,
  usage: Usage,
): Record<string, readonly number[]> {
  const all: Record<string, readonly number[]> = {};
  for (const value of given) {
    const read = readLayerWeights(value, adapters);
    if ("problem" in read) throw usage.error(`--${word} ${value}: ${read.problem}.`);
    if (Object.hasOwn(all, read.pattern)) throw usage.error(`--${word} is given twice for ${read.pattern}.`);
    all[read.pattern] = read.weights;
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
  for (const [word, [name]] of flags) {
    const readers = name === undefined ? undefined : OPTIONS[name].methods;
    if (values[word] === undefined || readers === undefined) continue;
    if (methods.some((method) => readers.includes(method.name))) continue;
    if (name === "seed" && samples) {
      if (writes) continue;
      throw usage.error("--seed goes with --samples self.");
    }
    throw usage.error(`--${word} does nothing here: it is for ${readers.join(", ")}, not for ${named}.`);
  }
  refuseAlone(values, options, usage);
  if (!samples) refuseWithoutSamples(values, around, usage);
  if (options.output === "base") {
    for (const name of ["format", "ranks"] as const) {
      if (values[name] === undefined) continue;
      throw usage.error(`--${name} does nothing here: --output base writes a model, no adapter.`);
    }
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

/** Options that do nothing but beside a word of another one. */
function refuseAlone(values: MethodValues, options: Partial<MergeOptions>, usage: Usage): void {
  for (const [word, [name]] of flags) {
    if (name === undefined || values[word] === undefined) continue;
    for (const [other, needed] of Object.entries(OPTIONS[name].needs ?? {}) as [OptionName, string][]) {
      if ((options[other] ?? OPTIONS[other].default) === needed) continue;
      throw usage.error(`--${word} does nothing without --${OPTIONS[other].flag?.name ?? other} ${needed}.`);
    }
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
