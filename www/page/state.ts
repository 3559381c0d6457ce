/**
 * What the page knows: one plain object, changed only through `Store.change`, drawn anew after each
 * change. There is no second copy of anything in the DOM, so what is shown is what will be merged.
 */
import type {
  AdapterFacts,
  BaseFacts,
  CompareReport,
  DeviceChoice,
  MergeOptions,
  MergeReport,
  OutputFile,
  Progress,
  SamplesFacts,
} from "../lib/index.ts";
import type { Problem } from "./problem.ts";
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
}

export interface Text {
  dropped: Dropped;
  facts: Loadable<SamplesFacts>;
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
}

/** Where on the page a message stands: beside what the person just did. */
export type Place = "top" | "base" | "adapters" | "merge" | "save";

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
  tasks: CompareReport["tasks"];
  residuals: CompareReport["residuals"];
  notes: string[];
  /** The merged variants, first the one that was asked for. */
  variants: string[];
  status: "running" | "done" | "cancelled" | "failed";
  waiting: string[];
  problem?: Problem;
}

export interface Result {
  title: string;
  output: MergeOptions["output"];
  method: MergeOptions["method"];
  files: OutputFile[];
  report: MergeReport;
  comparison?: Comparison;
  /** Set once the inputs or options have changed since. */
  stale: boolean;
}

export interface Work {
  label: string;
  progress: Progress | undefined;
  /** Milliseconds of `performance.now()`. */
  started: number;
  cancelling: boolean;
  controller: AbortController;
}

export interface State {
  device: Loadable<DeviceChoice>;
  base: Base | undefined;
  adapters: Adapter[];
  /** Texts of which it is not known whose they are. */
  open: Dropped[];
  settings: Settings;
  notices: Notice[];
  example: "idle" | "loading";
  work: Work | undefined;
  result: Result | undefined;
}

export class Store {
  readonly state: State = {
    device: { status: "reading" },
    base: undefined,
    adapters: [],
    open: [],
    settings: { ...DEFAULTS },
    notices: [],
    example: "idle",
    work: undefined,
    result: undefined,
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

export const adapterById = (state: State, id: string): Adapter | undefined =>
  state.adapters.find((adapter) => adapter.id === id);
