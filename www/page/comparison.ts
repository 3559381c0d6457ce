/**
 * The comparison table: how base, own adapter and merged adapters answer on each task.
 *
 * `tableOf` works the numbers out and knows no HTML; the best merged adapter of a row is marked only
 * where there is more than one to choose from, and a tie marks all that share it.
 */
import { html, nothing, type TemplateResult } from "lit-html";
import { hundredths, plural } from "./format.ts";
import { problemView } from "./notices.ts";
import { progressView } from "./progress.ts";
import type { Comparison, Store } from "./state.ts";

export type Metric = "accuracy" | "agreement";

export interface Cell {
  value: number | null;
  best: boolean;
}

export interface Row {
  task: string;
  cells: Cell[];
}

export interface MetricRows {
  metric: Metric;
  rows: Row[];
  /** Over tasks, each counting the same; absent with a single task. */
  mean: Row | undefined;
}

/** A column: the name the comparison has for it, and the one a person reads. */
export interface Column {
  variant: string;
  label: string;
  merged: boolean;
}

export function columnsOf(comparison: Pick<Comparison, "variants">): Column[] {
  return [
    { variant: "base", label: "Base", merged: false },
    { variant: "adapter", label: "Own adapter", merged: false },
    // The method that was asked for stands last, where the eye ends.
    ...[...comparison.variants].reverse().map((variant) => ({ variant, label: variant, merged: true })),
  ];
}

export function tableOf(comparison: Pick<Comparison, "variants" | "tasks">): MetricRows[] {
  const columns = columnsOf(comparison);
  const tables: MetricRows[] = [];
  for (const metric of ["accuracy", "agreement"] as const) {
    const values = comparison.tasks.map((task) =>
      columns.map(
        ({ variant }) => task.variants.find((entry) => entry.variant === variant)?.[metric] ?? null,
      ),
    );
    if (values.every((row) => row.every((value) => value === null))) continue;
    const rows = comparison.tasks.map(
      (task, index): Row => ({
        task: task.task,
        cells: cells(values[index] ?? [], columns),
      }),
    );
    const means = columns.map((_, column) => mean(values.map((row) => row[column] ?? null)));
    tables.push({
      metric,
      rows,
      mean: rows.length > 1 ? { task: "Mean", cells: cells(means, columns) } : undefined,
    });
  }
  return tables;
}

/** Mean of the values there are; `null` where one is missing, since another mean would mislead. */
function mean(values: readonly (number | null)[]): number | null {
  let sum = 0;
  for (const value of values) {
    if (value === null) return null;
    sum += value;
  }
  return values.length > 0 ? sum / values.length : null;
}

function cells(values: readonly (number | null)[], columns: readonly Column[]): Cell[] {
  const merged = values.filter((value, index): value is number => value !== null && !!columns[index]?.merged);
  const best = merged.length > 1 ? Math.max(...merged) : undefined;
  return values.map((value, index) => ({ value, best: !!columns[index]?.merged && value === best }));
}

const TITLES: Record<Metric, string> = {
  accuracy: "Right answers, %",
  agreement: "Same answer as the task’s own adapter, %",
};
const TEXTS: Record<Comparison["texts"], string> = {
  "held-out": "on the held-out texts",
  calibration: "on its calibration samples, for want of held-out texts",
  mixed: "on held-out texts where there are some, on the calibration samples otherwise",
};

export function comparisonView(store: Store, comparison: Comparison): TemplateResult {
  const columns = columnsOf(comparison);
  const tables = tableOf(comparison);
  const total = comparison.tasks.reduce((sum, { samples }) => sum + samples, 0);
  return html`
    <section class="panel" aria-labelledby="comparison-heading">
      <h3 id="comparison-heading">How well it does each task</h3>
      <p class="muted">Each task ${TEXTS[comparison.texts]}${total > 0 ? `, ${plural(total, "text")} in all` : ""}.</p>
      ${
        tables.length > 0
          ? html`
            <div class="scroll" role="region" aria-labelledby="comparison-heading" tabindex="0">
              <table class="comparison">
                <thead>
                  <tr>
                    <th scope="col">Task</th>
                    ${columns.map((column) => html`<th scope="col" class=${column.merged ? "merged" : ""}>${column.label}</th>`)}
                  </tr>
                </thead>
                ${tables.map((table) => metricBody(table, columns, comparison.waiting))}
              </table>
            </div>
          `
          : nothing
      }
      ${comparison.notes.map((note) => html`<p class="hint">${note}</p>`)}
      ${store.state.work ? progressView(store, store.state.work) : nothing}
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
  waiting: readonly string[],
): TemplateResult {
  const cellView = ({ value, best }: Cell, column: number): TemplateResult => html`
    <td class="${columns[column]?.merged ? "merged" : ""} ${best ? "best" : ""}">
      ${best ? html`<strong>${hundredths(value)}</strong><span class="sr-only"> (best merged)</span>` : hundredths(value)}
    </td>
  `;
  return html`
    <tbody>
      <tr class="metric"><th scope="rowgroup" colspan=${columns.length + 1}>${TITLES[table.metric]}</th></tr>
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
