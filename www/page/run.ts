/**
 * One merge and what it is held against: everything that happens after the button is pressed.
 *
 * The merged adapter is shown and can be saved as soon as it is there; the linear average and the comparison follow.
 * A failure or a cancel in what follows must not take the merged adapter away, so from there on failures belong to
 * the comparison alone.
 */
import { type CompareReport, type MergedVariant, merge, methodNamed, type Progress } from "../lib/index.ts";
import { plural } from "./format.ts";
import { addWriter, playgroundModels } from "./playground.ts";
import { describe, type Problem } from "./problem.ts";
import { repetition } from "./recipe-match.ts";
import { namedBlobs } from "./recognise.ts";
import { replaceResults } from "./replace-results.ts";
import {
  adapterInputs,
  addReport,
  type Inputs,
  inputsOf,
  optionsFor,
  picturesOf,
  testedOf,
  textsUsed,
  writesTexts,
} from "./request.ts";
import { methodTitle } from "./settings.ts";
import type { Adapter, Comparison, Store } from "./state.ts";
import { begin, nameWork, show } from "./work.ts";

/** Merges what the state holds. Resolves when the comparison is through, too; never rejects. */
export async function run(store: Store): Promise<void> {
  if (store.state.work) return;
  const { signal } = begin(store, "merge", "Merging");
  let shown: ShownMerge | undefined;
  try {
    replaceResults(store, (state) => {
      state.result = undefined;
      delete state.playground.written;
      state.notices = state.notices.filter(({ place }) => place === "top");
    });
    const inputs = await inputsOf(store.state);
    const { base, facts, settings, labels } = inputs;
    const tested = testedOf(inputs);
    await merge({
      base: base && namedBlobs(base.files),
      adapters: adapterInputs(inputs, [settings.method], tested),
      options: optionsFor(inputs, settings.method),
      device: settings.device,
      workers: settings.workers,
      tasks: tested.map(({ name }) => name),
      labels,
      // A model that writes is tried with the average too, if there is nothing to compare on.
      average: tested.length > 0 || (facts !== undefined && facts.kind !== "weights" && facts.generates),
      signal,
      onProgress: (progress) => {
        nameWork(store, "compare", labelOf(progress));
        show(store, progress);
      },
      onVariant: (variant) => {
        if (shown) shown.addAverage(variant);
        else shown = new ShownMerge(store, inputs, tested, variant);
      },
      onTask: (report) => shown?.addTask(report),
    });
    shown?.end();
  } catch (thrown) {
    const problem = describe(thrown);
    if (shown) shown.stop(problem);
    else tellFailure(store, problem);
  } finally {
    store.change((state) => {
      state.work = undefined;
    });
  }
}

/** What is done after the merge itself, which has no such label. */
function labelOf({ variant, task }: Progress): string | undefined {
  if (task !== undefined) return `Comparing on ${task}`;
  return variant === undefined ? undefined : "Making the linear average to compare with";
}

function tellFailure(store: Store, problem: Problem): void {
  if (problem.code === "cancelled") {
    const text = "The merge was cancelled. What you dropped is still here.";
    store.notify({ place: "merge", tone: "info", text });
  } else {
    store.notify({ place: "merge", tone: "error", text: "The merge stopped.", problem });
  }
}

function titleOf(adapters: readonly Adapter[]): string {
  const [only] = adapters;
  return adapters.length === 1 && only
    ? `${only.name}, written anew`
    : `${plural(adapters.length, "adapter")} merged into one`;
}

/** A merge that is there, while what it is held against comes in. */
class ShownMerge {
  readonly #store: Store;
  readonly #comparison: Comparison;
  /** Without texts nothing is compared, and what follows is made to be tried. */
  readonly #compares: boolean;

  constructor(store: Store, inputs: Inputs, tested: readonly Adapter[], variant: MergedVariant) {
    const { base, facts, adapters, settings } = inputs;
    const { method, files, report, device } = variant;
    const { recipe } = store.state;
    const name = methodTitle(method);
    this.#store = store;
    this.#compares = tested.length > 0;
    this.#comparison = {
      texts: textsUsed(tested),
      writes: facts !== undefined && writesTexts(facts, tested),
      pictures: picturesOf(facts, tested),
      tasks: [],
      residuals: [],
      notes: [],
      variants: [name],
      status: "running",
      waiting: tested.map((adapter) => adapter.name),
    };
    const models = base && facts && playgroundModels(base, adapters, facts);
    addWriter(models, { name, files });
    store.change((state) => {
      state.device = { status: "ready", value: device };
      state.result = {
        title: titleOf(adapters),
        output: settings.output,
        method,
        files,
        report,
        models,
        ...(recipe ? { repetition: repetition(recipe, report) } : {}),
        ...(this.#compares ? { comparison: this.#comparison } : {}),
        stale: false,
      };
    });
    nameWork(store, "compare", "Comparing");
  }

  addAverage({ method, files }: MergedVariant): void {
    const name = methodTitle(method);
    this.#edit((comparison) => {
      comparison.variants = [...comparison.variants, name];
    });
    this.#store.change(({ result }) => addWriter(result?.models, { name, files }));
  }

  addTask(part: CompareReport): void {
    const done = part.tasks.map(({ task }) => task);
    this.#edit((comparison) => {
      addReport(comparison, withTitles(part));
      comparison.waiting = comparison.waiting.filter((name) => !done.includes(name));
    });
  }

  end(): void {
    this.#edit((comparison) => {
      comparison.status = "done";
    });
  }

  stop(problem: Problem): void {
    if (!this.#compares && problem.code !== "cancelled") {
      const text = "The linear average could not be made; the merged result is complete.";
      this.#store.notify({ place: "merge", tone: "error", text, problem });
    }
    this.#edit((comparison) => {
      comparison.status = problem.code === "cancelled" ? "cancelled" : "failed";
      comparison.problem = problem;
      comparison.waiting = [];
    });
  }

  #edit(change: (comparison: Comparison) => void): void {
    this.#store.change(() => change(this.#comparison));
  }
}

/** The same with methods called as the page calls them; the report has their names. */
function withTitles({ tasks, residuals, ...rest }: CompareReport): CompareReport {
  const titled = <T extends { variant: string }>(entry: T): T => ({
    ...entry,
    variant: methodNamed(entry.variant)?.title ?? entry.variant,
  });
  return {
    ...rest,
    tasks: tasks.map(({ said, ...task }) => ({
      ...task,
      variants: task.variants.map(titled),
      ...(said ? { said: said.map((one) => ({ ...one, variants: one.variants.map(titled) })) } : {}),
    })),
    residuals: residuals.map(titled),
  };
}
