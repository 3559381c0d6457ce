/**
 * Merge, then compare: everything that happens after the button is pressed.
 *
 * The merged adapter is shown and can be saved as soon as it is there; the comparison follows task by
 * task. What can go wrong: a failure or a cancel in the comparison must not take the merged adapter
 * away, so from there on failures belong to the comparison alone.
 */
import {
  type AdapterInput,
  compare,
  type MergeRequest,
  merge,
  type OutputFile,
  type Progress,
} from "../lib/index.ts";
import { plural } from "./format.ts";
import { namedBlobs } from "./intake.ts";
import { describe } from "./problem.ts";
import { METHOD_NAMES, mergeOptions, needsSamples } from "./settings.ts";
import type { Adapter, Comparison, State, Store } from "./state.ts";

interface Variant {
  name: string;
  files: OutputFile[];
}

/** The name the linear average has in comparisons, whoever asked for it. */
export const LINEAR = METHOD_NAMES.linear;

/** Merges what the state holds. Resolves when the comparison is through, too; never rejects. */
export async function run(store: Store): Promise<void> {
  const { base, settings } = store.state;
  if (!base || store.state.work) return;
  const adapters = [...store.state.adapters];
  const request: MergeRequest = {
    base: namedBlobs(base.files),
    adapters: adapters.map((adapter) => adapterInput(adapter, needsSamples(settings))),
    options: mergeOptions(settings),
    device: settings.device,
  };
  const controller = begin(store, "Merging");
  const options = { signal: controller.signal, onProgress: (progress: Progress) => show(store, progress) };
  try {
    store.change((state) => {
      state.result = undefined;
      state.notices = state.notices.filter(({ place }) => place === "top");
    });
    const method = settings.method;
    const { files, report, device } = await merge({ ...request, ...options });
    store.change((state) => {
      state.device = { status: "ready", value: device };
      state.result = {
        title: `${plural(adapters.length, "adapter")} merged into one`,
        output: request.options?.output ?? "adapter",
        method,
        files,
        report,
        stale: false,
      };
    });
    await runComparison(store, request, adapters, { name: METHOD_NAMES[method], files }, options);
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

export function cancel(store: Store): void {
  store.change((state) => {
    if (!state.work) return;
    state.work.cancelling = true;
    state.work.controller.abort();
  });
}

async function runComparison(
  store: Store,
  request: MergeRequest,
  adapters: readonly Adapter[],
  asked: Variant,
  options: { signal: AbortSignal; onProgress: (progress: Progress) => void },
): Promise<void> {
  const tested = adapters.filter((adapter) => testTexts(adapter));
  if (tested.length === 0) return;
  const heldOut = tested.filter((adapter) => adapter.texts.heldOut).length;
  const comparison: Comparison = {
    texts: heldOut === tested.length ? "held-out" : heldOut === 0 ? "calibration" : "mixed",
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
      if (state.result) state.result.comparison = comparison;
    });
  };
  edit(() => undefined);
  try {
    const merged = [asked];
    if (asked.name !== LINEAR) {
      relabel(store, "Making the linear average to compare with");
      const linear = await merge({
        ...request,
        ...options,
        adapters: adapters.map((adapter) => adapterInput(adapter, false)),
        options: { ...request.options, method: "linear", output: "adapter" },
      });
      merged.push({ name: LINEAR, files: linear.files });
      edit((comparison) => {
        comparison.variants = merged.map(({ name }) => name);
      });
    }
    for (const adapter of tested) {
      relabel(store, `Comparing on ${adapter.name}`);
      const { report } = await compare({
        base: request.base,
        adapters: [{ ...adapterInput(adapter, false), samples: testTexts(adapter)?.dropped.file }],
        merged,
        device: request.device,
        options: { maxLength: request.options?.maxLength ?? null },
        ...options,
      });
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
    edit((comparison) => {
      comparison.status = problem.code === "cancelled" ? "cancelled" : "failed";
      comparison.problem = problem;
      comparison.waiting = [];
    });
  }
}

/** Held-out texts show what the merge is worth; without them the calibration samples must do. */
const testTexts = (adapter: Adapter) => adapter.texts.heldOut ?? adapter.texts.samples;

function adapterInput({ name, files, weight, texts }: Adapter, withSamples: boolean): AdapterInput {
  return {
    name,
    files: namedBlobs(files),
    weight,
    samples: withSamples ? texts.samples?.dropped.file : undefined,
  };
}

function begin(store: Store, label: string): AbortController {
  const controller = new AbortController();
  store.change((state) => {
    state.work = { label, progress: undefined, started: performance.now(), cancelling: false, controller };
  });
  return controller;
}

function relabel(store: Store, label: string): void {
  store.change((state) => {
    if (!state.work) return;
    state.work.label = label;
    state.work.progress = undefined;
    state.work.started = performance.now();
  });
}

function show(store: Store, progress: Progress): void {
  store.change((state) => {
    if (state.work) state.work.progress = progress;
  });
}
