/** Several methods beside each other: a row each with its numbers and its files, bars, and the numbers by task. */
import { html, nothing, type TemplateResult } from "lit-html";
import { inputWords } from "./comparison.ts";
import { count, hundredths, list, plural } from "./format.ts";
import * as icons from "./icons.ts";
import { openEntry } from "./method-comparison.ts";
import { methodComparisonChart } from "./method-comparison-chart.ts";
import {
  type Measure,
  type MethodComparisonTable,
  methodComparisonTable,
  type SurveyRow,
  taskRows,
  written,
} from "./method-comparison-table.ts";
import { notices, problemView } from "./notices.ts";
import { playgroundPanel } from "./playground-panel.ts";
import { saidView } from "./said.ts";
import { saveButton } from "./save.ts";
import type { Entry, MethodComparison, Store } from "./state.ts";

const HEADS: Readonly<Record<Measure, string>> = {
  accuracy: "Right answers, %",
  agreement: "Agreement, %",
  cosine: "Likeness, %",
  residual: "Mean residual",
  seconds: "Time",
};

const TEXTS: Readonly<Record<MethodComparison["texts"], string>> = {
  "held-out": "held-out texts",
  calibration: "calibration samples, for want of held-out texts",
  mixed: "held-out texts where there are some, calibration samples otherwise",
};

export function methodComparisonView(store: Store, comparison: MethodComparison): TemplateResult {
  const table = methodComparisonTable(comparison);
  return html`
    <section class="result method-comparison-result" aria-labelledby="method-comparison-heading">
      <header class="result-head">
        <h2 id="method-comparison-heading" tabindex="-1">${headingOf(comparison)}</h2>
        <p class="muted">${subtitle(comparison)}</p>
        ${
          comparison.stale
            ? html`<p class="stale">${icons.info} Inputs or options have changed since this comparison.</p>`
            : nothing
        }
      </header>
      <section class="panel" aria-labelledby="method-comparison-table-heading">
        <h3 id="method-comparison-table-heading">Which method does best</h3>
        ${tableView(store, comparison, table)} ${explanation(table, comparison)} ${ending(comparison)} ${notices(store, "method-comparison")}
      </section>
      ${comparison.tasks.length > 0 ? html`${methodComparisonChart(table)} ${byTask(comparison, table)} ${saidView(saidOf(comparison))}` : nothing}
      ${comparison.models && !store.state.result && comparison.status !== "running" ? playgroundPanel(store, comparison.models) : nothing}
    </section>
  `;
}

function subtitle(comparison: MethodComparison): string {
  const { tasks, texts, pictures } = comparison;
  const words = inputWords(TEXTS[texts], comparison);
  if (tasks.length === 0) return `On ${words}`;
  const count = tasks.reduce((sum, { samples }) => sum + samples, 0);
  return `${list(tasks.map(({ task }) => task))} · on ${words}, ${plural(count, pictures ? "picture" : "text")} in all`;
}

/** What single pictures are called, without the rows of methods that failed. */
const saidOf = ({ tasks, pictures, entries }: MethodComparison) => ({
  tasks,
  pictures,
  variants: entries
    .filter(({ status }) => status === "done")
    .map(({ name }) => name)
    .reverse(),
});

function headingOf({ entries, status }: MethodComparison): string {
  if (status === "running") return `Comparing ${plural(entries.length, "method")}`;
  const done = entries.filter((entry) => entry.status === "done").length;
  if (done > 0) return `${plural(done, "method")} compared`;
  return status === "cancelled" ? "Comparison cancelled" : "No method could be used";
}

function tableView(store: Store, comparison: MethodComparison, table: MethodComparisonTable): TemplateResult {
  const { measures } = table;
  const reference = (name: string, values: MethodComparisonTable["base"]): TemplateResult => html`
    <tr class="reference">
      <th scope="row">${name}</th>
      <td></td>
      ${measures.map((measure) => html`<td>${measure in values ? hundredths(values[measure]) : ""}</td>`)}
      <td></td>
    </tr>
  `;
  return html`
    <div class="scroll" role="region" aria-label="Methods compared" tabindex="0">
      <table class="method-comparison">
        <thead>
          <tr>
            <th scope="col">Method</th>
            <th scope="col">Rank</th>
            ${measures.map((measure) => html`<th scope="col">${HEADS[measure]}</th>`)}
            <th scope="col"><span class="sr-only">Save</span></th>
          </tr>
        </thead>
        <tbody>
          ${table.rows.map((row) => rowView(store, comparison, row, measures))}
        </tbody>
        ${
          comparison.tasks.length > 0
            ? html`<tbody>${reference("Base model", table.base)} ${reference("Each task’s own adapter", table.own)}</tbody>`
            : nothing
        }
      </table>
    </div>
  `;
}

function rowView(
  store: Store,
  comparison: MethodComparison,
  { entry, values }: SurveyRow,
  measures: readonly Measure[],
): TemplateResult {
  if (entry.status !== "done") return pendingRow(entry, measures.length + 2);
  return html`
    <tr>
      <th scope="row">${entry.name}</th>
      <td>${rankOf(entry)}</td>
      ${measures.map((measure) => {
        const { value = null, best = false } = values[measure] ?? {};
        const text = value === null && comparison.status === "running" ? "…" : written(measure, value);
        return html`
          <td class=${best ? "best" : ""}>
            ${best ? html`<strong>${text}</strong><span class="sr-only"> (best)</span>` : text}
          </td>
        `;
      })}
      <td class="row-actions">
        <div>
          ${saveButton(store, entry.name, { name: `merged-${entry.method.replace("++", "pp")}`, files: entry.files })}
          <button
            class="quiet small" type="button" ?disabled=${store.state.work !== undefined}
            @click=${() => openEntry(store, entry)}
          >
            ${icons.info} Details<span class="sr-only"> of ${entry.name}</span>
          </button>
        </div>
      </td>
    </tr>
  `;
}

function pendingRow(entry: Entry, columns: number): TemplateResult {
  return html`
    <tr class=${entry.status}>
      <th scope="row">${entry.name}</th>
      <td class="words" colspan=${columns}>
        ${
          entry.status === "failed" && entry.problem
            ? html`<div class="row-problem">${icons.alert}${problemView(entry.problem)}</div>`
            : entry.status === "merging"
              ? "merging …"
              : "–"
        }
      </td>
    </tr>
  `;
}

function rankOf({ report }: Entry): string {
  const ranks = [...new Set(report?.layers.map(({ rank }) => rank))].sort((a, b) => a - b);
  if (ranks.length === 0) return "–";
  return ranks.length > 1 ? `${count(ranks[0] ?? 0)}–${count(ranks.at(-1) ?? 0)}` : count(ranks[0] ?? 0);
}

function explanation(
  { measures }: MethodComparisonTable,
  { writes }: MethodComparison,
): TemplateResult | typeof nothing {
  if (!measures.some((measure) => measure !== "seconds")) return nothing;
  const parts = [
    ...(measures.includes("accuracy")
      ? [writes ? "Right: writes exactly the label." : "Right: gives the label."]
      : []),
    ...(measures.includes("agreement")
      ? [`Agreement: ${writes ? "writes exactly what" : "answers as"} the task’s own adapter does.`]
      : []),
    ...(measures.includes("cosine") ? ["Likeness: cosine of its features with the own adapter’s."] : []),
    ...(measures.includes("residual")
      ? ["Residual: the share of an adapter’s effect at a layer that is lost; 0 is nothing."]
      : []),
    "All are means over the tasks.",
  ];
  return html`<p class="hint">${parts.join(" ")}</p>`;
}

function ending({ status, problem, notes }: MethodComparison): TemplateResult {
  return html`
    ${notes.map((note) => html`<p class="hint">${note}</p>`)}
    ${status === "cancelled" ? html`<p class="muted">The comparison was cancelled; what was merged can be saved.</p>` : nothing}
    ${
      status === "failed" && problem
        ? html`
          <div class="card-problem" role="alert">
            ${icons.alert}
            <div>
              <p><strong>The comparison stopped; what was merged can be saved.</strong></p>
              ${problemView(problem)}
            </div>
          </div>
        `
        : nothing
    }
  `;
}

function byTask(
  comparison: MethodComparison,
  { measures }: MethodComparisonTable,
): TemplateResult | typeof nothing {
  const shown = measures.filter((measure) => measure !== "residual" && measure !== "seconds");
  if (comparison.tasks.length < 2 || shown.length === 0) return nothing;
  return html`
    <section class="panel" aria-labelledby="by-task-heading">
      <h3 id="by-task-heading">Task by task</h3>
      <details>
        <summary>The numbers that the means are made of</summary>
        ${shown.map(
          (measure) => html`
            <div class="scroll" role="region" aria-label="${HEADS[measure]} by task" tabindex="0">
              <table class="by-task">
                <caption>${HEADS[measure]}</caption>
                <thead>
                  <tr>
                    <th scope="col">Method</th>
                    ${comparison.tasks.map(({ task }) => html`<th scope="col">${task}</th>`)}
                  </tr>
                </thead>
                <tbody>
                  ${taskRows(comparison, measure).map(
                    ({ name, values }) => html`
                      <tr>
                        <th scope="row">${name}</th>
                        ${values.map((value) => html`<td>${hundredths(value)}</td>`)}
                      </tr>
                    `,
                  )}
                </tbody>
              </table>
            </div>
          `,
        )}
      </details>
    </section>
  `;
}
