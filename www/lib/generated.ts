/**
 * What the core tells of options, methods, devices and failures. `npm run generate` writes this file from the
 * descriptions in `src`, which are the place to change it.
 */

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
  | "scale"
  | "nonDiagonal"
  | "density"
  | "majoritySignMethod"
  | "space"
  | "svdRank"
  | "seed";

/** What the caller asks for: a device, or `auto` to have one chosen. */
export type DeviceRequest = "auto" | "cpu" | "webgpu";

/** How to merge. Whatever is left out has the value that `defaultOptions()` tells. */
export interface MergeOptions {
  /** How; `METHODS` tells of each. Those of PEFT's `add_weighted_adapter` bear its names. */
  method: MethodName;
  /**
   * `sweep` solves each layer once as the pass reaches it; `iterate` is the paper's loop. By default `sweep`.
   * Read by `iteris`.
   */
  schedule: "sweep" | "iterate";
  /** Passes of `iterate`. A whole number above 0, at most 1000. By default `3`. Read by `iteris`. */
  maxIter: number;
  /**
   * What is solved for: the adapters' deltas (`delta`), or the weights with them (`full`). By default
   * `delta`. Read by `iteris`.
   */
  target: "delta" | "full";
  /**
   * Ridge of the cross terms, relative to their norm; usually 1e-6 to 1e-2. A number from 0 to 1. By default
   * `1e-5`. Read by `iteris`.
   */
  alpha1: number;
  /**
   * Ridge of the Gram matrices, relative to their norm; usually 1e-6 to 1e-2. A number from 0 to 1. By
   * default `1e-5`. Read by `iteris`.
   */
  alpha2: number;
  /**
   * Whether lambda evens out the tasks' scales (the paper's adaptive weights). By default `true`. Read by
   * `iteris`.
   */
  adaptiveWeights: boolean;
  /**
   * What becomes of the rows of padding tokens: `exclude` leaves them out, `include` counts them as the
   * published code does. By default `exclude`. Read by `iteris`, `regmean`, `regmean++`.
   */
  padding: "exclude" | "include";
  /**
   * What an encoder-decoder's decoder reads: `own` is the sample's target or what the adapter itself writes;
   * `start` is the start token alone, as in the published code. By default `own`.
   */
  decoderInputs: "own" | "start";
  /**
   * Tokens that an adapter writes, at most, where a sample has no answer. A whole number above 0, at most
   * 16384. By default `null`: 16, and 12 of a caption.
   */
  maxNewTokens: number | null;
  /**
   * Which positions of a decoder-only model's samples are features: `all`, or those of the completion alone
   * (`completion`). By default `all`.
   */
  positions: "all" | "completion";
  /** Factor of the merged deltas. By default `1`. Read by `task_arithmetic`, `knots`. */
  scale: number;
  /**
   * RegMean's factor a of what lies off a Gram matrix's diagonal. A number from 0 to 1. By default `0.9`.
   * Read by `regmean`, `regmean++`.
   */
  nonDiagonal: number;
  /**
   * Share of each delta's numbers that is kept. A number above 0, at most 1. By default `0.5`. Read by
   * `ties`, `ties_svd`, `dare_linear`, `dare_linear_svd`, `dare_ties`, `dare_ties_svd`, `magnitude_prune`,
   * `magnitude_prune_svd`, `knots`.
   */
  density: number;
  /**
   * How a sign is elected: by the sum of the numbers (`total`), or by their count (`frequency`). By default
   * `total`. Read by `ties`, `ties_svd`, `dare_ties`, `dare_ties_svd`, `knots`.
   */
  majoritySignMethod: "total" | "frequency";
  /**
   * Which numbers are pruned and voted on: those of the `weights`, as in PEFT, or those of the adapters'
   * coordinates in the bases of all their factors (`core`: Core Space). By default `weights`. Read by `ties`,
   * `ties_svd`, `dare_linear`, `dare_linear_svd`, `dare_ties`, `dare_ties_svd`, `magnitude_prune`,
   * `magnitude_prune_svd`.
   */
  space: "weights" | "core";
  /**
   * Rank to which the method cuts its result. A whole number above 0. By default `null`: the largest among
   * the adapters, as PEFT does. Read by `svd`, `ties_svd`, `dare_linear_svd`, `dare_ties_svd`,
   * `magnitude_prune_svd`.
   */
  svdRank: number | null;
  /**
   * Seed of what is dropped at random. A whole number, 0 or more. By default `0`. Read by `dare_linear`,
   * `dare_linear_svd`, `dare_ties`, `dare_ties_svd`.
   */
  seed: number;
  /**
   * Weights of single layers, one an adapter in their order, in place of the adapters' own: by a regular
   * expression that the end of a module's path must match from a dot on, as PEFT matches `rank_pattern`; the
   * first that matches counts. By default `{}`.
   *
   * @example
   * ```ts
   * { "encoder.layer.[0-5].*": [1, 0.5] }
   * ```
   */
  layerWeights: Readonly<Record<string, readonly number[]>>;
  /**
   * Rank to which the merged adapter is cut. A whole number above 0. By default `null`: exact, the sum of the
   * ranks.
   */
  rank: number | null;
  /**
   * In place of a rank: each layer is cut to the least rank that keeps this share of its squared Frobenius
   * norm. A number above 0, at most 1. By default `null`: all of it.
   */
  energy: number | null;
  /**
   * One rank for all layers, which every program loads (`uniform`), or each layer's own (`per-layer`, in
   * PEFT's form by `rank_pattern`); `auto`: one rank in PEFT's form, each layer's own in the others. By
   * default `auto`.
   */
  ranks: "auto" | "uniform" | "per-layer";
  /**
   * Whose adapter files are written: those of `peft`, `kohya` (ComfyUI too) or `diffusers`; `auto`: of the
   * adapters' own form. By default `auto`.
   */
  format: "auto" | "peft" | "kohya" | "diffusers";
  /** What is written: an `adapter`, or the `base` model with the merge applied. By default `adapter`. */
  output: "adapter" | "base";
  /**
   * Element type of the written tensors: `f32`, `f16` or `bf16`; `auto`: in an adapter the widest of those it
   * is made of, in a base model each tensor's own. By default `auto`.
   */
  dtype: "auto" | "f32" | "f16" | "bf16";
  /**
   * Bytes of one file of a merged base model, at most, as transformers' `max_shard_size`. A whole number
   * above 0. By default `null`: as the base's files, and 4GB for one that came in a single file.
   */
  maxShardBytes: number | null;
  /**
   * Tokens that a sample is cut to. A whole number above 0. By default `null`: what tokenizer and model can
   * read, at most 512.
   */
  maxLength: number | null;
}

/** {@link MergeOptions} as a report names them, with the defaults filled in. */
export interface ReportOptions {
  method: MethodName;
  schedule: "sweep" | "iterate";
  max_iter: number;
  target: "delta" | "full";
  alpha1: number;
  alpha2: number;
  adaptive_weights: boolean;
  padding: "exclude" | "include";
  decoder_inputs: "own" | "start";
  max_new_tokens: number | null;
  positions: "all" | "completion";
  scale: number;
  non_diagonal: number;
  density: number;
  majority_sign_method: "total" | "frequency";
  space: "weights" | "core";
  svd_rank: number | null;
  seed: number;
  layer_weights: Record<string, number[]>;
  rank: number | null;
  energy: number | null;
  ranks: "auto" | "uniform" | "per-layer";
  format: "auto" | "peft" | "kohya" | "diffusers";
  output: "adapter" | "base";
  dtype: "auto" | "f32" | "f16" | "bf16";
  max_shard_bytes: number | null;
  max_length: number | null;
}

/** What there is to tell of each option of a merge but the method. */
export const OPTIONS = {
  schedule: {
    kind: "word",
    default: "sweep",
    choices: {
      sweep: {
        label: "Sweep: every layer once, in order",
      },
      iterate: {
        label: "Iterate: whole passes, as in the paper",
      },
    },
    sentence: "sweep solves each layer once as the pass reaches it; iterate is the paper's loop.",
    methods: ["iteris"],
    flag: {
      name: "schedule",
      value: "KIND",
    },
    section: "method",
    field: {
      place: "folded",
      label: "Schedule",
    },
  },
  maxIter: {
    kind: "number",
    default: 3,
    range: {
      least: 1,
      most: 1000,
      whole: true,
      words: "a whole number above 0, at most 1000",
    },
    sentence: "Passes of iterate.",
    needs: {
      schedule: "iterate",
    },
    methods: ["iteris"],
    flag: {
      name: "max-iter",
      value: "N",
    },
    section: "method",
    field: {
      place: "folded",
      label: "Passes",
    },
  },
  target: {
    kind: "word",
    default: "delta",
    choices: {
      delta: {
        label: "The adapters’ changes",
      },
      full: {
        label: "The changed weights",
      },
    },
    sentence: "What is solved for: the adapters' deltas (delta), or the weights with them (full).",
    methods: ["iteris"],
    flag: {
      name: "target",
      value: "KIND",
    },
    section: "method",
    field: {
      place: "folded",
      label: "Solve for",
    },
  },
  alpha1: {
    kind: "number",
    default: 1e-5,
    range: {
      least: 0,
      most: 1,
      words: "a number from 0 to 1",
    },
    sentence: "Ridge of the cross terms, relative to their norm; usually 1e-6 to 1e-2.",
    methods: ["iteris"],
    flag: {
      name: "alpha",
      value: "A",
      help: "ridge of both Gram matrices, relative to their norms; usually 1e-6 to 1e-2",
    },
    section: "method",
    field: {
      place: "folded",
      label: "Alpha 1 (ridge of the cross terms)",
    },
  },
  alpha2: {
    kind: "number",
    default: 1e-5,
    range: {
      least: 0,
      most: 1,
      words: "a number from 0 to 1",
    },
    sentence: "Ridge of the Gram matrices, relative to their norm; usually 1e-6 to 1e-2.",
    methods: ["iteris"],
    flag: {
      name: "alpha",
      value: "A",
    },
    section: "method",
    field: {
      place: "folded",
      label: "Alpha 2 (ridge of the Gram matrices)",
    },
  },
  adaptiveWeights: {
    kind: "flag",
    default: true,
    sentence: "Whether lambda evens out the tasks' scales (the paper's adaptive weights).",
    methods: ["iteris"],
    flag: {
      name: "no-adaptive-weights",
      help: "leave out the weights that even out the tasks' scales",
    },
    section: "method",
    field: {
      place: "folded",
      label: "Adaptive weights",
      hint: "Evens out tasks whose layers work at different scales.",
    },
  },
  padding: {
    kind: "word",
    default: "exclude",
    choices: {
      exclude: {
        label: "Left out",
      },
      include: {
        label: "Counted, as in the published code",
      },
    },
    sentence:
      "What becomes of the rows of padding tokens: exclude leaves them out, include counts them as the published code does.",
    methods: ["iteris", "regmean", "regmean++"],
    flag: {
      name: "padding",
      value: "KIND",
    },
    section: "method",
    field: {
      place: "folded",
      label: "Padding tokens",
    },
  },
  decoderInputs: {
    kind: "word",
    default: "own",
    choices: {
      own: {
        label: "Whole answers",
      },
      start: {
        label: "The start token alone",
      },
    },
    sentence:
      "What an encoder-decoder's decoder reads: own is the sample's target or what the adapter itself writes; start is the start token alone, as in the published code.",
    flag: {
      name: "decoder-inputs",
      value: "KIND",
    },
    section: "samples",
    field: {
      place: "writing",
      label: "The decoder reads",
      hint: "Whole answers are the samples’ own or what the adapter writes; the start token is the published code’s way.",
    },
  },
  maxNewTokens: {
    kind: "number",
    default: null,
    unset: "16, and 12 of a caption",
    range: {
      least: 1,
      most: 16384,
      whole: true,
      words: "a whole number above 0, at most 16384",
    },
    unit: "tokens",
    sentence: "Tokens that an adapter writes, at most, where a sample has no answer.",
    flag: {
      name: "max-new-tokens",
      value: "N",
    },
    section: "samples",
    field: {
      place: "writing",
      label: "Longest answer, in tokens",
      hint: "Where samples have no answers, the adapters write them, here and in the comparison.",
      empty: "16, captions 12",
    },
  },
  positions: {
    kind: "word",
    default: "all",
    choices: {
      all: {
        label: "All of a sample",
      },
      completion: {
        label: "The answer’s alone",
      },
    },
    sentence:
      "Which positions of a decoder-only model's samples are features: all, or those of the completion alone (completion).",
    flag: {
      name: "positions",
      value: "KIND",
    },
    section: "samples",
    field: {
      place: "writing",
      label: "Tokens that count",
      hint: "Whether a layer is also to be kept right on the prompts, or only on the answers.",
    },
  },
  scale: {
    kind: "number",
    default: 1,
    range: {
      words: "a number",
    },
    sentence: "Factor of the merged deltas.",
    methods: ["task_arithmetic", "knots"],
    flag: {
      name: "scale",
      value: "S",
    },
    section: "method",
    field: {
      place: "beside",
      label: "Scale",
    },
  },
  nonDiagonal: {
    kind: "number",
    default: 0.9,
    range: {
      least: 0,
      most: 1,
      words: "a number from 0 to 1",
    },
    sentence: "RegMean's factor a of what lies off a Gram matrix's diagonal.",
    methods: ["regmean", "regmean++"],
    flag: {
      name: "non-diagonal",
      value: "A",
    },
    section: "method",
    field: {
      place: "beside",
      label: "Non-diagonal a",
      hint: "0: diagonals alone, 1: whole Gram matrices.",
    },
  },
  density: {
    kind: "number",
    default: 0.5,
    range: {
      least: 0,
      most: 1,
      above: true,
      words: "a number above 0, at most 1",
    },
    sentence: "Share of each delta's numbers that is kept.",
    methods: [
      "ties",
      "ties_svd",
      "dare_linear",
      "dare_linear_svd",
      "dare_ties",
      "dare_ties_svd",
      "magnitude_prune",
      "magnitude_prune_svd",
      "knots",
    ],
    flag: {
      name: "density",
      value: "D",
    },
    section: "method",
    field: {
      place: "beside",
      label: "Density",
      hint: "Share of numbers kept.",
    },
  },
  majoritySignMethod: {
    kind: "word",
    default: "total",
    choices: {
      total: {
        label: "Sum",
      },
      frequency: {
        label: "Count",
      },
    },
    sentence: "How a sign is elected: by the sum of the numbers (total), or by their count (frequency).",
    methods: ["ties", "ties_svd", "dare_ties", "dare_ties_svd", "knots"],
    flag: {
      name: "majority-sign-method",
      value: "KIND",
    },
    section: "method",
    field: {
      place: "beside",
      label: "Sign by",
    },
  },
  space: {
    kind: "word",
    default: "weights",
    choices: {
      weights: {
        label: "Weights",
      },
      core: {
        label: "Core Space",
        hint: "Adapters’ coordinates in common bases: as small as the ranks, and fast.",
      },
    },
    sentence:
      "Which numbers are pruned and voted on: those of the weights, as in PEFT, or those of the adapters' coordinates in the bases of all their factors (core: Core Space).",
    methods: [
      "ties",
      "ties_svd",
      "dare_linear",
      "dare_linear_svd",
      "dare_ties",
      "dare_ties_svd",
      "magnitude_prune",
      "magnitude_prune_svd",
    ],
    flag: {
      name: "space",
      value: "KIND",
    },
    section: "method",
    field: {
      place: "beside",
      label: "Numbers of",
    },
  },
  svdRank: {
    kind: "number",
    default: null,
    unset: "the largest among the adapters, as PEFT does",
    range: {
      least: 1,
      whole: true,
      words: "a whole number above 0",
    },
    sentence: "Rank to which the method cuts its result.",
    methods: ["svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd"],
    flag: {
      name: "svd-rank",
      value: "R",
    },
    section: "method",
    field: {
      place: "beside",
      label: "Rank of the cut",
      empty: "the largest",
    },
  },
  seed: {
    kind: "number",
    default: 0,
    range: {
      least: 0,
      whole: true,
      words: "a whole number, 0 or more",
    },
    sentence: "Seed of what is dropped at random.",
    methods: ["dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd"],
    flag: {
      name: "seed",
      value: "N",
      help: "seed of what is dropped at random, and of --samples self",
    },
    section: "method",
    field: {
      place: "beside",
      label: "Seed",
    },
  },
  layerWeights: {
    kind: "weights",
    default: {},
    sentence:
      "Weights of single layers, one an adapter in their order, in place of the adapters' own: by a regular expression that the end of a module's path must match from a dot on, as PEFT matches rank_pattern; the first that matches counts.",
    flag: {
      name: "layer-weights",
      value: "'PATTERN: [1, 0.5]'",
      help: "weights of the modules whose path ends with PATTERN, a regular expression, one for each adapter; any number, the first that matches counts; also PATTERN=1,0.5",
    },
    section: "method",
  },
  rank: {
    kind: "number",
    default: null,
    unset: "exact, the sum of the ranks",
    range: {
      least: 1,
      whole: true,
      words: "a whole number above 0",
    },
    sentence: "Rank to which the merged adapter is cut.",
    flag: {
      name: "rank",
      value: "R",
    },
    section: "output",
    field: {
      place: "output",
      label: "Output rank",
    },
  },
  energy: {
    kind: "number",
    default: null,
    unset: "all of it",
    range: {
      least: 0,
      most: 1,
      above: true,
      words: "a number above 0, at most 1",
    },
    sentence:
      "In place of a rank: each layer is cut to the least rank that keeps this share of its squared Frobenius norm.",
    flag: {
      name: "energy",
      value: "E",
    },
    section: "output",
    field: {
      place: "output",
      label: "Share kept",
      hint: "Of each layer’s squared norm.",
    },
  },
  ranks: {
    kind: "word",
    default: "auto",
    choices: {
      auto: {
        label: "As the form has it",
      },
      uniform: {
        label: "One for all",
      },
      "per-layer": {
        label: "Per layer",
      },
    },
    sentence:
      "One rank for all layers, which every program loads (uniform), or each layer's own (per-layer, in PEFT's form by rank_pattern); auto: one rank in PEFT's form, each layer's own in the others.",
    flag: {
      name: "ranks",
      value: "KIND",
    },
    section: "output",
    field: {
      place: "output",
      label: "Ranks",
    },
  },
  format: {
    kind: "word",
    default: "auto",
    choices: {
      auto: {
        label: "As the adapters are",
        hint: "PEFT’s folder, or one file where the adapters are such files.",
      },
      peft: {
        label: "A LoRA adapter for PEFT",
        hint: "For PEFT, transformers, vLLM and llama.cpp.",
      },
      kohya: {
        label: "A LoRA file for ComfyUI",
        hint: "One .safetensors file, as kohya’s scripts write it.",
      },
      diffusers: {
        label: "A LoRA file for diffusers",
        hint: "One .safetensors file for load_lora_weights.",
      },
    },
    sentence:
      "Whose adapter files are written: those of peft, kohya (ComfyUI too) or diffusers; auto: of the adapters' own form.",
    flag: {
      name: "format",
      value: "KIND",
    },
    section: "output",
    field: {
      place: "output",
      label: "Result",
    },
  },
  output: {
    kind: "word",
    default: "adapter",
    choices: {
      adapter: {
        label: "An adapter",
      },
      base: {
        label: "The base model with it merged in",
        hint: "A whole model, in files of at most 4 GB.",
      },
    },
    sentence: "What is written: an adapter, or the base model with the merge applied.",
    flag: {
      name: "output",
      value: "KIND",
    },
    section: "output",
    field: {
      place: "output",
      label: "Result",
    },
  },
  dtype: {
    kind: "word",
    default: "auto",
    choices: {
      auto: {
        label: "Automatic",
      },
      f32: {
        label: "32-bit float",
      },
      f16: {
        label: "16-bit float",
      },
      bf16: {
        label: "bfloat16",
      },
    },
    sentence:
      "Element type of the written tensors: f32, f16 or bf16; auto: in an adapter the widest of those it is made of, in a base model each tensor's own.",
    flag: {
      name: "dtype",
      value: "TYPE",
    },
    section: "output",
    field: {
      place: "output",
      label: "Precision",
    },
  },
  maxShardBytes: {
    kind: "bytes",
    default: null,
    unset: "as the base's files, and 4GB for one that came in a single file",
    range: {
      least: 1,
      whole: true,
      words: "a whole number above 0",
    },
    unit: "bytes",
    sentence: "Bytes of one file of a merged base model, at most, as transformers' max_shard_size.",
    needs: {
      output: "base",
    },
    flag: {
      name: "max-shard-size",
      value: "S",
      help: "largest file of a merged base, such as 4GB or 500MB",
    },
    section: "output",
  },
  maxLength: {
    kind: "number",
    default: null,
    unset: "what tokenizer and model can read, at most 512",
    range: {
      least: 1,
      whole: true,
      words: "a whole number above 0",
    },
    unit: "tokens",
    sentence: "Tokens that a sample is cut to.",
    flag: {
      name: "max-length",
      value: "N",
    },
    section: "samples",
    field: {
      place: "folded",
      label: "Longest text, in tokens",
      hint: "Longer texts are cut.",
      empty: "the model’s limit",
    },
  },
} as const;

/** The same of how text is written. */
export const GENERATE_OPTIONS = {
  maxNewTokens: {
    kind: "number",
    default: 64,
    range: {
      least: 1,
      most: 16384,
      whole: true,
      words: "a whole number above 0, at most 16384",
    },
    unit: "tokens",
    sentence: "Tokens of an answer, at most.",
    flag: {
      name: "max-new-tokens",
      value: "N",
    },
    section: "writing",
    field: {
      place: "writing",
      label: "Longest answer, in tokens",
    },
  },
  temperature: {
    kind: "number",
    default: 0,
    range: {
      least: 0,
      most: 100,
      words: "a number from 0 to 100",
    },
    sentence:
      "0 takes the likeliest token each time; above, tokens are drawn from softmax(logits / temperature).",
    flag: {
      name: "temperature",
      value: "T",
    },
    section: "writing",
    field: {
      place: "writing",
      label: "Temperature",
      hint: "0 takes the likeliest token each time.",
    },
  },
  topP: {
    kind: "number",
    default: 1,
    range: {
      least: 0,
      most: 1,
      above: true,
      words: "a number above 0, at most 1",
    },
    sentence: "Tokens are drawn from the likeliest that together have this probability.",
    flag: {
      name: "top-p",
      value: "P",
    },
    section: "writing",
    field: {
      place: "writing",
      label: "Top-p",
      hint: "Above temperature 0: draws from the likeliest tokens that have this share.",
    },
  },
  seed: {
    kind: "number",
    default: 0,
    range: {
      least: 0,
      whole: true,
      words: "a whole number, 0 or more",
    },
    sentence: "Seed of the draws: the same one writes the same.",
    methods: ["dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd"],
    flag: {
      name: "seed",
      value: "N",
    },
    section: "writing",
    field: {
      place: "writing",
      label: "Seed",
      hint: "Above temperature 0: the same seed writes the same.",
    },
  },
} as const;

/** The same of how adapters write their own samples. */
export const SELF_OPTIONS = {
  count: {
    kind: "number",
    default: 32,
    range: {
      least: 1,
      whole: true,
      words: "a whole number above 0",
    },
    sentence: "How many.",
  },
  maxNewTokens: {
    kind: "number",
    default: 64,
    range: {
      least: 1,
      most: 16384,
      whole: true,
      words: "a whole number above 0, at most 16384",
    },
    unit: "tokens",
    sentence: "Tokens of one, at most; less where the model can read less.",
  },
  temperature: {
    kind: "number",
    default: 1,
    range: {
      least: 0,
      most: 100,
      above: true,
      words: "a number above 0, at most 100",
    },
    sentence: "How far from the likeliest; at 0 all would be the same.",
  },
  topP: {
    kind: "number",
    default: 1,
    range: {
      least: 0,
      most: 1,
      above: true,
      words: "a number above 0, at most 1",
    },
    sentence: "Tokens are drawn from the likeliest that together have this probability.",
  },
  seed: {
    kind: "number",
    default: 0,
    range: {
      least: 0,
      whole: true,
      words: "a whole number, 0 or more",
    },
    sentence: "The same seed gives the same samples.",
    methods: ["dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd"],
  },
} as const;

/** Tokens that a sample is cut to where nobody says, at most. */
export const LONGEST_SAMPLE = 512;

/** The method where none is named. */
export const DEFAULT_METHOD = "iteris";

/** Every merge method, those that look at samples first. */
export const METHODS = [
  {
    name: "iteris",
    title: "IterIS",
    hint: "Solves every layer so that each task keeps what its own adapter does there.",
    paper: "2411.15231",
    samples: true,
    options: ["schedule", "maxIter", "target", "alpha1", "alpha2", "adaptiveWeights", "padding"],
  },
  {
    name: "regmean",
    title: "RegMean",
    hint: "Solves every layer on what it sees under each adapter alone.",
    paper: "2212.09849",
    samples: true,
    options: ["nonDiagonal", "padding"],
  },
  {
    name: "regmean++",
    title: "RegMean++",
    hint: "RegMean on what a layer sees behind the layers that are already merged.",
    paper: "2508.03121",
    samples: true,
    options: ["nonDiagonal", "padding"],
  },
  {
    name: "average",
    title: "Linear average",
    hint: "The weighted mean of the adapters.",
    paper: null,
    samples: false,
    options: [],
  },
  {
    name: "linear",
    title: "Linear sum",
    hint: "The weighted sum of the adapters, exactly: without the cross terms of PEFT’s linear.",
    paper: null,
    samples: false,
    options: [],
  },
  {
    name: "task_arithmetic",
    title: "Task arithmetic",
    hint: "The weighted sum of the adapters, scaled.",
    paper: "2212.04089",
    samples: false,
    options: ["scale"],
  },
  {
    name: "cat",
    title: "Concatenation",
    hint: "The adapters’ factors side by side: the weighted sum, kept as it is.",
    paper: null,
    samples: false,
    options: [],
  },
  {
    name: "svd",
    title: "Sum, cut by SVD",
    hint: "The weighted sum, cut to the best approximation of a smaller rank.",
    paper: null,
    samples: false,
    options: ["svdRank"],
  },
  {
    name: "ties",
    title: "TIES",
    hint: "Drops small changes, lets each number’s sign be voted on, and averages those that agree.",
    paper: "2306.01708",
    samples: false,
    options: ["density", "majoritySignMethod", "space"],
  },
  {
    name: "ties_svd",
    title: "TIES, cut by SVD",
    hint: "TIES, then the best approximation of a smaller rank.",
    paper: "2306.01708",
    samples: false,
    options: ["density", "majoritySignMethod", "space", "svdRank"],
  },
  {
    name: "dare_linear",
    title: "DARE",
    hint: "Drops changes at random, scales up the rest, and sums.",
    paper: "2311.03099",
    samples: false,
    options: ["density", "seed", "space"],
  },
  {
    name: "dare_linear_svd",
    title: "DARE, cut by SVD",
    hint: "DARE, then the best approximation of a smaller rank.",
    paper: "2311.03099",
    samples: false,
    options: ["density", "seed", "space", "svdRank"],
  },
  {
    name: "dare_ties",
    title: "DARE with TIES",
    hint: "Drops changes at random, scales up the rest, and merges them by TIES’ vote.",
    paper: "2311.03099",
    samples: false,
    options: ["density", "majoritySignMethod", "seed", "space"],
  },
  {
    name: "dare_ties_svd",
    title: "DARE with TIES, cut by SVD",
    hint: "DARE with TIES, then the best approximation of a smaller rank.",
    paper: "2311.03099",
    samples: false,
    options: ["density", "majoritySignMethod", "seed", "space", "svdRank"],
  },
  {
    name: "magnitude_prune",
    title: "Magnitude pruning",
    hint: "Drops small changes and sums the rest.",
    paper: null,
    samples: false,
    options: ["density", "space"],
  },
  {
    name: "magnitude_prune_svd",
    title: "Magnitude pruning, cut by SVD",
    hint: "Magnitude pruning, then the best approximation of a smaller rank.",
    paper: null,
    samples: false,
    options: ["density", "space", "svdRank"],
  },
  {
    name: "knots",
    title: "KnOTS",
    hint: "Brings the adapters into one common basis by an SVD and merges them there by TIES.",
    paper: "2410.19735",
    samples: false,
    options: ["density", "majoritySignMethod", "scale"],
  },
] as const;

/** What the page calls each device that can be asked for. */
export const DEVICES = {
  auto: "Automatic: the quicker",
  cpu: "CPU",
  webgpu: "GPU (WebGPU)",
} as const;

/** Every stable code of a failure of the core, with what it means. */
export const ERROR_CODES = {
  cancelled: "the caller cancelled the work",
  file_truncated: "a file ends before the bytes that its own header promises",
  read_failed: "a file cannot be read",
  write_failed: "a result cannot be written",
  header_invalid: "a safetensors header or shard index is malformed",
  offsets_overlap: "two tensors of a safetensors file share bytes",
  dtype_unsupported: "a tensor's element type is not one the program reads",
  missing: "a tensor or file that is needed is absent",
  duplicate: "the same file, tensor or adapter was given twice",
  shape_mismatch: "a tensor has another shape than the base model needs",
  not_finite: "a tensor holds NaN or infinity",
  pickle_refused:
    "a Python pickle (.bin, .pt) holds more than tensors, is damaged, or stands where none is read",
  config_invalid: "a JSON file cannot be parsed or holds a value outside its range",
  adapter_unsupported: "the adapter uses a feature that would change the mathematics and is not handled",
  tensors_unaccounted: "the adapter's file holds tensors that nothing accounts for",
  model_unsupported: "the base model's architecture has no family here",
  no_adapters: "no adapter was given",
  samples_invalid: "samples are absent, empty, malformed or do not fit the model",
  option_invalid: "an option is outside its range or contradicts another",
  not_positive_definite: "a Gram matrix is not positive definite even after the ridge",
  webgpu_unavailable: "WebGPU was asked for and cannot be used",
  device_limit: "the model or the samples are larger than the device can hold",
  out_of_memory: "memory that the work needs is not to be had",
  device_lost: "the GPU went away while it was working",
  internal: "a fault of the program itself",
} as const;
