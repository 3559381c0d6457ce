/**
 * What the merge that is set up will take, asked for anew whenever inputs or options have changed.
 *
 * The worker does one thing after the other, so nothing is asked while something else runs, and only when changes have
 * come to rest.
 */
import { html, nothing, type TemplateResult } from "lit-html";
import { type MergePlan, planMerge } from "../lib/index.ts";
import { isReady, neededItems } from "./checklist.ts";
import { bytes, roughly } from "./format.ts";
import { type Dropped, namedBlobs } from "./recognise.ts";
import { adapterInputs, inputsOf, optionsFor } from "./request.ts";
import type { State, Store } from "./state.ts";

/** How long nothing has to change before a plan is asked for. */
const REST_MILLISECONDS = 300;

/** What a plan is of. */
interface Subject {
  files: readonly (readonly Dropped[])[];
  rest: string;
}

/** `undefined` where there is nothing to plan. */
function subjectOf(state: State): Subject | undefined {
  const { several, base, adapters, settings, layerText } = state;
  if (several || !isReady(neededItems(state))) return undefined;
  const weights = adapters.map(({ weight }) => weight);
  return {
    files: [...(base ? [base.files] : []), ...adapters.map(({ files }) => files)],
    rest: JSON.stringify({ weights, settings, layerText }),
  };
}

const isSame = (a: Subject | undefined, b: Subject | undefined): boolean =>
  a === b ||
  (a !== undefined &&
    b !== undefined &&
    a.rest === b.rest &&
    a.files.length === b.files.length &&
    a.files.every((files, index) => files === b.files[index]));

/** Keeps the plan in the state that of what is set up. */
export function keepPlan(store: Store): void {
  let subject: Subject | undefined;
  let rest: ReturnType<typeof setTimeout> | undefined;
  /** Whether it has been asked for. */
  let asked = false;

  const ask = async (): Promise<void> => {
    // What has begun meanwhile comes first; when it has ended the state changes, and so this is tried again.
    if (store.state.work || asked) return;
    asked = true;
    const planned = subject;
    const plan = await planOf(store.state);
    if (subject !== planned) return;
    store.change((state) => {
      state.plan = plan;
    });
  };

  store.onChange(() => {
    const now = subjectOf(store.state);
    if (isSame(now, subject)) {
      if (now === undefined || asked || store.state.work) return;
    } else {
      subject = now;
      asked = false;
      if (store.state.plan) {
        store.change((state) => {
          state.plan = undefined;
        });
      }
    }
    clearTimeout(rest);
    if (subject !== undefined) rest = setTimeout(() => void ask(), REST_MILLISECONDS);
  });
}

/** `undefined` where there is none: why the inputs cannot be merged is told when they are. */
async function planOf(state: State): Promise<MergePlan | undefined> {
  try {
    const inputs = await inputsOf(state);
    const { method } = inputs.settings;
    return await planMerge({
      base: inputs.base && namedBlobs(inputs.base.files),
      adapters: adapterInputs(inputs, [method], []),
      options: optionsFor(inputs, method),
      workers: inputs.settings.workers,
    });
  } catch {
    return undefined;
  }
}

/**
 * The line under the button. It is there, empty, before the plan is, so that nothing moves when it comes; of what does
 * not fit the checklist tells.
 */
export function planLine({ plan }: State): TemplateResult {
  return html`<p class="plan tabular" id="plan">${plan?.fits ? sentenceOf(plan) : nothing}</p>`;
}

/** “About 6 s, 63 MB of memory; writes 449 MB.” */
export function sentenceOf({ seconds, peakBytes, bytesWritten, ...plan }: MergePlan): string {
  const workers = plan.workers ?? 1;
  const writes = `writes ${bytes(bytesWritten)}.`;
  const parts = [
    ...(seconds === null ? [] : [`about ${roughly(seconds)}${workers > 1 ? ` on ${workers} cores` : ""}`]),
    ...(peakBytes === null ? [] : [`${bytes(peakBytes * workers)} of memory`]),
  ];
  const sentence = parts.length > 0 ? `${parts.join(", ")}; ${writes}` : writes;
  return `${sentence.charAt(0).toUpperCase()}${sentence.slice(1)}`;
}
