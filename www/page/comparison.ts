/** The comparison as a person sees it: the table, its progress while it runs, and why it stopped if it did. */
import { html, nothing, type TemplateResult } from "lit-html";
import {
  type Cell,
  type Column,
  columnsOf,
  type Metric,
  type MetricRows,
  tableOf,
} from "./comparison-table.ts";
import { hundredths, plural } from "./format.ts";
import { problemView } from "./notices.ts";
import { progressView } from "./progress.ts";
import type { Comparison, Store } from "./state.ts";

const TITLES: Record<Metric, string> = {
  accuracy: "Right answers, %",
  agreement: "Same answer as the task’s own adapter, %",
  cosine: "Likeness of its features to the task’s own adapter’s (cosine), %",
};
/** Of models that write: every word must be the same. */
const WRITTEN_TITLES: Record<Metric, string> = {
  ...TITLES,
  accuracy: "Writes exactly the label, %",
  agreement: "Writes exactly what the task’s own adapter writes, %",
};
const TEXTS: Record<Comparison["texts"], string> = {
  "held-out": "on its held-out texts",
  calibration: "on its calibration samples, for want of held-out texts",
  mixed: "on held-out texts where there are some, on the calibration samples otherwise",
};

/** The same of pictures, where it runs on those. */
export const inputWords = (words: string, { pictures }: Pick<Comparison, "pictures">): string =>
  pictures ? words.replaceAll("texts", "pictures") : words;

export function comparisonView(store: Store, comparison: Comparison): TemplateResult {
  const columns = columnsOf(comparison);
  const tables = tableOf(comparison);
  const total = comparison.tasks.reduce((sum, { samples }) => sum + samples, 0);
  return html`
    <section class="panel" aria-labelledby="comparison-heading">
      <h3 id="comparison-heading">How well it does each task</h3>
      <p class="muted">Each task ${inputWords(TEXTS[comparison.texts], comparison)}${total > 0 ? `, ${plural(total, comparison.pictures ? "picture" : "text")} in all` : ""}.</p>
      ${
        tables.length > 0
          ? html`
            <div class="scroll" role="region" aria-label="Comparison by task" tabindex="0">
              <table class="comparison">
                <thead>
                  <tr>
                    <th scope="col">Task</th>
                    ${columns.map((column) => html`<th scope="col" class=${column.merged ? "merged" : ""}>${column.label}</th>`)}
                  </tr>
                </thead>
                ${tables.map((table) => metricBody(table, columns, comparison))}
              </table>
            </div>
          `
          : nothing
      }
      ${comparison.notes.map((note) => html`<p class="hint">${note}</p>`)}
      ${comparison.status === "running" && store.state.work ? progressView(store, store.state.work) : nothing}
      ${comparison.status === "cancelled" ? html`<p class="muted">The comparison was cancelled.</p>` : nothing}
      ${
        comparison.status === "failed" && comparison.problem
          ? html`
            <div class="card-problem" role="alert">
              <p><strong>The comparison stopped; the merged result above is complete.</strong></p>
              ${problemView(comparison.problem)}
            </div>
          `
          : nothing
      }
    </section>
  `;
}

function metricBody(
  table: MetricRows,
  columns: readonly Column[],
  { waiting, writes }: Comparison,
): TemplateResult {
  const cellView = ({ value, best }: Cell, column: number): TemplateResult => html`
    <td class="${columns[column]?.merged ? "merged" : ""} ${best ? "best" : ""}">
      ${best ? html`<strong>${hundredths(value)}</strong><span class="sr-only"> (best merged)</span>` : hundredths(value)}
    </td>
  `;
  return html`
    <tbody>
      <tr class="metric"><th scope="rowgroup" colspan=${columns.length + 1}>${(writes ? WRITTEN_TITLES : TITLES)[table.metric]}</th></tr>
      ${table.rows.map(
        (row) => html`
          <tr>
            <th scope="row">${row.task}</th>
            ${row.cells.map(cellView)}
          </tr>
        `,
      )}
      ${waiting.map(
        (task) => html`
          <tr class="waiting">
            <th scope="row">${task}</th>
            <td colspan=${columns.length}>waiting</td>
          </tr>
        `,
      )}
      ${
        table.mean && waiting.length === 0
          ? html`<tr class="mean"><th scope="row">Mean</th>${table.mean.cells.map(cellView)}</tr>`
          : nothing
      }
    </tbody>
  `;
}
