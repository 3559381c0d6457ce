/**
 * Merge, then compare: everything that happens after the button is pressed.
 *
 * The merged adapter is shown and can be saved as soon as it is there; the linear average and the
 * comparison follow. What can go wrong: a failure or a cancel in what follows must not take the merged
 * adapter away, so from there on failures belong to the comparison alone.
 */
import { type BaseFacts, compare, type MergeRequest, merge, type NamedBlob } from "../lib/index.ts";
import { plural } from "./format.ts";
import { describe } from "./problem.ts";
import { repetition } from "./recipe-match.ts";
import { freeName, namedBlobs } from "./recognise.ts";
import {
  adapterInput,
  type Control,
  inputsOf,
  mergeRequest,
  testTexts,
  textsUsed,
  writesTexts,
} from "./request.ts";
import { methodTitle, needsSamples } from "./settings.ts";
import type { Adapter, Cast, Comparison, State, Store } from "./state.ts";
import { castOf } from "./trial.ts";
import { begin, relabel, show } from "./work.ts";

interface Variant {
  name: string;
  files: NamedBlob[];
}

/** The name the linear average has in comparisons, whoever asked for it. */
export const LINEAR = methodTitle("average");

/** Merges what the state holds. Resolves when the comparison is through, too; never rejects. */
export async function run(store: Store): Promise<void> {
  if (store.state.work) return;
  const controller = begin(store, "merge", "Merging");
  const control: Control = { signal: controller.signal, onProgress: (progress) => show(store, progress) };
  try {
    store.change((state) => {
      state.result = undefined;
      delete state.trial.written;
      state.notices = state.notices.filter(({ place }) => place === "top");
    });
    const inputs = await inputsOf(store.state);
    const { base, facts, adapters, settings } = inputs;
    const request = mergeRequest(inputs, needsSamples([settings.method]));
    const { method, output } = settings;
    const { files, report, device } = await merge({ ...request, ...control });
    const { recipe } = store.state;
    store.change((state) => {
      state.device = { status: "ready", value: device };
      state.result = {
        title: titleOf(adapters),
        output,
        method,
        files,
        report,
        cast: base && facts && castOf(base, adapters, facts),
        ...(recipe ? { repetition: repetition(recipe, report) } : {}),
        stale: false,
      };
    });
    // Without a model that can be run there is nothing to compare on.
    if (base && facts && facts.kind !== "weights") {
      await follow(
        store,
        { ...request, base: namedBlobs(base.files) },
        { adapters, facts, asked: { name: methodTitle(method), files } },
        control,
      );
    }
  } catch (thrown) {
    const problem = describe(thrown);
    if (problem.code === "cancelled") {
      store.notify({
        place: "merge",
        tone: "info",
        text: "The merge was cancelled. What you dropped is still here.",
      });
    } else {
      store.notify({ place: "merge", tone: "error", text: "The merge stopped.", problem });
    }
  } finally {
    store.change((state) => {
      state.work = undefined;
    });
  }
}

function titleOf(adapters: readonly Adapter[]): string {
  const [only] = adapters;
  return adapters.length === 1 && only
    ? `${only.name}, written anew`
    : `${plural(adapters.length, "adapter")} merged into one`;
}

/** A merge whose base model is there and can be run. */
type RunnableRequest = MergeRequest & { base: NamedBlob[] };

/** What follows a merge: the linear average, to be compared and tried, then the comparison task by task. */
async function follow(
  store: Store,
  request: RunnableRequest,
  { adapters, facts, asked }: { adapters: readonly Adapter[]; facts: BaseFacts; asked: Variant },
  control: Control,
): Promise<void> {
  const tested = adapters.filter((adapter) => testTexts(adapter));
  store.change(({ result }) => addVoice(result?.cast, asked));
  if (tested.length === 0 && !facts.generates) return;
  const comparison: Comparison = {
    texts: textsUsed(tested),
    writes: writesTexts(facts, tested),
    tasks: [],
    residuals: [],
    notes: [],
    variants: [asked.name],
    status: "running",
    waiting: tested.map(({ name }) => name),
  };
  const edit = (change: (comparison: Comparison) => void): void => {
    store.change((state: State) => {
      change(comparison);
      // Without texts there is nothing to compare, and the linear average was made to be tried.
      if (state.result && tested.length > 0) state.result.comparison = comparison;
    });
  };
  edit(() => undefined);
  try {
    const merged = [asked];
    if (asked.name !== LINEAR && hasAverage(adapters)) {
      relabel(store, "compare", "Making the linear average to compare with");
      const linear = { name: LINEAR, files: await linearAverage(request, adapters, control) };
      merged.push(linear);
      store.change(({ result }) => addVoice(result?.cast, linear));
      edit((comparison) => {
        comparison.variants = merged.map(({ name }) => name);
      });
    }
    for (const adapter of tested) {
      relabel(store, "compare", `Comparing on ${adapter.name}`);
      const report = await compareOn(request, adapter, merged, control);
      edit((comparison) => {
        comparison.tasks = [...comparison.tasks, ...report.tasks];
        comparison.residuals = [...comparison.residuals, ...report.residuals];
        comparison.notes = [...new Set([...comparison.notes, ...report.notes])];
        comparison.waiting = comparison.waiting.filter((name) => name !== adapter.name);
      });
    }
    edit((comparison) => {
      comparison.status = "done";
    });
  } catch (thrown) {
    const problem = describe(thrown);
    if (tested.length === 0 && problem.code !== "cancelled") {
      const text = "The linear average could not be made; the merged result is complete.";
      store.notify({ place: "merge", tone: "error", text, problem });
    }
    edit((comparison) => {
      comparison.status = problem.code === "cancelled" ? "cancelled" : "failed";
      comparison.problem = problem;
      comparison.waiting = [];
    });
  }
}

/** Whether there is more than one adapter to average, and weights that do not cancel out. */
const hasAverage = (adapters: readonly Adapter[]): boolean =>
  adapters.length > 1 && Math.abs(adapters.reduce((sum, { weight }) => sum + weight, 0)) > 1e-9;

/** Compares base, the task's own adapter and merged ones on the texts of one task. */
export async function compareOn(
  { base, device, options }: RunnableRequest,
  adapter: Adapter,
  merged: readonly Variant[],
  control: Control,
) {
  const { maxLength = null, maxNewTokens } = options ?? {};
  const { report } = await compare({
    base,
    adapters: [{ ...adapterInput(adapter, false), samples: testTexts(adapter)?.dropped.file }],
    merged,
    device,
    options: { maxLength, ...(maxNewTokens === undefined ? {} : { maxNewTokens }) },
    ...control,
  });
  return report;
}

/** Of the same rank and weights, as an adapter that can be read back whatever form was asked for. */
async function linearAverage(
  request: MergeRequest,
  adapters: readonly Adapter[],
  control: Control,
): Promise<NamedBlob[]> {
  const { files } = await merge({
    ...request,
    ...control,
    adapters: adapters.map((adapter) => adapterInput(adapter, false)),
    options: { ...request.options, method: "average", output: "adapter", format: "peft" },
  });
  return files;
}

/** The method that was asked for stands last, as it does in the table; so what comes after it goes before it. */
export function addVoice(cast: Cast | undefined, { name, files }: Variant, place?: "last"): void {
  if (!cast) return;
  const { voices } = cast;
  const merged = place === "last" ? -1 : voices.findIndex(({ role }) => role === "merged");
  // An adapter may bear the name of a method.
  const own = freeName(
    name,
    voices.map((voice) => voice.name),
  );
  voices.splice(merged === -1 ? voices.length : merged, 0, { name: own, role: "merged", files });
}
