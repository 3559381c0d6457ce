/**
 * Merge, then compare: everything that happens after the button is pressed.
 *
 * The merged adapter is shown and can be saved as soon as it is there; the linear average and the
 * comparison follow. What can go wrong: a failure or a cancel in what follows must not take the merged
 * adapter away, so from there on failures belong to the comparison alone.
 */
import {
  type AdapterInput,
  type BaseFacts,
  compare,
  inspectBase,
  type MergeRequest,
  merge,
  type NamedBlob,
  type Progress,
} from "../lib/index.ts";
import { plural } from "./format.ts";
import { namedBlobs } from "./intake.ts";
import { describe } from "./problem.ts";
import { freeName } from "./recognise.ts";
import { METHOD_NAMES, mergeOptions, needsSamples } from "./settings.ts";
import { type Adapter, baseFacts, type Comparison, type State, type Store } from "./state.ts";
import { castOf } from "./trial.ts";
import { begin, relabel, show } from "./work.ts";

interface Variant {
  name: string;
  files: NamedBlob[];
}

interface Control {
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
}

/** The name the linear average has in comparisons, whoever asked for it. */
export const LINEAR = METHOD_NAMES.linear;

/** Merges what the state holds. Resolves when the comparison is through, too; never rejects. */
export async function run(store: Store): Promise<void> {
  const { base } = store.state;
  if (!base || store.state.work) return;
  const settings = { ...store.state.settings };
  const adapters = [...store.state.adapters];
  const controller = begin(store, "merge", "Merging");
  const control: Control = { signal: controller.signal, onProgress: (progress) => show(store, progress) };
  try {
    store.change((state) => {
      state.result = undefined;
      delete state.trial.written;
      state.notices = state.notices.filter(({ place }) => place === "top");
    });
    // An example is merged as soon as it is there, which may be before its card has been filled in.
    const facts = baseFacts(store.state) ?? (await inspectBase(namedBlobs(base.files)));
    const request: MergeRequest = {
      base: namedBlobs(base.files),
      adapters: adapters.map((adapter) => adapterInput(adapter, needsSamples(settings))),
      options: mergeOptions(settings, facts.kind),
      device: settings.device,
    };
    const { method, output } = settings;
    const { files, report, device } = await merge({ ...request, ...control });
    store.change((state) => {
      state.device = { status: "ready", value: device };
      state.result = {
        title: `${plural(adapters.length, "adapter")} merged into one`,
        output,
        method,
        files,
        report,
        cast: castOf(base, adapters, facts),
        stale: false,
      };
    });
    await follow(store, request, { adapters, facts, asked: { name: METHOD_NAMES[method], files } }, control);
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

/** What follows a merge: the linear average, to be compared and tried, then the comparison task by task. */
async function follow(
  store: Store,
  request: MergeRequest,
  { adapters, facts, asked }: { adapters: readonly Adapter[]; facts: BaseFacts; asked: Variant },
  control: Control,
): Promise<void> {
  const tested = adapters.filter((adapter) => testTexts(adapter));
  addVoice(store, asked);
  if (tested.length === 0 && !facts.generates) return;
  const heldOut = tested.filter((adapter) => adapter.texts.heldOut).length;
  const comparison: Comparison = {
    texts: heldOut === tested.length ? "held-out" : heldOut === 0 ? "calibration" : "mixed",
    // An adapter with a classifier of its own predicts, whatever its base model could write.
    writes: facts.generates && !tested.some(classifies),
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
    if (asked.name !== LINEAR) {
      relabel(store, "compare", "Making the linear average to compare with");
      const linear = { name: LINEAR, files: await linearAverage(request, adapters, control) };
      merged.push(linear);
      addVoice(store, linear);
      edit((comparison) => {
        comparison.variants = merged.map(({ name }) => name);
      });
    }
    for (const adapter of tested) {
      relabel(store, "compare", `Comparing on ${adapter.name}`);
      const { maxLength = null, maxNewTokens } = request.options ?? {};
      const { report } = await compare({
        base: request.base,
        adapters: [{ ...adapterInput(adapter, false), samples: testTexts(adapter)?.dropped.file }],
        merged,
        device: request.device,
        options: { maxLength, ...(maxNewTokens === undefined ? {} : { maxNewTokens }) },
        ...control,
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

async function linearAverage(
  request: MergeRequest,
  adapters: readonly Adapter[],
  control: Control,
): Promise<NamedBlob[]> {
  const { files } = await merge({
    ...request,
    ...control,
    adapters: adapters.map((adapter) => adapterInput(adapter, false)),
    options: { ...request.options, method: "linear", output: "adapter" },
  });
  return files;
}

/** The method that was asked for stands last, as it does in the table. */
function addVoice(store: Store, { name, files }: Variant): void {
  store.change(({ result }) => {
    const voices = result?.cast?.voices;
    if (!voices) return;
    const merged = voices.findIndex(({ role }) => role === "merged");
    // An adapter may bear the name of a method.
    const own = freeName(
      name,
      voices.map((voice) => voice.name),
    );
    voices.splice(merged === -1 ? voices.length : merged, 0, { name: own, role: "merged", files });
  });
}

const classifies = ({ facts }: Adapter): boolean => facts.status === "ready" && facts.value.heads.length > 0;

/** Held-out texts show what the merge is worth; without them the calibration samples must do. */
const testTexts = (adapter: Adapter) => adapter.texts.heldOut ?? adapter.texts.samples;

function adapterInput({ name, files, weight, texts, self }: Adapter, withSamples: boolean): AdapterInput {
  const input = { name, files: namedBlobs(files), weight };
  if (!withSamples) return input;
  return { ...input, samples: texts.samples?.dropped.file ?? (self && { self }) };
}
