/** What a caller hands in: files, samples and adapters. */

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
 * Pictures (PNG, JPEG, WebP, GIF or BMP files, or `.parquet` with pictures in it), for models that read them. What is said
 * of them is read from `metadata.jsonl` or `metadata.csv`, from texts beside them and from the names of folders.
 */
export interface PicturesInput {
  pictures: FilesInput;
  /** What they are called, for the report. */
  name?: string | undefined;
}

/** A picture; of a directory's handle those in it. */
export type ImageInput = Blob | FileInput;

/**
 * Samples of one task: a file (`.txt` with one text a line, `.jsonl`, `.json`, `.csv`, `.tsv`), or the samples
 * themselves; for a model that reads pictures a folder of them, one of them, or a `.parquet` file.
 */
export type SamplesInput =
  | PicturesInput
  | FileSystemDirectoryHandle
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
