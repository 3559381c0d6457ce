/**
 * Several methods on the same samples: each is merged, then all are compared, task by task.
 *
 * Each merged adapter can be saved as soon as it is there. What can go wrong: a method may not suit the adapters or
 * the base; that takes its own row away and no other, and what the person cancels keeps what is done.
 */
import { type MergeRequest, merge } from "../lib/index.ts";
import { describe, type Problem } from "./problem.ts";
import { namedBlobs } from "./recognise.ts";
import {
  type Control,
  type Inputs,
  inputsOf,
  mergeRequest,
  testTexts,
  textsUsed,
  writesTexts,
} from "./request.ts";
import { addVoice, compareOn, LINEAR } from "./run.ts";
import { methodTitle, needsSamples } from "./settings.ts";
import { askedMethods, type Comparison, type Entry, type Store, type Survey } from "./state.ts";
import { castOf } from "./trial.ts";
import { begin, relabel, show } from "./work.ts";

/** Merges by every ticked method and compares. Resolves when all is through; never rejects. */
export async function runSurvey(store: Store): Promise<void> {
  if (store.state.work) return;
  const controller = begin(store, "survey", "Starting");
  const control: Control = { signal: controller.signal, onProgress: (progress) => show(store, progress) };
  try {
    store.change((state) => {
      state.result = undefined;
      state.survey = undefined;
      delete state.trial.written;
      state.notices = state.notices.filter(({ place }) => place === "top");
    });
    const inputs = await inputsOf(store.state);
    const { base, facts, adapters } = inputs;
    if (!base || !facts) return;
    const survey: Survey = {
      texts: textsUsed(adapters),
      writes: writesTexts(facts, adapters),
      tasks: [],
      residuals: [],
      notes: [],
      entries: askedMethods(store.state).map((method) => ({
        method,
        name: methodTitle(method),
        status: "waiting",
        files: [],
      })),
      status: "running",
      output: inputs.settings.output,
      cast: castOf(base, adapters, facts),
      stale: false,
    };
    store.change((state) => {
      state.survey = survey;
    });
    await fill(store, survey, { ...inputs, base }, control);
  } catch (thrown) {
    store.notify({
      place: "merge",
      tone: "error",
      text: "The comparison stopped.",
      problem: describe(thrown),
    });
  } finally {
    store.change((state) => {
      state.work = undefined;
    });
  }
}

type RunnableInputs = Inputs & { base: NonNullable<Inputs["base"]> };

async function fill(store: Store, survey: Survey, inputs: RunnableInputs, control: Control): Promise<void> {
  const edit = (change: (survey: Survey) => void): void => store.change(() => change(survey));
  const stop = (problem: Problem): void =>
    edit((survey) => {
      survey.status = problem.code === "cancelled" ? "cancelled" : "failed";
      survey.problem = problem;
    });
  for (const [index, entry] of survey.entries.entries()) {
    relabel(store, "survey", `${entry.name}, ${index + 1} of ${survey.entries.length} methods`);
    edit(() => {
      entry.status = "merging";
    });
    const problem = await makeEntry(store, survey, entry, inputs, control);
    if (problem?.code === "cancelled") return stop(problem);
  }
  const merged = survey.entries.filter(({ status }) => status === "done");
  if (merged.length === 0) {
    return edit((survey) => {
      survey.status = "failed";
    });
  }
  const request = { ...requestOf(inputs, "average"), base: namedBlobs(inputs.base.files) };
  for (const adapter of inputs.adapters.filter(testTexts)) {
    relabel(store, "survey", `Comparing on ${adapter.name}`);
    try {
      const report = await compareOn(request, adapter, merged, control);
      edit((survey) => {
        survey.tasks = [...survey.tasks, ...report.tasks];
        survey.residuals = [...survey.residuals, ...report.residuals];
        survey.notes = [...new Set([...survey.notes, ...report.notes])];
      });
    } catch (thrown) {
      return stop(describe(thrown));
    }
  }
  edit((survey) => {
    survey.status = "done";
  });
}

/** Merges by one method. @returns why it could not be done, if so */
async function makeEntry(
  store: Store,
  survey: Survey,
  entry: Entry,
  inputs: RunnableInputs,
  control: Control,
): Promise<Problem | undefined> {
  try {
    const { files, report, device } = await merge({ ...requestOf(inputs, entry.method), ...control });
    store.change((state) => {
      state.device = { status: "ready", value: device };
      Object.assign(entry, { status: "done", files, report } satisfies Partial<Entry>);
      addVoice(survey.cast, { name: entry.name, files }, "last");
    });
    return undefined;
  } catch (thrown) {
    const problem = describe(thrown);
    const cancelled = problem.code === "cancelled";
    store.change(() => {
      Object.assign(entry, cancelled ? { status: "waiting" } : { status: "failed", problem });
    });
    return problem;
  }
}

const requestOf = (inputs: Inputs, method: Entry["method"]): MergeRequest =>
  mergeRequest({ ...inputs, settings: { ...inputs.settings, method } }, needsSamples([method]));

/** Shows one method's result in full, below, with the linear average beside it where that was compared too. */
export function openEntry(store: Store, entry: Entry): void {
  store.change((state) => {
    const { survey } = state;
    if (!survey || !entry.report) return;
    const { texts, writes, tasks, residuals, notes, cast, output, stale } = survey;
    const average = survey.entries.find((other) => other.name === LINEAR && other.status === "done");
    const variants = [entry.name, ...(average && average !== entry ? [average.name] : [])];
    const comparison: Comparison = {
      texts,
      writes,
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
      cast,
      stale,
    };
  });
}
