/** The methods of merging, and their options as a caller gives them. */

/** The name of a merge method. Those that PEFT has too bear PEFT's names. */
export type MethodName =
  | "iteris"
  | "regmean"
  | "regmean++"
  | "average"
  | "linear"
  | "task_arithmetic"
  | "cat"
  | "svd"
  | "ties"
  | "ties_svd"
  | "dare_linear"
  | "dare_linear_svd"
  | "dare_ties"
  | "dare_ties_svd"
  | "magnitude_prune"
  | "magnitude_prune_svd"
  | "knots";

/** An option that belongs to some methods only. */
export type MethodOption =
  | "schedule"
  | "maxIter"
  | "target"
  | "alpha1"
  | "alpha2"
  | "adaptiveWeights"
  | "padding"
  | "nonDiagonal"
  | "scale"
  | "density"
  | "majoritySignMethod"
  | "svdRank"
  | "seed";

/** Whose adapter files: PEFT's, kohya's and ComfyUI's, or diffusers'. */
export type AdapterFormat = "peft" | "kohya" | "diffusers";

/** How to merge. Whatever is left out has the value that `defaultOptions()` tells. */
export interface MergeOptions {
  /** How; `METHODS` tells of each. Those of PEFT's `add_weighted_adapter` bear its names. */
  method: MethodName;
  /** `sweep` solves each layer once as the pass reaches it; `iterate` is the paper's loop. */
  schedule: "sweep" | "iterate";
  /** Passes of `iterate`, at least 1. */
  maxIter: number;
  /** `delta` solves for the adapters' deltas, `full` for the weights with them. */
  target: "delta" | "full";
  /** Ridge of the cross terms, relative to their norm. */
  alpha1: number;
  /** Ridge of the Gram matrices, relative to their norm. */
  alpha2: number;
  /** Whether lambda evens out the tasks' scales (the paper's adaptive weights). */
  adaptiveWeights: boolean;
  /** Whether rows of padding tokens count; `include` only compares with the published code. */
  padding: "exclude" | "include";
  /** Factor of the merged deltas in `task_arithmetic` and `knots`. */
  scale: number;
  /** RegMean's factor a of what lies off a Gram matrix's diagonal, 0 to 1. */
  nonDiagonal: number;
  /** Share of each delta's numbers that `ties`, `dare_*`, `magnitude_prune` and `knots` keep, above 0 to 1. */
  density: number;
  /** How `ties` and what builds on it elect a sign: by the sum of the numbers, or by their count. */
  majoritySignMethod: "total" | "frequency";
  /** Rank to which `svd` and `*_svd` cut; `null` takes the largest rank among the adapters, as PEFT does. */
  svdRank: number | null;
  /** Of the numbers that `dare_*` drops. */
  seed: number;
  /**
   * Weights of single layers, one an adapter in their order, in place of the adapters' own: by a regular expression
   * that the end of a module's path must match from a dot on, as PEFT matches `rank_pattern`; the first that
   * matches counts.
   *
   * @example
   * ```ts
   * { "encoder.layer.[0-5].*": [1, 0.5] }
   * ```
   */
  layerWeights: Readonly<Record<string, readonly number[]>>;
  /** Rank of the merged adapter; `null` keeps the exact one, or what `energy` asks for. */
  rank: number | null;
  /** Share of each merged delta's squared Frobenius norm that the written rank must keep, above 0 to 1; `null`: all. */
  energy: number | null;
  /** One rank for all layers, which every program loads, or each layer's own (`rank_pattern` of PEFT). */
  ranks: "uniform" | "per-layer";
  /** Whose adapter files are written; `auto`: those of the adapters' own form. */
  format: AdapterFormat | "auto";
  /** A PEFT adapter, or the base model with the adapter merged in. */
  output: "adapter" | "base";
  /** Element type of the written tensors; `auto`: f32 for an adapter, for a base model each tensor's own. */
  dtype: "auto" | "f32" | "f16" | "bf16";
  /**
   * Bytes of one file of a merged base model, at most, as transformers' `max_shard_size`; `null` keeps the files that
   * the base has, and splits one of over 4 GB.
   */
  maxShardBytes: number | null;
  /** Tokens a sample is cut to; `null` takes what tokenizer and model can read, at most 512. */
  maxLength: number | null;
  /**
   * What an encoder-decoder's decoder reads: the sample's `target`, or what the adapter itself writes (`own`),
   * or the start token alone (`start`), which only compares with the published code.
   */
  decoderInputs: "own" | "start";
  /** Tokens an adapter writes, at most, where a sample has no `target` or `completion`. */
  maxNewTokens: number;
  /** Which positions of a decoder-only model's samples are features: all, or the completion's alone. */
  positions: "all" | "completion";
}
