/**
 * The public vocabulary of the package: what goes in, what comes out, in which units.
 *
 * Names follow PEFT and the IterIS paper. JavaScript objects are camelCase; `MergeReport` is snake_case
 * because it is, byte for byte, the `merge_report.json` that is written beside a merged adapter.
 */

import type { MethodName } from "./methods.ts";
import type { CompareReport, MergeReport } from "./reports.ts";

export type * from "./reports.ts";

/** A device a merge can run on. */
export type DeviceKind = "cpu" | "webgpu";

/** What the caller asks for: a device, or `auto` to have one chosen. */
export type DeviceRequest = DeviceKind | "auto";

/** A file in memory or on disk with the name it has inside its folder. */
export interface NamedBlob {
  /** Path inside the folder, `/` between the parts, for example `config.json`. */
  name: string;
  blob: Blob;
}

/** A file at an address the caller chose; read by HTTP range requests. */
export interface NamedUrl {
  /** Path inside the folder; by default the last part of the address. */
  name?: string;
  url: string | URL;
}

/** One file of a folder. */
export type FileInput = File | NamedBlob | NamedUrl | FileSystemFileHandle | FileSystemDirectoryHandle;

/**
 * The files of a base model or of an adapter: a directory handle (walked with everything below it), the
 * `FileList` of a file picker, or a list. A folder name that all paths share is left out.
 */
export type FilesInput = FileSystemDirectoryHandle | FileList | readonly FileInput[];

/** A text, as it stands in a `.jsonl` file. A decoder-only model reads it through; an encoder encodes it. */
export interface TextSample {
  text: string;
  /** The second text of a pair (entailment, paraphrase and the like). */
  text_pair?: string;
  /** For an encoder-decoder: what is to be written; without it the adapter writes its own answer. */
  target?: string;
  /**
   * The right answer; only a comparison looks at it. For a classifier the class by name or index, for a model that
   * writes what is to be written (a space comes before it where the prompt ends without one); there a `target` or
   * a `completion` counts as the label too.
   */
  label?: string | number | null;
}

/** What a decoder-only model is asked, and what it is to write; an encoder-decoder takes it as `text` and `target`. */
export interface PromptSample {
  prompt: string;
  /** Exactly what follows the prompt, a leading space too; without it the adapter writes its own answer. */
  completion?: string;
  label?: string | number | null;
}

/** One turn of a chat. */
export interface ChatMessage {
  /** `system`, `user` or `assistant`, or another one that the tokenizer's chat template knows. */
  role: string;
  content: string;
}

/** A chat, which goes through the tokenizer's chat template. A last turn of the assistant is the completion. */
export interface ChatSample {
  messages: readonly ChatMessage[];
  label?: string | number | null;
}

/** One sample. Kinds may be mixed within a file. */
export type Sample = TextSample | PromptSample | ChatSample;

/**
 * Samples of one task: a file (`.txt` with one text a line, `.jsonl`, `.json`, `.csv`, `.tsv`), or the samples
 * themselves.
 */
export type SamplesInput =
  | File
  | Blob
  | NamedBlob
  | NamedUrl
  | FileSystemFileHandle
  | readonly string[]
  | readonly Sample[];

/** How an adapter of a generative model writes its own calibration text. */
export interface SelfOptions {
  /** Texts; default 32. */
  count?: number | undefined;
  /** What every text begins with; by default the beginning-of-sequence token alone. */
  prompt?: string | undefined;
  /** Default 0; the same seed gives the same texts. */
  seed?: number | undefined;
  /** Of the sampling, above 0; default 1, the model's own distribution. */
  temperature?: number | undefined;
  /** Nucleus of the sampling, above 0 to 1; default 1, all of it. */
  topP?: number | undefined;
  /** Tokens a text, at most; default 64, or what the model can read if that is less. */
  maxNewTokens?: number | undefined;
}

/** Instead of samples: the adapter writes them itself. */
export type SelfInput = "self" | { self: true | SelfOptions };

/** One adapter to be merged. */
export interface AdapterInput<Files = FilesInput, Samples = SamplesInput> {
  /** The task's name in the report and in `heads/`; adapters must differ in it. */
  name: string;
  /**
   * `adapter_config.json`, `adapter_model.safetensors` and, if there is one, `labels.json`; or the one
   * `.safetensors` file of kohya, ComfyUI or diffusers.
   */
  files: Files;
  /**
   * Unlabelled calibration samples of the task, about 50. IterIS needs them, averages do not. An adapter of a
   * generative model can write them itself: `"self"`.
   */
  samples?: Samples | SelfInput | undefined;
  /** The adapter's weight in the merge, default 1; above 0 where a method reads samples, else also below. */
  weight?: number | undefined;
  /**
   * Samples that were not used for calibration. With them on every adapter, `merge` also compares the
   * merged adapter and a linear average with the task's own adapter; `compareMethods` compares on them.
   */
  heldOut?: Samples | undefined;
}

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

/** A step of a running merge or comparison. */
export interface Progress {
  /** `generate`: an adapter, or a model of `generate()`, is writing; steps are tokens then. */
  stage: "load" | "generate" | "forward" | "gram" | "solve" | "write" | "compare";
  /** The module at work, empty where a stage has none. */
  layer: string;
  /** Steps done, of `total`. */
  done: number;
  total: number;
  /** Since the work began. */
  seconds: number;
  /** In `compareMethods`: whose merge it is, by its name in the result. */
  variant?: string | undefined;
}

/** What `chooseDevice` found. */
export interface DeviceChoice {
  kind: DeviceKind;
  /** One sentence that a person can read: why this device. */
  why: string;
  /** The GPU that was looked at; `null` where there is none. */
  adapter: GpuAdapterInfo | null;
}

/** The words a WebGPU adapter describes itself with; browsers leave many of them empty. */
export interface GpuAdapterInfo {
  vendor: string;
  architecture: string;
  device: string;
  description: string;
  /** A program that plays a GPU on the processor. */
  software: boolean;
  /** The most bytes of one buffer that a kernel can use. */
  bufferBytes: number;
}

/**
 * `encoder` (BERT and its kin), `decoder` (Llama, GPT-2, …: decoder-only), `encoder-decoder` (T5, BART), or `weights`:
 * a checkpoint whose model cannot be run here, for methods that need no samples.
 */
export type ModelKind = "encoder" | "decoder" | "encoder-decoder" | "weights";

/** What a base model's files say about it. */
export interface BaseFacts {
  /** The program's family, for example `bert`. */
  family: string;
  /** What the model reads and writes. */
  kind: ModelKind;
  /** Whether it can write text: it has a language-modelling head. */
  generates: boolean;
  /** The class of the checkpoint, for example `BertModel`. */
  architecture: string;
  parameters: number;
  hiddenSize: number;
  layers: number;
  heads: number;
  /** Tokens the model can read at once. */
  maxLength: number;
  vocabSize: number;
  dtype: string;
  bytes: number;
  /** Whether `tokenizer.json` is among the files. */
  hasTokenizer: boolean;
  hasPooler: boolean;
}

/** What an adapter's files say about it. */
export interface AdapterFacts {
  /** Whose files they are. */
  format: AdapterFormat;
  /** What it has beyond plain factors of linear layers, for example `DoRA` or `convolutions`. */
  features: string[];
  /** Whether its change can only be told with the base model's weights at hand. */
  needsBase: boolean;
  peftType: string;
  taskType: string | null;
  /** The largest of `ranks`. */
  rank: number;
  /** Every rank that occurs, ascending. */
  ranks: number[];
  alpha: number;
  /** `alpha / rank`, or `alpha / sqrt(rank)` with rank-stabilised LoRA. */
  scaling: number;
  /** Targeted modules by the end of their names, for example `query`. */
  targets: string[];
  /** How many modules are targeted. */
  modules: number;
  parameters: number;
  /** Whole tensors saved with the adapter (classifier heads). */
  heads: { name: string; shape: number[] }[];
  /** The base model it was trained on, as its configuration names it. */
  baseName: string | null;
  labels: string[] | null;
  dtype: string;
  bytes: number;
}

/** What a file of samples holds. */
export interface SamplesFacts {
  /** The file's name, `null` for texts given directly. */
  name: string | null;
  format: SamplesFormat;
  count: number;
  /** How many of them have a label. */
  labelled: number;
  /** The labels that occur, sorted. */
  labels: (string | number)[];
  /** How many of them are pairs. */
  pairs: number;
  /** How many are of each kind. */
  kinds: { text: number; prompt: number; messages: number };
  /** How many of them have an answer: a `target`, a `completion`, or a last turn of the assistant. */
  answers: number;
  /** Of the longest sample. */
  longestCharacters: number;
  /** The first three texts. */
  preview: string[];
}

/** How samples are written down. */
export type SamplesFormat = "txt" | "jsonl" | "json" | "csv" | "tsv" | "list";

/** A file that was made. */
export interface OutputFile {
  /** For example `adapter_model.safetensors` or `heads/emoint.safetensors`. */
  name: string;
  blob: Blob;
}

/** What every long-running call takes. */
export interface RunControl {
  /** Default `auto`. */
  device?: DeviceRequest | undefined;
  /** Called at most about 20 times a second. */
  onProgress?: ((progress: Progress) => void) | undefined;
  /** Cancels within one layer; the call rejects with the code `cancelled`. */
  signal?: AbortSignal | undefined;
}

/** What `merge` takes. */
export interface MergeRequest<Files = FilesInput, Samples = SamplesInput> extends RunControl {
  /**
   * `config.json`, the safetensors files and the tokenizer's files. May be left out where neither the method nor an
   * adapter needs it.
   */
  base?: Files | undefined;
  adapters: readonly AdapterInput<Files, Samples>[];
  options?: Partial<MergeOptions> | undefined;
}

/** What `merge` resolves to. */
export interface MergeResult {
  /** The merged adapter (or model), the tasks' heads, and `merge_report.json`. */
  files: OutputFile[];
  report: MergeReport;
  device: DeviceChoice;
  /** There if the adapters came with held-out samples. */
  comparison: CompareReport | null;
}

/** What `compare` takes. `samples` of an adapter are the ones compared on. */
export interface CompareRequest<Files = FilesInput, Samples = SamplesInput> extends RunControl {
  base: Files;
  adapters: readonly (Omit<AdapterInput<Files, Samples>, "heldOut" | "samples"> & {
    samples?: Samples | undefined;
  })[];
  /** Merged adapters, for example the files of two merges, each with a name for the table. */
  merged: readonly { name: string; files: Files }[];
  options?: Pick<Partial<MergeOptions>, "maxLength" | "maxNewTokens"> | undefined;
}

/** What `compare` resolves to. */
export interface CompareResult {
  report: CompareReport;
  device: DeviceChoice;
}

/** One merge of several: a method with options of its own. */
export interface MethodVariant {
  /** Its name in the result and in the comparison; by default the method's. */
  name?: string | undefined;
  /** `method` and whatever is to differ from the options that all share. */
  options: Partial<MergeOptions>;
}

/** What `compareMethods` takes: one set of inputs, and several ways to merge them. */
export interface CompareMethodsRequest<Files = FilesInput, Samples = SamplesInput> extends RunControl {
  /** `config.json`, the safetensors files and the tokenizer's files. */
  base: Files;
  /**
   * `samples` calibrate the methods that need any; `heldOut` are what all are compared on. Without `heldOut` an
   * adapter's `samples` serve for both, which a note of the report says.
   */
  adapters: readonly AdapterInput<Files, Samples>[];
  /** Methods by name, or with options of their own; their names must differ. */
  methods: readonly (MethodName | MethodVariant)[];
  /** Adapters that are merged already, to be compared along. */
  merged?: readonly { name: string; files: Files }[] | undefined;
  /** What all merges share; each method takes from it what it looks at. */
  options?: Omit<Partial<MergeOptions>, "method"> | undefined;
}

/** One merge of `compareMethods`. */
export interface MergedVariant {
  name: string;
  method: MethodName;
  /** As of `merge`: the merged adapter, the tasks' heads, `merge_report.json`. */
  files: OutputFile[];
  report: MergeReport;
  /** That its merge took. */
  seconds: number;
}

/** What `compareMethods` resolves to. */
export interface CompareMethodsResult {
  /** In the order of `methods`. */
  variants: MergedVariant[];
  /** Base, the tasks' own adapters, every variant and every `merged` on the same samples. */
  report: CompareReport;
  device: DeviceChoice;
}

/** What writes in `generate`: the base model alone (no `files`), with an adapter, or another whole model. */
export interface VariantInput<Files = FilesInput> {
  /** Its name in the result; variants must differ in it. */
  name: string;
  /** A PEFT adapter for the base, merged ones too, or a whole model of its shape; left out: the base itself. */
  files?: Files | undefined;
}

/** What `generate` takes. Names are those of transformers' generation options, in camelCase. */
export interface GenerateRequest<Files = FilesInput> extends RunControl {
  /** `config.json`, `generation_config.json`, the safetensors files and the tokenizer's files. */
  base: Files;
  /** What writes, in order. With neither `variants` nor `adapters` the base alone. */
  variants?: readonly VariantInput<Files>[] | undefined;
  /** In place of `variants`: the base, then the base with each of these adapters. */
  adapters?: readonly { name: string; files: Files }[] | undefined;
  /** One or several; for an encoder-decoder, what the encoder reads. */
  prompts?: string | readonly string[] | undefined;
  /** In place of `prompts`: one chat or several, which go through the tokenizer's chat template. */
  messages?: readonly ChatMessage[] | readonly (readonly ChatMessage[])[] | undefined;
  /** Default 64. */
  maxNewTokens?: number | undefined;
  /** Default 0, which takes the likeliest token each time (greedy). */
  temperature?: number | undefined;
  /** Samples from the likeliest tokens that together have this probability; default 1, all of them. */
  topP?: number | undefined;
  /** Of the sampling; default 0. */
  seed?: number | undefined;
}

/** What `generate` resolves to. */
export interface GenerateResult {
  variants: {
    name: string;
    /** What it wrote after each prompt, without the prompt and without special tokens. */
    texts: string[];
    /** Whether it came to its own end, or to `maxNewTokens`, for each prompt. */
    finished: boolean[];
  }[];
  seconds: number;
  /** New tokens of all variants and prompts. */
  tokens: number;
  device: DeviceChoice;
  notes: string[];
}
