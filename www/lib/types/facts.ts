/** What the files of a model, an adapter or a task's samples say about themselves. */
import type { AdapterFormat } from "./options.ts";

/**
 * `image-encoder` (ViT, DINOv2), `image-text-encoder` (CLIP, SigLIP: a picture with its text), `image-to-text` (BLIP: reads a
 * picture and writes its caption), `encoder` (BERT and its kin), `decoder` (Llama, GPT-2, …: decoder-only), `encoder-decoder`
 * (T5, BART), or `weights`: a checkpoint whose model cannot be run here, for methods that need no samples.
 */
export type ModelKind =
  | "image-encoder"
  | "image-text-encoder"
  | "image-to-text"
  | "encoder"
  | "decoder"
  | "encoder-decoder"
  | "weights";

/** What a base model's files say about it. */
export interface BaseFacts {
  /** The program's family, for example `bert`. */
  family: string;
  /** What the model reads and writes. */
  kind: ModelKind;
  /** Whether it can write text: it has a language-modelling head. */
  generates: boolean;
  /** Tokens of an answer that an adapter writes, at most, where nobody asks for another number. */
  answerLength: number;
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
  /** The pictures that it reads, preprocessed; absent for a model that reads texts. */
  picture?: { channels: number; height: number; width: number };
}

/** Modules that are the same part of different blocks. */
export interface LayerGroup {
  /** Their names with a `*` for what differs, for example `unet.*.attn1.to_q`. */
  pattern: string;
  /** How many modules they are. */
  modules: number;
  /** The ranks that occur, ascending. */
  ranks: number[];
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
  /** The targeted modules, those that are the same part of different blocks together. */
  groups: LayerGroup[];
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
  /** How many of them have an answer: a `target`, a `completion`, or a last turn of the assistant; of pictures a caption. */
  answers: number;
  /** Of the longest sample; of pictures of the longest caption. */
  longestCharacters: number;
  /** The first three texts; of pictures their names, and their captions behind them. */
  preview: string[];
  /** The first sixteen where they are pictures: as many as a comparison tells of one by one. */
  pictures?: PictureFacts[];
}

/** A picture of the samples, and what is said of it. */
export interface PictureFacts {
  /** The file's name inside its folder. */
  name: string;
  caption: string | null;
  label: string | number | null;
  /** Its bytes, where they are at hand: not of a file of Node's or at an address. */
  blob?: Blob;
}

/** How samples are written down. */
export type SamplesFormat = "txt" | "jsonl" | "json" | "csv" | "tsv" | "list" | "pictures";

/** What a file of tensors holds: an adapter, or weights of a model. */
export type WeightsKind = "adapter" | "weights";
