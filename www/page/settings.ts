/**
 * The options of a merge as the form holds them. The defaults are the core's; they are repeated here
 * because the form must show them before the core is loaded, and a test holds the two together.
 */
import { methodFacts } from "../lib/methods.ts";
import type { DeviceRequest, MergeOptions, ModelKind } from "../lib/index.ts";

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
  format: "peft",
  output: "adapter",
  dtype: "auto",
  maxLength: null,
  decoderInputs: "own",
  maxNewTokens: 16,
  positions: "all",
  device: "auto",
};

/**
 * What `merge()` is given. A choice that was made for a base model of another kind does not count: its field is
 * not shown any more, so nobody could take it back.
 */
export function mergeOptions({ device: _, ...options }: Settings, kind?: ModelKind): MergeOptions {
  return {
    ...options,
    decoderInputs: kind === "encoder-decoder" ? options.decoderInputs : DEFAULTS.decoderInputs,
    positions: kind === "decoder" ? options.positions : DEFAULTS.positions,
  };
}

/** Whether the chosen method looks at what the layers see. */
export const needsSamples = (settings: Settings): boolean => methodFacts(settings.method).samples;

/** What the page calls a method. */
export const methodTitle = (method: MergeOptions["method"]): string => methodFacts(method).title;
