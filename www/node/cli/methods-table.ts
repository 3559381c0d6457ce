/** What came of several methods, for people: a table with a row for each, and bars. */
import type { CompareReport } from "../index.ts";
import { percent, table } from "./table.ts";

/** A row's own facts; what is merged already has taken no time. */
export interface Row {
  name: string;
  seconds: number | null;
}

type Task = CompareReport["tasks"][number];

function scoreOf(task: Task, variant: string) {
  return task.variants.find((one) => one.variant === variant);
}

function mean(values: readonly (number | null | undefined)[]): number | null {
  const known = values.filter((value): value is number => typeof value === "number");
  return known.length === 0 ? null : known.reduce((sum, value) => sum + value, 0) / known.length;
}

/** Of a variant over all tasks and modules; `null` for the base and the adapters themselves, which have none. */
export function meanResidual({ residuals }: CompareReport, variant: string): number | null {
  return mean(residuals.filter((one) => one.variant === variant).map(({ residual }) => residual));
}

/** The mean over the tasks; `null` where none has it. */
export function meanScore(
  { tasks }: CompareReport,
  variant: string,
  measure: "agreement" | "accuracy",
): number | null {
  return mean(tasks.map((task) => scoreOf(task, variant)?.[measure]));
}

/** A row for each variant: agreement and accuracy a task, mean residual, seconds. */
export function methodsTable(report: CompareReport, rows: readonly Row[]): string {
  const { tasks } = report;
  const labelled = tasks.filter((task) => task.variants.some(({ accuracy }) => accuracy !== null));
  const header = [
    "method",
    ...tasks.map(({ task }) => `${task} agrees`),
    ...labelled.map(({ task }) => `${task} right`),
    "residual",
    "seconds",
  ];
  const lines = rows.map(({ name, seconds }) => [
    name,
    ...tasks.map((task) => percent(scoreOf(task, name)?.agreement)),
    ...labelled.map((task) => percent(scoreOf(task, name)?.accuracy)),
    meanResidual(report, name)?.toPrecision(3) ?? "-",
    seconds?.toFixed(1) ?? "-",
  ]);
  return table([header, ...lines]);
}

const eighths = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/** A share of 0 to 1 as a bar of at most `width` characters, exact to an eighth of one. */
export function bar(share: number, width: number): string {
  const filled = Math.round(Math.max(0, Math.min(1, share)) * width * 8);
  return "█".repeat(Math.floor(filled / 8)) + (eighths[filled % 8] ?? "");
}

/** Bars of the mean over all tasks, of agreement or accuracy. */
export function methodsChart(
  report: CompareReport,
  rows: readonly Row[],
  measure: "agreement" | "accuracy",
): string {
  const width = 40;
  const names = Math.max(...rows.map(({ name }) => name.length));
  const lines = rows.flatMap(({ name }) => {
    const share = meanScore(report, name, measure);
    if (share === null) return [];
    return [`${name.padEnd(names)}  ${bar(share, width).padEnd(width)}  ${percent(share).padStart(7)}`];
  });
  if (lines.length === 0) return "";
  const title = {
    agreement: "Answers as the task's own adapter does, mean of the tasks",
    accuracy: "Right answers, mean of the tasks",
  }[measure];
  return `${title}\n${lines.join("\n")}\n`;
}
