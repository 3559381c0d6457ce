/**
 * The options of a merge as the form holds them. The defaults are the core's; they are repeated here
 * because the form must show them before the core is loaded, and a test holds the two together.
 */
import type { DeviceRequest, MergeOptions, ModelKind } from "../lib/index.ts";
import { type MethodName, type MethodOption, methodFacts } from "../lib/index.ts";

/** All options of a merge, and where it runs. */
export interface Settings extends MergeOptions {
  device: DeviceRequest;
}

export const DEFAULTS: Readonly<Settings> = {
  method: "iteris",
  schedule: "sweep",
  maxIter: 3,
  target: "delta",
  alpha1: 1e-5,
  alpha2: 1e-5,
  adaptiveWeights: true,
  padding: "exclude",
  scale: 1,
  nonDiagonal: 0.9,
  density: 0.5,
  majoritySignMethod: "total",
  svdRank: null,
  seed: 0,
  layerWeights: {},
  rank: null,
  energy: null,
  ranks: "uniform",
  format: "auto",
  output: "adapter",
  dtype: "auto",
  maxShardBytes: null,
  maxLength: null,
  decoderInputs: "own",
  maxNewTokens: 16,
  positions: "all",
  device: "auto",
};

/** Options that every method looks at; the others belong to those that name them in `METHODS`. */
const OF_A_METHOD: readonly MethodOption[] = [
  "schedule",
  "maxIter",
  "target",
  "alpha1",
  "alpha2",
  "adaptiveWeights",
  "padding",
  "nonDiagonal",
  "scale",
  "density",
  "majoritySignMethod",
  "svdRank",
  "seed",
];

/**
 * What `merge()` is given. A choice that was made for another method or for a base model of another kind does not
 * count: its field is not shown any more, so nobody could take it back.
 */
export function mergeOptions({ device: _, ...options }: Settings, kind?: ModelKind): MergeOptions {
  const own = methodFacts(options.method).options;
  const others = OF_A_METHOD.filter((option) => !own.includes(option));
  return {
    ...options,
    ...Object.fromEntries(others.map((option) => [option, DEFAULTS[option]])),
    decoderInputs: kind === "encoder-decoder" ? options.decoderInputs : DEFAULTS.decoderInputs,
    positions: kind === "decoder" ? options.positions : DEFAULTS.positions,
    // Whose adapter files, and whether each layer has a rank of its own, is said of adapters only.
    format: options.output === "adapter" ? options.format : DEFAULTS.format,
    ranks: options.output === "adapter" ? options.ranks : DEFAULTS.ranks,
  };
}

/** Whether one of the methods looks at what the layers see. */
export const needsSamples = (methods: readonly MethodName[]): boolean =>
  methods.some((method) => methodFacts(method).samples);

/** The options that at least one of the methods looks at, and that others may not. */
export const optionsOf = (methods: readonly MethodName[]): ReadonlySet<MethodOption> =>
  new Set(methods.flatMap((method) => methodFacts(method).options));

/** What the page calls a method. */
export const methodTitle = (method: MethodName): string => methodFacts(method).title;

/** How much of the merged change is written. */
export type RankChoice = "full" | "rank" | "energy";

export const rankChoice = ({ rank, energy }: Pick<Settings, "rank" | "energy">): RankChoice =>
  rank !== null ? "rank" : energy !== null ? "energy" : "full";
