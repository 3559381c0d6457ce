/**
 * The numbers of the comparison table: how base, own adapter and merged adapters answer on each task.
 *
 * The best merged adapter of a row is marked only where there is more than one to choose from, and a
 * tie marks all that share it. Base and own adapter are what to compare with; they are never "best".
 */
import type { Comparison } from "./state.ts";

export type Metric = "accuracy" | "agreement" | "cosine";

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
  for (const metric of ["accuracy", "agreement", "cosine"] as const) {
    // Features are a stand-in for adapters that have no head and so give no answers.
    if (metric === "cosine" && tables.some((table) => table.metric === "agreement")) continue;
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
  const shown = values.map((value, index) => (columns[index]?.merged ? shownDigits(value) : undefined));
  const merged = shown.filter((value) => value !== undefined);
  const best = merged.length > 1 ? Math.max(...merged) : undefined;
  return values.map((value, index) => ({ value, best: best !== undefined && shown[index] === best }));
}

/** The value as far as the table shows it: what reads the same is a tie. */
const shownDigits = (value: number | null): number | undefined =>
  value === null ? undefined : Math.round(value * 1000);
