/** How far the work is: stage, layer, a bar, the time that has gone and the time that is left. */
import { html, type TemplateResult } from "lit-html";
import type { Progress } from "../lib/index.ts";
import { duration, layerName } from "./format.ts";
import { secondsLeft, shareDone } from "./pace.ts";
import { cancel } from "./run.ts";
import type { Store, Work } from "./state.ts";

const STAGES: Readonly<Record<Progress["stage"], string>> = {
  load: "Reading weights",
  forward: "Running the samples",
  gram: "Adding up what the layers see",
  solve: "Solving",
  write: "Writing",
  compare: "Comparing",
};

export function progressView(store: Store, work: Work): TemplateResult {
  const { progress } = work;
  const elapsed = (performance.now() - work.started) / 1000;
  const share = progress && shareDone(progress);
  const left = share === undefined ? undefined : secondsLeft(share, elapsed);
  const detail = progress
    ? `${STAGES[progress.stage]}${progress.layer ? `: ${layerName(progress.layer)}` : ""}`
    : "Starting";
  return html`
    <div class="progress">
      <p class="progress-label" id="progress-label">
        <span>${work.label}</span>
        <span class="muted tabular">${share === undefined ? "" : `${Math.floor(share * 100)} %`}</span>
      </p>
      ${
        share === undefined
          ? html`<progress max="1" aria-labelledby="progress-label"></progress>`
          : html`<progress max="1" .value=${share} aria-labelledby="progress-label"></progress>`
      }
      <p class="progress-detail muted">${work.cancelling ? "Stopping after this layer …" : detail}</p>
      <p class="progress-time muted tabular">
        ${duration(elapsed)}${left === undefined ? "" : ` · about ${duration(left)} left`}
      </p>
      <button
        class="secondary" type="button" id="cancel" ?disabled=${work.cancelling}
        @click=${() => cancel(store)}
      >
        Cancel
      </button>
    </div>
  `;
}

/** For screen readers: a sentence at each quarter, not at each layer. */
export function spoken(work: Work): string {
  const { progress } = work;
  const share = progress ? shareDone(progress) : 0;
  const quarter = Math.floor(share * 4) * 25;
  return quarter > 0 ? `${work.label}: ${quarter} percent` : work.label;
}
