/**
 * The geometry of the residual chart, without any drawing: where columns, bands, ticks and dots stand.
 *
 * All panels share one scale from 0. A residual that is not known (NaN where an adapter does nothing at a layer) is
 * left out: drawn as 0 it would read as perfect.
 */
import { groupByPattern } from "../lib/index.ts";
import { layerPlace } from "./format.ts";
import type { Comparison } from "./state.ts";

export const WIDTH = 360;
export const HEIGHT = 220;
export const LEFT = 40;
export const RIGHT = 10;
export const TOP = 12;
export const BOTTOM = 34;

type Residuals = Comparison["residuals"];

export interface Point {
  variant: string;
  value: number;
  y: number;
}

export interface ColumnMark {
  module: string;
  x: number;
  points: Point[];
}

export interface Panel {
  task: string;
  columns: ColumnMark[];
  /** Layers, each as wide as its columns; `e3` and `d3` where a model has an encoder and a decoder, `v3` and `t3` of towers. */
  bands: { label: string; x: number; width: number }[];
  ticks: { value: number; y: number }[];
  columnWidth: number;
}

/**
 * The panels of all tasks, on one scale from 0, so that they can be compared with each other.
 *
 * @param order modules in the order in which the model runs them; others come last, as they are given
 */
export function layout(
  residuals: Residuals,
  variants: readonly string[],
  order: readonly string[] = [],
): Panel[] {
  const shown = residuals.filter(
    ({ residual, variant }) => Number.isFinite(residual) && variants.includes(variant),
  );
  if (shown.length === 0) return [];
  const places = new Map(order.map((module, index) => [module, index]));
  const place = (module: string): number => places.get(module) ?? order.length;
  const modules = [...new Set(shown.map(({ module }) => module))].sort((a, b) => place(a) - place(b));
  const key = (task: string, module: string, variant: string): string => `${task}\n${module}\n${variant}`;
  const entries = new Map(shown.map((entry) => [key(entry.task, entry.module, entry.variant), entry]));
  const ticks = ticksTo(Math.max(...shown.map(({ residual }) => residual)));
  const top = ticks.at(-1) ?? 1;
  const y = (value: number): number => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const columnWidth = (WIDTH - LEFT - RIGHT) / modules.length;
  const x = (index: number): number => LEFT + columnWidth * index;

  const bands: Panel["bands"] = [];
  modules.forEach((module, index) => {
    const place = layerPlace(module);
    const label = place ? `${place.side?.[0] ?? ""}${place.layer}` : "";
    const last = bands.at(-1);
    if (last && last.label === label) last.width += columnWidth;
    else bands.push({ label, x: x(index), width: columnWidth });
  });

  return [...new Set(shown.map(({ task }) => task))].map((task) => ({
    task,
    bands,
    columnWidth,
    ticks: ticks.map((value) => ({ value, y: y(value) })),
    columns: modules.map((module, index) => ({
      module,
      x: x(index) + columnWidth / 2,
      points: variants.flatMap((variant) => {
        const entry = entries.get(key(task, module, variant));
        return entry ? [{ variant, value: entry.residual, y: y(entry.residual) }] : [];
      }),
    })),
  }));
}

/** So many columns can be told apart. */
const MOST_COLUMNS = 160;

/** What a column stands for where there are too many modules. */
export type ColumnKind = "module" | "layer" | "kind";

/**
 * The residuals as they are where a column a module has room, else means: of a layer's modules, or of modules of one kind
 * where the names tell no layers.
 */
export function condensed(residuals: Residuals): { residuals: Residuals; columns: ColumnKind } {
  const modules = [...new Set(residuals.map(({ module }) => module))];
  if (modules.length <= MOST_COLUMNS) return { residuals, columns: "module" };
  const layers = new Map(modules.map((module) => [module, wholeLayer(module)]));
  const byLayer = new Set(layers.values()).size <= MOST_COLUMNS && ![...layers.values()].includes(undefined);
  const groups = byLayer ? [] : groupByPattern(modules, (module) => module);
  const kinds = new Map(groups.flatMap(({ pattern, items }) => items.map((module) => [module, pattern])));
  const nameOf = (module: string): string => (byLayer ? layers : kinds).get(module) ?? module;
  const sums = new Map<string, { entry: Residuals[number]; sum: number; count: number }>();
  for (const entry of residuals) {
    if (!Number.isFinite(entry.residual)) continue;
    const module = nameOf(entry.module);
    const key = `${entry.task}\n${module}\n${entry.variant}`;
    const known = sums.get(key) ?? { entry: { ...entry, module }, sum: 0, count: 0 };
    known.sum += entry.residual;
    known.count += 1;
    sums.set(key, known);
  }
  const means = [...sums.values()].map(({ entry, sum, count }) => ({ ...entry, residual: sum / count }));
  return { residuals: means, columns: byLayer ? "layer" : "kind" };
}

/** The name of the layer that a module is part of: `model.layers.3` of `model.layers.3.self_attn.q_proj`. */
function wholeLayer(module: string): string | undefined {
  const place = layerPlace(module);
  return place && (place.rest === "" ? module : module.slice(0, -place.rest.length - 1));
}

/** 0 and round steps up to at least `max`: steps of 1, 2 or 5 times a power of ten, four to six of them. */
export function ticksTo(max: number): number[] {
  if (!(max > 0)) return [0, 1];
  const rough = max / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) ?? 10) * power;
  const steps = Math.ceil(max / step - 1e-9);
  return Array.from({ length: steps + 1 }, (_, index) => Number((index * step).toPrecision(6)));
}
