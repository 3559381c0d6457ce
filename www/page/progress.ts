/** How far the work is: stage, layer, a bar, the time that has gone and the time that is left. */
import { html, type TemplateResult } from "lit-html";
import type { Progress } from "../lib/index.ts";
import { bytes, count, duration, layerName } from "./format.ts";
import type { Store, Work } from "./state.ts";
import { cancel } from "./work.ts";

const STAGES: Readonly<Record<Progress["stage"], string>> = {
  load: "Reading weights",
  measure: "Measuring",
  compile: "Compiling",
  generate: "Writing",
  forward: "Running the samples",
  gram: "Adding up what the layers see",
  solve: "Solving",
  merge: "Merging",
  write: "Writing",
  compare: "Comparing",
};

/** What is being done, in a few words: answers that are written first are work of their own. */
export function labelOf({ task, label, progress }: Work): string {
  if (task === "write" || progress?.stage !== "generate") return label;
  if (task === "merge") return "First, the adapters write";
  return task === "method-comparison" ? `${label}: adapters write` : `${label}: its adapter writes`;
}

function detailOf({ task, cancelling, progress }: Work): string {
  if (cancelling) return task === "write" ? "Stopping …" : "Stopping after this layer …";
  if (!progress) return task === "write" ? "Reading the models and the prompt" : "Starting";
  const { stage, layer } = progress;
  // “token 5 of at most 16”; who writes is in the label.
  if (stage === "generate" && layer) return layer.charAt(0).toUpperCase() + layer.slice(1);
  return `${STAGES[stage]}${layer ? `: ${layerName(layer)}` : ""}`;
}

/** How much is done, in layers and in bytes, where they are counted. */
function amounts(progress: Progress | undefined): string[] {
  if (!progress) return [];
  const { stage, done, total, bytesDone, bytesTotal } = progress;
  return [
    ...(stage === "merge" ? [`${count(done)} of ${count(total)} layers`] : []),
    ...(bytesDone !== undefined && bytesTotal !== undefined
      ? [`${bytes(bytesDone)} of ${bytes(bytesTotal)}`]
      : []),
  ];
}

export function progressView(store: Store, work: Work): TemplateResult {
  const { progress } = work;
  const now = performance.now();
  const elapsed = (now - work.started) / 1000;
  const share = progress && work.share;
  const left = work.secondsLeft;
  return html`
    <div class="progress">
      <p class="progress-label" id="progress-label">
        <span>${labelOf(work)}</span>
        <span class="muted tabular">${share === undefined ? "" : `${Math.floor(share * 100)} %`}</span>
      </p>
      ${
        share === undefined
          ? html`<progress max="1" aria-labelledby="progress-label"></progress>`
          : html`<progress max="1" .value=${share} aria-labelledby="progress-label"></progress>`
      }
      <p class="progress-detail muted">${detailOf(work)}</p>
      <p class="progress-time muted tabular">
        ${[
          duration(elapsed),
          ...(left === null ? [] : [`about ${duration(left)} left`]),
          ...amounts(progress),
        ].join(" · ")}
      </p>
      <button
        class="secondary" type="button" id="cancel" ?disabled=${work.cancelling}
        @click=${() => cancel(store)}
      >
        ${work.task === "write" ? "Stop" : "Cancel"}
      </button>
    </div>
  `;
}

/** For screen readers: a sentence at each quarter, not at each layer. */
export function spoken(work: Work): string {
  const label = labelOf(work);
  const quarter = Math.floor(work.share * 4) * 25;
  return quarter > 0 ? `${label}: ${quarter} percent` : label;
}
