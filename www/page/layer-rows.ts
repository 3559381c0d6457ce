/** The layers of a report for reading: kinds of layers where there are hundreds, and the few that stand out. */
import { groupByPattern, type MergeReport } from "../lib/index.ts";

export type Layer = MergeReport["layers"][number];

/** So many rows are read one by one; of more, kinds are shown first. */
const MOST_ROWS = 100;

/** Layers of one kind in one row: what they are between them. */
export interface LayerGroup {
  pattern: string;
  layers: Layer[];
  /** `16`, or `4–16`. */
  ranks: string;
  /** The least of them. */
  energyKept: number | null;
  /** The largest of them. */
  error: number | null;
  condition: number | null;
  /** Of all of them. */
  seconds: number;
  /** Means, by the tasks' names. */
  tasks: Map<string, { lambda: number | null; residual: number | null }>;
}

/** The layers by kind; none where they are few enough to be read one by one. */
export function groupsOf(layers: readonly Layer[], tasks: readonly string[]): LayerGroup[] {
  if (layers.length <= MOST_ROWS) return [];
  return groupByPattern(layers, ({ module }) => module).map(({ pattern, items }) => ({
    pattern,
    layers: items,
    ranks: span(items.map(({ rank }) => rank)),
    energyKept: extreme(items, ({ energy_kept }) => energy_kept, Math.min),
    error: extreme(items, ({ error }) => error, Math.max),
    condition: extreme(items, ({ condition }) => condition, Math.max),
    seconds: items.reduce((sum, { seconds }) => sum + seconds, 0),
    tasks: new Map(
      tasks.map((task) => {
        const own = items.flatMap((layer) => layer.tasks.find((entry) => entry.task === task) ?? []);
        const means = {
          lambda: mean(own.map(({ lambda }) => lambda)),
          residual: mean(own.map(({ residual }) => residual)),
        };
        return [task, means] as const;
      }),
    ),
  }));
}

/** A layer that lost much more than the others. */
export interface Outlier {
  layer: Layer;
  what: "error" | "residual";
  value: number;
}

/** At most so many are told. */
const MOST_OUTLIERS = 5;

/** The layers that lost more than three times what is usual, worst first: by their residual where they were solved, else by their error. */
export function outliersOf(layers: readonly Layer[]): Outlier[] {
  const found = layers.flatMap((layer): Outlier[] => {
    const residuals = layer.tasks.flatMap(({ residual }) => residual ?? []);
    if (residuals.length > 0) return [{ layer, what: "residual", value: Math.max(...residuals) }];
    return layer.error === null ? [] : [{ layer, what: "error", value: layer.error }];
  });
  const sorted = found.sort((a, b) => b.value - a.value);
  const usual = sorted[Math.floor(sorted.length / 2)]?.value ?? 0;
  return sorted.filter(({ value }) => value > 3 * usual && value > 1e-4).slice(0, MOST_OUTLIERS);
}

/** `16`, or `4–16`. */
export function span(values: readonly number[]): string {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return least === most ? String(least) : `${least}–${most}`;
}

function extreme(
  layers: readonly Layer[],
  of: (layer: Layer) => number | null,
  choose: (...values: number[]) => number,
): number | null {
  const known = layers.flatMap((layer) => of(layer) ?? []);
  return known.length === 0 ? null : choose(...known);
}

function mean(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null && Number.isFinite(value)) as number[];
  return known.length === 0 ? null : known.reduce((sum, value) => sum + value, 0) / known.length;
}
