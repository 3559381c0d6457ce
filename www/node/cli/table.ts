/** Tables for people. */
import type { CompareReport } from "../index.ts";

/** Columns as wide as their widest cell; the first to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? "").length)),
  );
  const lines = rows.map((row) =>
    row.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0),
    ),
  );
  return lines.map((cells) => `${cells.join("  ").trimEnd()}\n`).join("");
}

/** A share of 0 to 1 for people. */
export function percent(value: number | null | undefined): string {
  return value === null || value === undefined ? "-" : `${(value * 100).toFixed(1)} %`;
}

/** Agreement with the task's own adapter, and accuracy where samples have labels, a row for each task. */
export function comparisonTable({ tasks }: CompareReport): string {
  const variants = tasks[0]?.variants.map(({ variant }) => variant) ?? [];
  const block = (title: string, measure: "agreement" | "accuracy") => {
    const rows = tasks.map(({ task, samples, variants: scores }) => [
      task,
      String(samples),
      ...variants.map((name) => percent(scores.find(({ variant }) => variant === name)?.[measure])),
    ]);
    return `${title}\n${table([["task", "samples", ...variants], ...rows])}`;
  };
  const hasLabels = tasks.some((task) => task.variants.some(({ accuracy }) => accuracy !== null));
  const agreement = block("agreement with the task's own adapter", "agreement");
  return hasLabels ? `${agreement}\n${block("accuracy", "accuracy")}` : agreement;
}
