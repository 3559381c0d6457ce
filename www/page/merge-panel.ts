/** The button that merges, or compares methods, with the list of what it still needs, or the progress of a running merge. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { Item } from "./check-item.ts";
import { checklist, isReady } from "./checklist.ts";
import * as icons from "./icons.ts";
import { runMethodComparison } from "./method-comparison.ts";
import { planLine } from "./plan.ts";
import { progressView } from "./progress.ts";
import { run } from "./run.ts";
import type { Store, Work } from "./state.ts";

const MARKS: Record<Item["status"], TemplateResult> = {
  done: icons.check,
  wait: icons.clock,
  missing: icons.circle,
  wrong: icons.alert,
};
const SPOKEN: Record<Item["status"], string> = {
  done: "Ready: ",
  wait: "",
  missing: "Missing: ",
  wrong: "To correct: ",
};

/** What a merge has to wait for. */
const WAITS: Record<Work["task"], string> = {
  merge: "The merge is still running.",
  compare: "The comparison is still running.",
  "method-comparison": "The comparison is still running.",
  write: "The models are still writing.",
};

export function mergePanel(store: Store): TemplateResult {
  const { work, result, several } = store.state;
  // A comparison that follows a merge shows its progress where its numbers will stand.
  if (
    work &&
    (work.task === "merge" || work.task === "method-comparison" || (work.task === "compare" && !result))
  ) {
    return progressView(store, work);
  }
  const items = checklist(store.state);
  const ready = isReady(items) && !work;
  const press = (): void => {
    if (ready) void (several ? runMethodComparison(store) : run(store));
  };
  return html`
    <ul class="checklist" id="checklist">
      ${items.map(
        (item) => html`
          <li class=${item.status}>
            ${MARKS[item.status]}<span><span class="sr-only">${SPOKEN[item.status]}</span>${item.text}</span>
          </li>
        `,
      )}
      ${work ? html`<li class="wait">${icons.clock}<span>${WAITS[work.task]}</span></li>` : nothing}
    </ul>
    <button
      class="primary" type="button" id="merge"
      aria-disabled=${ready ? "false" : "true"} aria-describedby="checklist"
      @click=${press}
    >
      ${several ? "Compare methods" : "Merge"}
    </button>
    ${several ? nothing : planLine(store.state)}
  `;
}
