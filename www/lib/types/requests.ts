/** What the calls take, what they tell on the way, and what they resolve to. */
import type { ErrorCode } from "../errors.ts";
import type { DeviceChoice, DeviceRequest } from "./device.ts";
import type { AdapterInput, ChatMessage, FilesInput, ImageInput, Sample, SamplesInput } from "./inputs.ts";
import type { MergeOptions, MethodName } from "./options.ts";
import type { CompareReport, MergeReport } from "./reports.ts";

/** A step of a running merge or comparison. */
export interface Progress {
  /**
   * `measure`: the CPU and the GPU, where `auto` has both; `compile`: the GPU begins to, and goes on while weights are read.
   * `generate`: an adapter, or a model of `generate()`, is writing; steps are tokens then.
   */
  stage:
    | "load"
    | "measure"
    | "compile"
    | "generate"
    | "forward"
    | "gram"
    | "solve"
    | "merge"
    | "write"
    | "compare";
  /** The module at work, empty where a stage has none. */
  layer: string;
  /** Steps done, of `total`. */
  done: number;
  total: number;
  /** The same in bytes read or written, where a stage counts them. */
  bytesDone?: number | undefined;
  bytesTotal?: number | undefined;
  /** Since the work began. */
  seconds: number;
  /** Of several merges, whose it is: by its name in the result. A merge that is asked for alone has none here. */
  variant?: string | undefined;
  /** While tasks are compared one by one: which, by its adapter's name. Each counts its own steps. */
  task?: string | undefined;
}

/** How many workers share the work of a call: as many as it is worth and the machine has room for, or so many. */
export type WorkersRequest = "auto" | number;

/** What every long-running call takes. */
export interface RunControl {
  /** Default `auto`. */
  device?: DeviceRequest | undefined;
  /**
   * How many workers share the work on the CPU, each on a core of its own; default `auto`: as many as the work is worth and
   * the machine has cores and memory for, in a browser at most eight, which are loaded with the first call and rest between
   * calls. A number above that loads a script more for each. A merge without samples gives the same bytes, however many
   * there are; where the model runs on samples, numbers differ by the order of sums.
   */
  workers?: WorkersRequest | undefined;
  /** Called at most about 20 times a second. */
  onProgress?: ((progress: Progress) => void) | undefined;
  /** Cancels within one layer; the call rejects with the code `cancelled`. */
  signal?: AbortSignal | undefined;
}

/** What `digestFiles` takes beside the files. */
export interface DigestControl extends Pick<RunControl, "onProgress" | "signal"> {
  /** Only files of these names, inside their folder; by default all. */
  names?: readonly string[] | undefined;
}

/** What calls that compare take for models of pictures and texts (CLIP, SigLIP). */
export interface ClassesControl {
  /**
   * The classes that such a model chooses from for each picture, two or more. By default the labels of the pictures that are
   * compared on; where there are none, their captions, at most 100.
   */
  labels?: readonly string[] | undefined;
}

/**
 * What calls that merge and then compare take beside their inputs: which tasks they compare on, and who is told what
 * is there before the whole is.
 */
export interface ComparisonControl extends ClassesControl {
  /**
   * The tasks to compare on, by their adapters' names, each on its held-out samples or else on those of its
   * calibration; none of them compares nothing. By default all adapters.
   */
  tasks?: readonly string[] | undefined;
  /** Called with each merge when it is made, before the next begins: what comes later cannot take it away. */
  onVariant?: ((variant: MergedVariant) => void) | undefined;
  /** Called with the part of the report that is one task's, when it is there. Tasks are compared one by one then. */
  onTask?: ((report: CompareReport) => void) | undefined;
}

/** A file that was made. */
export interface OutputFile {
  /** For example `adapter_model.safetensors` or `heads/emoint.safetensors`. */
  name: string;
  blob: Blob;
  /**
   * There where the blob is not in memory but in the browser's private file system: the folder of its merge. It is
   * removed by `discard`, or when the page is closed.
   */
  onDisk?: string;
}

/** What `merge` takes. */
export interface MergeRequest<Files = FilesInput, Samples = SamplesInput>
  extends RunControl,
    ComparisonControl {
  /**
   * `config.json`, the safetensors files and the tokenizer's files. May be left out where neither the method nor an
   * adapter needs it.
   */
  base?: Files | undefined;
  adapters: readonly AdapterInput<Files, Samples>[];
  options?: Partial<MergeOptions> | undefined;
  /**
   * Whether a linear average is made too, to hold the merge against: of the same weights and cut to the same rank. By
   * default where there is a comparison. There is none of one adapter, or of weights that add up to 0.
   */
  average?: boolean | undefined;
}

/** What `merge` resolves to. */
export interface MergeResult {
  /** The merged adapter (or model), the tasks' heads, and `merge_report.json`. */
  files: OutputFile[];
  report: MergeReport;
  device: DeviceChoice;
  /** There if the adapters came with held-out samples, or if `tasks` names some. */
  comparison: CompareReport | null;
  /** The linear average that the merge was held against, `null` where none was made. */
  average: MergedVariant | null;
}

/** What `compare` takes. `samples` of an adapter are the ones compared on. */
export interface CompareRequest<Files = FilesInput, Samples = SamplesInput>
  extends RunControl,
    ClassesControl {
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
export interface CompareMethodsRequest<Files = FilesInput, Samples = SamplesInput>
  extends RunControl,
    ComparisonControl {
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
  /**
   * What a merge that cannot be made does, since not every method suits all adapters: `stop` (the default) ends the
   * call with its error, `skip` leaves it out and tells it in `failed`. A fault of program or device always ends it.
   */
  failures?: "stop" | "skip" | undefined;
  /** Called with each merge that was left out, when that is known. */
  onFailure?: ((failure: FailedVariant) => void) | undefined;
}

/** A merge of `compareMethods` that could not be made. */
export interface FailedVariant {
  name: string;
  method: MethodName;
  /** As an {@link IterisError} has them. */
  error: { code: ErrorCode; message: string };
}

/** One merge of several. */
export interface MergedVariant {
  name: string;
  method: MethodName;
  /** As of `merge`: the merged adapter, the tasks' heads, `merge_report.json`. */
  files: OutputFile[];
  report: MergeReport;
  /** That its merge took. */
  seconds: number;
  /** That it ran on. */
  device: DeviceChoice;
}

/** What `compareMethods` resolves to. */
export interface CompareMethodsResult {
  /** In the order of `methods`. */
  variants: MergedVariant[];
  /** What `failures: "skip"` left out. */
  failed: FailedVariant[];
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
export interface GenerateRequest<Files = FilesInput, Samples = SamplesInput, Image = ImageInput>
  extends RunControl {
  /** `config.json`, `generation_config.json`, the safetensors files and the tokenizer's files. */
  base: Files;
  /** What writes, in order. With neither `variants` nor `adapters` the base alone. */
  variants?: readonly VariantInput<Files>[] | undefined;
  /** In place of `variants`: the base, then the base with each of these adapters. */
  adapters?: readonly { name: string; files: Files }[] | undefined;
  /**
   * One or several pictures, for a model that writes captions (BLIP). Prompts beside them, one for all or one for each, are
   * how captions begin.
   */
  image?: Image | readonly Image[] | undefined;
  /** One or several; for an encoder-decoder, what the encoder reads. */
  prompts?: string | readonly string[] | undefined;
  /** In place of `prompts`: one chat or several, which go through the tokenizer's chat template. */
  messages?: readonly ChatMessage[] | readonly (readonly ChatMessage[])[] | undefined;
  /** Beside these or in their place, after them: what samples ask. Answers among them are left out. */
  samples?: Samples | undefined;
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
  /** What was asked, in the order of each variant's texts. */
  prompts: Sample[];
  /** The names of the pictures that were written of, where there were any. */
  images?: string[];
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
