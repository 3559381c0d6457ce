/**
 * The messages between the page and its worker, and from the page to the workers that help that one. Beside these there is
 * what the worker and its helpers say to each other (`engine/share.ts`), and nothing else crosses.
 */
import type { Variant } from "../engine/methods-request.ts";
import type { ToHelper } from "../engine/share.ts";
import type { PlainError } from "../errors.ts";
import type { Placed } from "../samples/record.ts";
import type { SelfRequest } from "../samples/self.ts";
import type { Sampling } from "../sampling.ts";
import type { WireFile, WireSamples } from "../sources/wire.ts";
import type {
  AdapterFacts,
  BaseFacts,
  CompareMethodsRequest,
  CompareMethodsResult,
  CompareReport,
  CompareResult,
  DeviceChoice,
  DeviceRequest,
  FailedVariant,
  GenerateResult,
  MergedVariant,
  MergeOptions,
  MergePlan,
  MergeResult,
  Progress,
  ReportFile,
  SamplesFacts,
  WorkersRequest,
} from "../types.ts";

/** An adapter on its way to the worker. */
export interface WireAdapter {
  name: string;
  files: WireFile[];
  samples: WireSamples | SelfRequest | null;
  heldOut: WireSamples | null;
  weight: number | undefined;
}

/** How calls that merge and compare go about the comparison. */
export interface WireComparison {
  tasks: readonly string[] | undefined;
  labels: readonly string[] | undefined;
  /** Whether somebody listens to tasks as they come, so that they are compared one by one. */
  taskByTask: boolean;
}

/** Where calls that compute do it. */
export interface WirePlace {
  device: DeviceRequest;
  workers: WorkersRequest | undefined;
  /** How a GPU has failed that `auto` took for this call before. */
  gaveUp?: string;
}

/** Where the files of calls that merge go. */
export interface WireOutput {
  /** The page's folder in the origin private file system; `null` where it has none, and memory must do. */
  disk: string | null;
}

/** What a running call tells before it answers. */
export interface Events {
  progress: Progress;
  variant: MergedVariant;
  failure: FailedVariant;
  task: CompareReport;
}

/** One of them with its name, so that a `switch` knows the type of what is told. */
export type CallEvent = { [Name in keyof Events]: { name: Name; value: Events[Name] } }[keyof Events];

/** What can be asked of the worker, and what it answers. */
export interface Calls {
  merge: {
    ask: WirePlace &
      WireComparison &
      WireOutput & {
        base: WireFile[];
        adapters: WireAdapter[];
        options: Partial<MergeOptions>;
        average: boolean | undefined;
      };
    answer: MergeResult;
  };
  planMerge: {
    ask: {
      base: WireFile[];
      adapters: Pick<WireAdapter, "name" | "files" | "weight">[];
      options: Partial<MergeOptions>;
      workers: WorkersRequest | undefined;
    };
    answer: MergePlan;
  };
  compare: {
    ask: WirePlace & {
      base: WireFile[];
      adapters: WireAdapter[];
      merged: { name: string; files: WireFile[] }[];
      maxLength: number | null;
      maxNewTokens: number | null;
      labels: readonly string[] | undefined;
    };
    answer: CompareResult;
  };
  compareMethods: {
    ask: WirePlace &
      WireComparison &
      WireOutput & {
        base: WireFile[];
        adapters: WireAdapter[];
        variants: Variant[];
        merged: { name: string; files: WireFile[] }[];
        options: Pick<Partial<MergeOptions>, "maxLength" | "maxNewTokens">;
        failures: CompareMethodsRequest["failures"];
      };
    answer: CompareMethodsResult;
  };
  generate: {
    ask: WirePlace & {
      base: WireFile[];
      variants: { name: string; files: WireFile[] | null }[];
      prompts: Placed[];
      /** Asked after these. */
      samples: WireSamples | null;
      /** Pictures to write captions of, `null` where none were given. */
      images: WireFile[] | null;
      options: Sampling;
    };
    answer: GenerateResult;
  };
  inspectBase: { ask: WireFile[]; answer: BaseFacts };
  inspectAdapter: { ask: WireFile[]; answer: AdapterFacts };
  digestFiles: { ask: WireFile[]; answer: ReportFile[] };
  inspectSamples: { ask: WireSamples; answer: SamplesFacts };
  chooseDevice: { ask: DeviceRequest; answer: DeviceChoice<DeviceRequest> };
  defaultOptions: { ask: null; answer: MergeOptions };
  version: { ask: null; answer: string };
}

export type CallName = keyof Calls;

/** A call with its name, so that a `switch` knows the type of what is asked. */
export type Call = { [Name in CallName]: { name: Name; ask: Calls[Name]["ask"] } }[CallName];

/** From the page. */
export type ToWorker =
  | { type: "call"; id: number; call: Call }
  | { type: "cancel"; id: number }
  | HelperFailed
  /** Destroys the GPU devices, as a driver's reset would; only the package's own tests send it. */
  | { type: "lose-device" };

/** A helper is of no use: it cannot be started, or an error of its own was caught by nobody. */
export interface HelperFailed {
  type: "helper-failed";
  helper: number;
  what: string;
}

/** Where a job of a helper begins and ends; what is asked in between goes from worker to worker. */
type JobEnds = Exclude<ToHelper, { type: "ask" }>;

/** What the worker asks of the page for helpers, each by a number that the worker gives it. */
export type AboutHelper =
  /** `port`: the helper's end of a channel to the worker. */
  | { type: "start-helper"; helper: number; port: MessagePort }
  | { type: "tell-helper"; helper: number; message: JobEnds }
  | { type: "end-helper"; helper: number };

/** From the page to a helper. */
export type ToHelperWorker = { type: "connect"; port: MessagePort } | JobEnds;

/** From the worker. */
export type FromWorker =
  | AboutHelper
  | { type: "event"; id: number; event: CallEvent }
  | { type: "done"; id: number; answer: Calls[CallName]["answer"] }
  /** `retire`: this worker is not to be used again. */
  | { type: "failed"; id: number; error: PlainError; retire: boolean }
  /** The worker broke while no call ran. */
  | { type: "broken" };
