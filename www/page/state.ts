/**
 * What the page knows: one plain object, changed only through `Store.change`, drawn anew after each
 * change. There is no second copy of anything in the DOM, so what is shown is what will be merged.
 */
import type {
  AdapterFacts,
  BaseFacts,
  CompareReport,
  DeviceChoice,
  DeviceRequest,
  MergeOptions,
  MergePlan,
  MergeReport,
  MethodName,
  NamedBlob,
  OutputFile,
  Pace,
  Progress,
  SamplesFacts,
} from "../lib/index.ts";
import type { Problem } from "./problem.ts";
import type { Followed, Repetition } from "./recipe-match.ts";
import type { Dropped, Role } from "./recognise.ts";
import { DEFAULTS, type Settings } from "./settings.ts";

/** A thing that is being looked at by the worker. */
export type Loadable<T> =
  | { status: "reading" }
  | { status: "ready"; value: T }
  | { status: "failed"; problem: Problem };

export interface Base {
  name: string;
  files: Dropped[];
  facts: Loadable<BaseFacts>;
  /** Whether its files hold a chat template. */
  chat: boolean;
}

export interface Text {
  dropped: Dropped;
  facts: Loadable<SamplesFacts>;
}

/** How an adapter writes its own samples, where no file of samples is given. */
export interface SelfWriting {
  count: number;
  /** What every text begins with; empty for the beginning of a text. */
  prompt: string;
  seed: number;
}

export interface Adapter {
  /** Stays the same when the adapter is renamed. */
  id: string;
  name: string;
  /** Where it was dropped from: samples in the same folder are its own. */
  folder: string;
  files: Dropped[];
  weight: number;
  facts: Loadable<AdapterFacts>;
  texts: Partial<Record<Role, Text>>;
  /** Set where the adapter is to write its samples itself; a file of samples takes its place. */
  self: SelfWriting | undefined;
}

/** Where on the page a message stands: beside what the person just did. */
export type Place = "top" | "base" | "adapters" | "merge" | "save" | "method-comparison" | "picture";

/** Something the person should know; stays until dismissed or until the next drop. */
export interface Notice {
  id: number;
  place: Place;
  tone: "info" | "error";
  text: string;
  problem?: Problem;
  details?: string[];
  action?: { label: string; run: () => void };
}

/** How the merged adapters do on each task, as far as it has been run. */
export interface Comparison {
  /** Which texts it runs on. */
  texts: "held-out" | "calibration" | "mixed";
  /** Whether the models write: an answer is a text then, and not a class. */
  writes: boolean;
  /** Of a comparison on pictures: what each task was compared on; what is dropped later are others. */
  pictures?: ReadonlyMap<string, Text> | undefined;
  tasks: CompareReport["tasks"];
  residuals: CompareReport["residuals"];
  notes: string[];
  /** The merged variants, first the one that was asked for. */
  variants: string[];
  status: "running" | "done" | "cancelled" | "failed";
  waiting: string[];
  problem?: Problem;
}

/** Something that can write: the base alone, with an adapter of its own, or with a merged one. */
export interface Writer {
  name: string;
  role: "base" | "adapter" | "merged";
  /** Left out: the base itself. */
  files?: NamedBlob[];
}

/** Models that can be asked: they stay what they were, whatever is dropped later. */
export interface PlaygroundModels {
  base: NamedBlob[];
  writers: Writer[];
  /** Whether they write of pictures. */
  ofPictures: boolean;
}

/** A picture that captions are asked for. */
export interface ChosenPicture {
  name: string;
  blob: Blob;
}

export interface Result {
  title: string;
  output: MergeOptions["output"];
  method: MergeOptions["method"];
  files: OutputFile[];
  report: MergeReport;
  comparison?: Comparison;
  /** Whether it is what the recipe's merge was; there if a recipe was followed. */
  repetition?: Repetition;
  /** What can be tried; `undefined` where the base model writes no text. */
  models: PlaygroundModels | undefined;
  /** Set once the inputs or options have changed since. */
  stale: boolean;
}

/** One method of a method comparison, as far as it has come. */
export interface Entry {
  method: MethodName;
  /** The name it has in `tasks` and `residuals`. */
  name: string;
  status: "waiting" | "merging" | "done" | "failed";
  files: OutputFile[];
  /** There once it is done. */
  report?: MergeReport;
  problem?: Problem;
}

/** Several methods on the same adapters and the same texts. */
export interface MethodComparison
  extends Pick<Comparison, "texts" | "writes" | "pictures" | "tasks" | "residuals" | "notes"> {
  entries: Entry[];
  status: "running" | "done" | "cancelled" | "failed";
  /** Why the comparison stopped; what a method failed of is in its entry. */
  problem?: Problem;
  output: MergeOptions["output"];
  models: PlaygroundModels | undefined;
  stale: boolean;
}

/** What the models wrote, or are writing, after one prompt. */
export interface Written {
  status: "writing" | "done" | "cancelled" | "failed";
  /** In the order of the writers; `text` is there when the work is done. */
  outputs: { name: string; role: Writer["role"]; text: string | undefined; finished: boolean }[];
  seconds: number;
  tokens: number;
  notes: string[];
  /** What it was written of, where that was a picture. */
  picture?: ChosenPicture | undefined;
  problem?: Problem;
}

/** The form of “Try it”, and its answer. */
export interface Playground {
  /** `null` until the person changes it: a prompt is proposed until then. */
  prompt: string | null;
  /** Whether the prompt is a message of a chat; `null` as above. */
  chat: boolean | null;
  /** What captions are written of; `undefined` until one is chosen: the first at hand until then. */
  picture?: ChosenPicture | undefined;
  maxNewTokens: number;
  temperature: number;
  topP: number;
  seed: number;
  written?: Written;
}

/** The built-in examples: adapters that classify, that write, and that say what is on pictures. */
export type ExampleName = "classifiers" | "writers" | "pictures";

export interface Work {
  task: "merge" | "compare" | "method-comparison" | "write";
  label: string;
  progress: Progress | undefined;
  /** Of the stretch of work at hand, 0 to 1; only grows within it. */
  share: number;
  /** Milliseconds of `performance.now()`. */
  started: number;
  pace: Pace;
  /** Seconds that the stage at hand will still take; `null` while that would be a guess. */
  secondsLeft: number | null;
  cancelling: boolean;
  controller: AbortController;
}

export interface State {
  device: Loadable<DeviceChoice<DeviceRequest>>;
  base: Base | undefined;
  adapters: Adapter[];
  /** Texts of which it is not known whose they are. */
  open: Dropped[];
  settings: Settings;
  /** Per-layer weights as they were typed; `settings` has them once they are read. */
  layerText: string;
  /** Classes that a model of pictures and texts chooses from, one a line; empty for those of the pictures. */
  classText: string;
  /** Whether several methods are to be compared, and which. */
  several: boolean;
  ticked: MethodName[];
  /** The recipe that is followed. */
  recipe: Followed | undefined;
  notices: Notice[];
  /** The example that is being fetched. */
  loading: ExampleName | undefined;
  /** What the merge that is set up will take; `undefined` until that is known. */
  plan: MergePlan | undefined;
  work: Work | undefined;
  result: Result | undefined;
  methodComparison: MethodComparison | undefined;
  /** The kinds of layers whose layers are shown one by one. */
  openPatterns: readonly string[];
  playground: Playground;
}

export class Store {
  readonly state: State = {
    device: { status: "reading" },
    base: undefined,
    adapters: [],
    open: [],
    settings: { ...DEFAULTS },
    layerText: "",
    classText: "",
    several: false,
    ticked: ["iteris", "regmean", "average", "task_arithmetic", "ties"],
    recipe: undefined,
    notices: [],
    loading: undefined,
    plan: undefined,
    work: undefined,
    result: undefined,
    methodComparison: undefined,
    openPatterns: [],
    playground: { prompt: null, chat: null, maxNewTokens: 48, temperature: 0, topP: 1, seed: 0 },
  };
  #listeners: (() => void)[] = [];
  #drawing = false;
  #noticeId = 0;

  /** Changes the state and has the page drawn once, after all changes of this turn. */
  change(edit: (state: State) => void): void {
    edit(this.state);
    if (this.#drawing) return;
    this.#drawing = true;
    queueMicrotask(() => {
      this.#drawing = false;
      for (const listener of this.#listeners) listener();
    });
  }

  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  notify(notice: Omit<Notice, "id">): void {
    this.#noticeId += 1;
    const id = this.#noticeId;
    this.change((state) => {
      state.notices.push({ id, ...notice });
    });
  }

  dismiss(id: number): void {
    this.change((state) => {
      state.notices = state.notices.filter((notice) => notice.id !== id);
    });
  }
}

/** Says something beside the zone that took a drop. */
export type Tell = (notice: Omit<Notice, "id" | "place">) => void;

/** What is known of the base model, once it has been read. */
export const baseFacts = ({ base }: State): BaseFacts | undefined =>
  base?.facts.status === "ready" ? base.facts.value : undefined;

/** The methods that the button is about. */
export const askedMethods = ({ several, ticked, settings }: State): readonly MethodName[] =>
  several ? ticked : [settings.method];

export const adapterById = (state: State, id: string): Adapter | undefined =>
  state.adapters.find((adapter) => adapter.id === id);
