/**
 * What the wasm module (`www/wasm/iteris_web.js`, generated from `src/wasm.rs`) exposes, written by hand.
 *
 * The generated typings do not exist in a fresh checkout, and tests run the library against a module of their own;
 * both need a description that does not depend on a build. This file and `src/wasm.rs` are two texts of one interface,
 * so a change of either is a change of both.
 */
import type { Sampling } from "./sampling.ts";
import type {
  AdapterFacts,
  BaseFacts,
  ClassShare,
  CompareReport,
  DeviceKind,
  MergeOptions,
  MergePlan,
  MergeReport,
  Progress,
  ReportFile,
} from "./types.ts";

/** A file the core reads by byte range; one of `blob` and `read` is there. `readInto` is asked instead of `read`. */
export interface SourceFile {
  /** Relative to the folder it was dropped with, `/` between the parts. */
  name: string;
  /** In bytes. */
  size: number;
  /** Read with `Blob.slice`. */
  blob?: Blob;
  /** Where another worker opens the same file, of one that is no Blob. */
  url?: string;
  /** Resolves to exactly the bytes `start..end`. */
  read?(start: number, end: number): Promise<Uint8Array>;
  /** Writes exactly the bytes `start..end` to an address of the core's memory before it returns. */
  readInto?(start: number, end: number, memory: WebAssembly.Memory, address: number): void;
  /** Of all its bytes, in lower-case hexadecimal: there where the place hashes faster than the core; it may fail to. */
  sha256?(): Promise<string | undefined>;
}

/** Pictures of one task, which the core decodes. */
export interface PictureSamples {
  /** The files, in the order in which they are read. */
  pictures: SourceFile[];
  /** One per picture, `null` where it has none. */
  labels?: (string | number | null)[];
  /** For a model that encodes pictures and texts: captions one after another, special tokens among them. */
  ids?: Uint32Array;
  /** Tokens per caption, 0 where a picture has none; they sum to `ids.length`. */
  lengths?: Uint32Array;
  /** How many captions were cut to the maximum. */
  truncated?: number;
  /** For a model that writes captions: one per picture, 1 where the adapter is to write it. */
  prompts?: Uint8Array;
  /** Given captions one after another: no token that begins a text, and the one that ends it. */
  answers?: Uint32Array;
  /** Tokens per given caption, 0 where there is none; they sum to `answers.length`. */
  answerLengths?: Uint32Array;
  /** The right captions, as `answers` are; for comparisons. */
  labelIds?: Uint32Array;
  /** Tokens per right caption, 0 where there is none; they sum to `labelIds.length`. */
  labelLengths?: Uint32Array;
  /** What they came from, for the report. */
  source?: string;
  /** Where that is, from the folder of the report; for the report. */
  path?: string;
  /** Sentences for the report's notes. */
  notes?: string[];
}

/** The samples of one task as token ids; ragged, the core pads. */
export interface TokenizedSamples {
  /** All samples one after another: a text, a prompt without its answer, or what an encoder reads. */
  ids: Uint32Array;
  /** Segment ids, as long as `ids`. */
  typeIds?: Uint32Array;
  /** Tokens per sample; they sum to `ids.length`. */
  lengths: Uint32Array;
  /** How many samples were cut to the maximum. */
  truncated: number;
  /** One per sample, `null` where the sample has none. */
  labels?: (string | number | null)[];
  /** The file the samples came from, for the report. */
  source?: string;
  /** Where that file is, from the folder of the report; for the report. */
  path?: string;
  /** One per sample: 1 where the adapter is to write the answer itself. */
  prompts?: Uint8Array;
  /** Given completions or targets one after another, each with the token that ends it. */
  answers?: Uint32Array;
  /** Tokens per answer, 0 where none is given; they sum to `answers.length`. */
  answerLengths?: Uint32Array;
  /** The right answers as the model would write them, each with the token that ends it; for comparisons. */
  labelIds?: Uint32Array;
  /** Tokens per right answer, 0 where there is none; they sum to `labelIds.length`. */
  labelLengths?: Uint32Array;
  /** Sentences for the report's notes, for example which side was cut. */
  notes?: string[];
}

/** In place of samples: the adapter writes them itself, at a temperature above 0. */
export interface SelfSamples {
  self: Sampling & {
    count: number;
    /** What every text begins with, special tokens among it; left out: the beginning-of-sequence token. */
    prompt?: Uint32Array;
    /** The text that `prompt` was made of, for the report. */
    promptText?: string;
  };
}

/** One adapter as the core takes it. */
export interface AdapterSource {
  name: string;
  /** Of a folder, or one `.safetensors` file. */
  files: SourceFile[];
  /** Where the folder or file is, from the folder of the report; for the report. */
  path?: string;
  samples?: TokenizedSamples | PictureSamples | SelfSamples;
  weight?: number;
}

/** What the core is to merge. */
export interface MergeSource {
  /** Empty where neither the method nor an adapter needs it. */
  base: SourceFile[];
  /** Where the base model is, from the folder of the report; for the report. */
  basePath?: string;
  /** Why the device was chosen, where the caller left that open; for the report. */
  deviceWhy?: string;
  adapters: AdapterSource[];
  options: Partial<MergeOptions>;
}

/** Classes that a model of pictures and texts chooses from, as texts. */
export interface CandidateLabels {
  texts: string[];
  /** One after another, special tokens among them. */
  ids: Uint32Array;
  /** Tokens per text; they sum to `ids.length`. */
  lengths: Uint32Array;
}

/** What variants say of one picture of a task. */
export interface CoreSaid {
  /** Which of the task's pictures. */
  sample: number;
  variants: {
    variant: string;
    /** Of the caption that it writes. */
    ids?: Uint32Array | number[] | null | undefined;
    classes?: ClassShare[] | null | undefined;
  }[];
}

/** A report whose captions are still tokens, and whose pictures are numbers. */
export interface CoreCompareReport extends Omit<CompareReport, "tasks"> {
  tasks: (Omit<CompareReport["tasks"][number], "said"> & { said?: CoreSaid[] | null | undefined })[];
}

/** A merged adapter to be compared. */
export interface MergedSource {
  /** Its name in the comparison, for example `iteris` or `average`. */
  name: string;
  files: SourceFile[];
}

/** What the core is to write, and how. */
export interface GenerateSource {
  base: SourceFile[];
  /** Without `files` the base itself; with a PEFT adapter's, or a whole model's. */
  variants: { name: string; files?: SourceFile[] }[];
  /** One after another; `lengths` sum to `ids.length`. */
  prompts: { ids: Uint32Array; lengths: Uint32Array };
  /** As many as there are prompts, each the beginning of a caption, which may have no tokens. */
  images?: SourceFile[];
  options: Sampling;
}

/** What the core wrote. */
export interface Generated extends ChosenDevice {
  variants: {
    name: string;
    /** New tokens, prompt after prompt; the stop token is among them where `finished`. */
    ids: Uint32Array;
    lengths: Uint32Array;
    finished: boolean[];
  }[];
  seconds: number;
  /** New tokens of all variants and prompts. */
  tokens: number;
  notes: string[];
}

/** Other workers that the core may start, as they do a share of the same call. */
export interface Team {
  /** So many are asked for. */
  exactly?: number;
  /** Otherwise: cores that nobody works on yet. */
  cores?: number;
  /** Memory of the machine, as far as it is told. */
  memoryBytes?: number | undefined;
  start(count: number): void;
  /** @returns what {@link Questions} of that worker gave */
  ask(worker: number, question: Uint8Array): Promise<Uint8Array>;
}

/** What a worker that helps is asked. */
export interface Questions {
  /** `undefined` where no more come. */
  next(): Promise<Uint8Array | undefined>;
  answer(answer: Uint8Array): Promise<void>;
}

/** How the core speaks while it works. */
export interface Observer {
  /** Called often; `false` asks the core to stop with the code `cancelled`. */
  progress(progress: Progress): Promise<boolean>;
  /** Appends bytes to an output file, or to one that is only needed on the way. */
  write(file: string, bytes: Uint8Array): Promise<void>;
  /** Reads exactly the bytes `start..end` of what was written of a file. */
  read(file: string, start: number, end: number): Promise<Uint8Array>;
  /** Takes a file away that was only needed on the way. */
  remove(file: string): Promise<void>;
  /** SHA-256 of a file as it was written, in lower-case hexadecimal; left out, the core hashes what it writes. */
  sha256?(file: string): Promise<string>;
  /** Left out, the core works alone. */
  workers?: Team | undefined;
}

/** A started compute device, or a choice of two; owns GPU memory until `free`. */
export interface WasmDevice {
  free(): void;
}

/** Where the core has computed, and why there, where that was left to it. */
export interface ChosenDevice {
  device: DeviceKind;
  deviceWhy?: string | null | undefined;
}

/** The module itself. */
export interface IterisWasm {
  /** Instantiates the module; called once before anything else. */
  default(input: {
    module_or_path: URL | Request | Response | BufferSource | WebAssembly.Module;
  }): Promise<unknown>;
  /** The same of a module that is compiled already. */
  initSync(input: { module: WebAssembly.Module }): unknown;
  /**
   * Puts a new instance in the place of the one there is, whose memory nothing holds any more. What still points into that
   * one (a closure that a promise calls late, an object that is finalised) notices, and leaves the new one alone.
   */
  __wbg_reset_state(): void;
  version(): string;
  /** Bytes of the last request for memory that was refused; answers after a trap too. */
  failedAllocation(): number | undefined;
  /** Bytes that the module's memory has grown to; answers after a trap too. */
  memoryBytes(): number;
  defaultOptions(): MergeOptions;
  /** The names of all merge methods, in the order of `METHODS`. */
  methods(): string[];
  Device: {
    cpu(): WasmDevice;
    /** @param name - what reasons call it */
    webgpu(name: string): Promise<WasmDevice>;
    /** The CPU or the GPU, whichever is measured to be quicker for what is asked of it. */
    quicker(name: string): Promise<WasmDevice>;
  };
  inspectBase(files: SourceFile[]): Promise<BaseFacts>;
  inspectAdapter(files: SourceFile[]): Promise<AdapterFacts>;
  /** Name, size and SHA-256 of every file, as reports tell them. */
  digests(files: SourceFile[]): Promise<ReportFile[]>;
  /** What a merge will take: reads headers, and measures the kernels for 50 ms. */
  plan(
    request: MergeSource & { workers?: Pick<Team, "exactly" | "cores" | "memoryBytes"> | undefined },
  ): Promise<MergePlan>;
  merge(request: MergeSource, device: WasmDevice, observer: Observer): Promise<MergeReport>;
  /** The compiled module, for workers that help. */
  compiled(): WebAssembly.Module;
  /** Does the share that it is asked for, until no more comes. */
  solveShare(job: string, request: object, questions: Questions): Promise<void>;
  compare(
    request: {
      base: SourceFile[];
      adapters: AdapterSource[];
      merged: MergedSource[];
      options?: { maxNewTokens?: number; labels?: CandidateLabels };
    },
    device: WasmDevice,
    observer: Observer,
  ): Promise<ChosenDevice & { report: CoreCompareReport }>;
  generate(request: GenerateSource, device: WasmDevice, observer: Observer): Promise<Generated>;
}
