/**
 * Several methods on the same samples: each is merged, then all are compared, task by task.
 *
 * Each merged adapter can be saved as soon as it is there. A method may not suit the adapters or the base; that takes
 * its own row away and no other, and what the person cancels keeps what is done.
 */
import {
  type CompareReport,
  compareMethods,
  type FailedVariant,
  type MergedVariant,
  type Progress,
} from "../lib/index.ts";
import { addWriter, playgroundModels } from "./playground.ts";
import { describe, type Problem } from "./problem.ts";
import { namedBlobs } from "./recognise.ts";
import { replaceResults } from "./replace-results.ts";
import {
  adapterInputs,
  addReport,
  inputsOf,
  optionsFor,
  picturesOf,
  testedOf,
  textsUsed,
  writesTexts,
} from "./request.ts";
import { methodTitle } from "./settings.ts";
import { askedMethods, type Comparison, type Entry, type MethodComparison, type Store } from "./state.ts";
import { begin, nameWork, show } from "./work.ts";

/** Merges by every ticked method and compares. Resolves when all is through; never rejects. */
export async function runMethodComparison(store: Store): Promise<void> {
  if (store.state.work) return;
  const { signal } = begin(store, "method-comparison", "Starting");
  let shown: ShownMethodComparison | undefined;
  try {
    replaceResults(store, (state) => {
      state.result = undefined;
      state.methodComparison = undefined;
      delete state.playground.written;
      state.notices = state.notices.filter(({ place }) => place === "top");
    });
    const methods = askedMethods(store.state);
    const inputs = await inputsOf(store.state);
    const { base, facts, adapters, settings, labels } = inputs;
    if (!base || !facts) return;
    const tested = testedOf(inputs);
    const comparison: MethodComparison = {
      texts: textsUsed(tested),
      writes: writesTexts(facts, tested),
      pictures: picturesOf(facts, tested),
      tasks: [],
      residuals: [],
      notes: [],
      entries: methods.map((method) => ({
        method,
        name: methodTitle(method),
        status: "waiting",
        files: [],
      })),
      status: "running",
      output: settings.output,
      models: playgroundModels(base, adapters, facts),
      stale: false,
    };
    store.change((state) => {
      state.methodComparison = comparison;
    });
    const running = new ShownMethodComparison(store, comparison);
    shown = running;
    running.next();
    await compareMethods({
      base: namedBlobs(base.files),
      adapters: adapterInputs(inputs, methods, tested),
      methods: comparison.entries.map(({ method, name }) => ({ name, options: optionsFor(inputs, method) })),
      options: { maxLength: settings.maxLength, maxNewTokens: settings.maxNewTokens },
      device: settings.device,
      workers: settings.workers,
      tasks: tested.map(({ name }) => name),
      labels,
      failures: "skip",
      signal,
      onProgress: (progress) => running.show(progress),
      onVariant: (variant) => running.addVariant(variant),
      onFailure: (failure) => running.addFailure(failure),
      onTask: (report) => running.addTask(report),
    });
    running.end();
  } catch (thrown) {
    const problem = describe(thrown);
    if (shown) shown.stop(problem);
    else store.notify({ place: "merge", tone: "error", text: "The comparison stopped.", problem });
  } finally {
    store.change((state) => {
      state.work = undefined;
    });
  }
}

/** A method comparison while its rows and numbers come in. */
class ShownMethodComparison {
  readonly #store: Store;
  readonly #comparison: MethodComparison;

  constructor(store: Store, comparison: MethodComparison) {
    this.#store = store;
    this.#comparison = comparison;
  }

  /** Goes on to the method that is merged by next, or to the comparison after the last. */
  next(): void {
    const { entries } = this.#comparison;
    const index = entries.findIndex(({ status }) => status === "waiting");
    const entry = entries[index];
    this.#edit(() => {
      if (entry) entry.status = "merging";
    });
    const label = entry ? `${entry.name}, ${index + 1} of ${entries.length} methods` : "Comparing";
    nameWork(this.#store, "method-comparison", label);
  }

  show(progress: Progress): void {
    const { task } = progress;
    nameWork(this.#store, "method-comparison", task === undefined ? undefined : `Comparing on ${task}`);
    show(this.#store, progress);
  }

  addVariant({ name, files, report, device }: MergedVariant): void {
    this.#store.change((state) => {
      state.device = { status: "ready", value: device };
    });
    this.#settle(name, { status: "done", files, report });
    this.#edit(({ models }) => addWriter(models, { name, files }, "last"));
    this.next();
  }

  addFailure({ name, error }: FailedVariant): void {
    this.#settle(name, { status: "failed", problem: error });
    this.next();
  }

  addTask(report: CompareReport): void {
    this.#edit((comparison) => addReport(comparison, report));
  }

  end(): void {
    this.#edit((comparison) => {
      const made = comparison.entries.some(({ status }) => status === "done");
      comparison.status = made ? "done" : "failed";
    });
  }

  stop(problem: Problem): void {
    const cancelled = problem.code === "cancelled";
    this.#edit((comparison) => {
      comparison.status = cancelled ? "cancelled" : "failed";
      comparison.problem = problem;
      for (const entry of comparison.entries) {
        if (entry.status !== "merging") continue;
        Object.assign(entry, cancelled ? { status: "waiting" } : { status: "failed", problem });
      }
    });
  }

  #settle(name: string, change: Partial<Entry>): void {
    const entry = this.#comparison.entries.find((entry) => entry.name === name);
    this.#edit(() => {
      if (entry) Object.assign(entry, change);
    });
  }

  #edit(change: (comparison: MethodComparison) => void): void {
    this.#store.change(() => change(this.#comparison));
  }
}

/** Shows one method's result in full, below, with the linear average beside it where that was compared too. */
export function openEntry(store: Store, entry: Entry): void {
  store.change((state) => {
    const { methodComparison: shown } = state;
    if (!shown || !entry.report) return;
    const { texts, writes, pictures, tasks, residuals, notes, models, output, stale } = shown;
    const average = shown.entries.find((other) => other.method === "average" && other.status === "done");
    const variants = [entry.name, ...(average && average !== entry ? [average.name] : [])];
    const comparison: Comparison = {
      texts,
      writes,
      pictures,
      tasks,
      residuals,
      notes,
      variants,
      status: "done",
      waiting: [],
    };
    state.result = {
      title: `Merged by ${entry.name}`,
      output,
      method: entry.method,
      files: entry.files,
      report: entry.report,
      ...(tasks.length > 0 ? { comparison } : {}),
      models,
      stale,
    };
  });
}
