/**
 * The numbers of a method comparison: one row a method, each number the mean over tasks, with what base and own adapters do to
 * compare with.
 *
 * A mean over the tasks that are through so far would change its meaning with each further one. So a mean stands where
 * a number is known for every task that has been compared, and nothing is marked best before all have.
 */
import { duration, hundredths, number } from "./format.ts";
import type { Entry, MethodComparison } from "./state.ts";

export type Measure = "accuracy" | "agreement" | "cosine" | "residual" | "seconds";

/** In which direction a measure is better; of the time none is marked. */
const BETTER: Readonly<Record<Measure, "more" | "less" | undefined>> = {
  accuracy: "more",
  agreement: "more",
  cosine: "more",
  residual: "less",
  seconds: undefined,
};

export const lessIsBetter = (measure: Measure): boolean => BETTER[measure] === "less";

export interface Value {
  value: number | null;
  best: boolean;
}

export interface SurveyRow {
  entry: Entry;
  values: Partial<Record<Measure, Value>>;
}

export interface MethodComparisonTable {
  measures: Measure[];
  rows: SurveyRow[];
  /** What base model and own adapters do, where they do anything that is measured. */
  base: Partial<Record<Measure, number | null>>;
  own: Partial<Record<Measure, number | null>>;
}

type Numbers = Pick<MethodComparison, "entries" | "tasks" | "residuals" | "status">;

export function methodComparisonTable(comparison: Numbers): MethodComparisonTable {
  const { entries, status } = comparison;
  const all = (["accuracy", "agreement", "cosine", "residual", "seconds"] as const).map((measure) => ({
    measure,
    values: entries.map((entry) => measured(comparison, entry, measure)),
  }));
  const known = all.filter(({ values }) => values.some((value) => value !== null));
  // Features are a stand-in for adapters that have no head and so give no answers.
  const answers = known.some(({ measure }) => measure === "agreement");
  const shown = known.filter(({ measure }) => !(measure === "cosine" && answers));
  const rows = entries.map((entry, index): SurveyRow => {
    const values = shown.map(({ measure, values }): [Measure, Value] => {
      const value = values[index] ?? null;
      return [measure, { value, best: status === "done" && isBest(value, values, measure) }];
    });
    return { entry, values: Object.fromEntries(values) };
  });
  const reference = (variant: string) =>
    Object.fromEntries(
      shown.flatMap(({ measure }) =>
        measure === "residual" || measure === "seconds"
          ? []
          : [[measure, meanOf(comparison, variant, measure)]],
      ),
    );
  return {
    measures: shown.map(({ measure }) => measure),
    rows,
    base: reference("base"),
    own: reference("adapter"),
  };
}

function measured(comparison: Numbers, entry: Entry, measure: Measure): number | null {
  if (measure === "seconds") return entry.report?.seconds.total ?? null;
  if (measure === "residual") return meanResidual(comparison.residuals, entry.name);
  return meanOf(comparison, entry.name, measure);
}

/** Over tasks, each counting the same. */
function meanOf(
  { tasks }: Numbers,
  variant: string,
  measure: "accuracy" | "agreement" | "cosine",
): number | null {
  const values = tasks.map(
    (task) => task.variants.find((other) => other.variant === variant)?.[measure] ?? null,
  );
  return mean(values);
}

/** Over modules and tasks; a residual is not known where an adapter does nothing at a layer. */
const meanResidual = (residuals: MethodComparison["residuals"], variant: string): number | null =>
  mean(
    residuals
      .filter((entry) => entry.variant === variant && Number.isFinite(entry.residual))
      .map(({ residual }) => residual),
  );

function mean(values: readonly (number | null)[]): number | null {
  let sum = 0;
  for (const value of values) {
    if (value === null) return null;
    sum += value;
  }
  return values.length > 0 ? sum / values.length : null;
}

/** What reads the same is a tie; where all do, or where there is one method, there is nothing to choose. */
function isBest(value: number | null, values: readonly (number | null)[], measure: Measure): boolean {
  const direction = BETTER[measure];
  const known = values.filter((other) => other !== null).map(shownDigits);
  if (!direction || value === null || new Set(known).size < 2) return false;
  return shownDigits(value) === (direction === "more" ? Math.max(...known) : Math.min(...known));
}

const shownDigits = (value: number): number => Math.round(value * 1000);

/** One task's numbers, a row a method: for who wants to know what a mean hides. */
export interface TaskRow {
  name: string;
  values: (number | null)[];
}

/** The measure's numbers task by task: base, own adapters, then every method that is through. */
export function taskRows(comparison: Numbers, measure: "accuracy" | "agreement" | "cosine"): TaskRow[] {
  const row = (name: string, variant: string): TaskRow => ({
    name,
    values: comparison.tasks.map(
      (task) => task.variants.find((other) => other.variant === variant)?.[measure] ?? null,
    ),
  });
  const merged = comparison.entries.filter(({ status }) => status === "done");
  return [row("Base", "base"), row("Own adapter", "adapter"), ...merged.map(({ name }) => row(name, name))];
}

/** A value as the chart and the table write it. */
export function written(measure: Measure, value: number | null): string {
  if (value === null) return "–";
  if (measure === "seconds") return duration(value);
  return measure === "residual" ? number(value) : hundredths(value);
}
