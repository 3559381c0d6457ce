/** Names of hundreds of modules by their kinds: in the library, the table, the chart and `inspect`. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { groupByPattern } from "../../www/lib/patterns.ts";
import type { MergeReport } from "../../www/lib/types.ts";
import { condensed, layout } from "../../www/page/chart-layout.ts";
import { groupsOf, outliersOf } from "../../www/page/layer-rows.ts";
import { sdxlModules, sdxlReport } from "./sdxl-report.ts";

const cases: { what: string; names: string[]; groups: [string, number][] }[] = JSON.parse(
  readFileSync(new URL("../patterns.json", import.meta.url), "utf8"),
).cases;

describe("patterns", () => {
  const counted = (names: readonly string[]) =>
    groupByPattern(names, (name) => name).map(({ pattern, items }) => [pattern, items.length]);

  // The core's tests hold its own rule against the same file.
  it.each(cases.map(({ what, names, groups }) => [what, names, groups] as const))(
    "%s",
    (_, names, groups) => {
      expect(counted(names)).toEqual(groups);
    },
  );
});

describe("a report of a thousand layers", () => {
  const report = sdxlReport();
  const tasks = ["one", "two"];

  it("is read by some dozens of kinds", () => {
    expect(report.layers.length).toBeGreaterThan(700);
    const groups = groupsOf(report.layers, tasks);
    expect(groups.length).toBeLessThan(60);
    expect(groups.reduce((sum, { layers }) => sum + layers.length, 0)).toBe(report.layers.length);
  });

  it("has in a kind's row the worst of its layers, their ranks and their time", () => {
    const layer = (index: number, rank: number, error: number, energy_kept: number | null) => ({
      ...(report.layers[0] as MergeReport["layers"][number]),
      module: `blocks.${index}.to_q`,
      rank,
      error,
      energy_kept,
      condition: index,
      seconds: 0.5,
      tasks: [{ task: "one", lambda: index, residual: index / 100 }],
    });
    const many = Array.from({ length: 101 }, (_, index) => layer(index, index < 3 ? 4 : 16, 0.1, null));
    many[7] = layer(7, 8, 0.4, 0.9);
    many[8] = layer(8, 8, 0.2, 0.8);
    const [group] = groupsOf(many, tasks);
    expect(group).toMatchObject({
      pattern: "blocks.*.to_q",
      ranks: "4–16",
      error: 0.4,
      energyKept: 0.8,
      condition: 100,
      seconds: 50.5,
    });
    expect(group?.tasks.get("one")?.lambda).toBeCloseTo(50);
    expect(group?.tasks.get("one")?.residual).toBeCloseTo(0.5);
    expect(group?.tasks.get("two")).toEqual({ lambda: null, residual: null });
  });

  it("is read layer by layer where it has few", () => {
    expect(groupsOf(report.layers.slice(0, 100), tasks)).toEqual([]);
  });

  it("tells the few layers that lost much more than the rest", () => {
    const layers = report.layers.map((layer) => ({ ...layer, error: 0.01, tasks: [] }));
    for (const [index, error] of [
      [3, 0.05],
      [500, 0.3],
      [90, 0.015],
    ] as const) {
      Object.assign(layers[index] ?? {}, { error });
    }
    expect(outliersOf(layers).map(({ layer, what, value }) => [layer.module, what, value])).toEqual([
      [layers[500]?.module, "error", 0.3],
      [layers[3]?.module, "error", 0.05],
    ]);
    expect(outliersOf(layers.map((layer) => ({ ...layer, error: 0 })))).toEqual([]);
  });
});

describe("the chart of many modules", () => {
  const entries = (modules: readonly string[]) =>
    modules.flatMap((module, index) =>
      ["IterIS", "average"].map((variant) => ({ module, task: "one", variant, residual: index % 10 })),
    );
  const inLayers = (layers: number) =>
    Array.from({ length: layers * 10 }, (_, i) => `model.layers.${Math.floor(i / 10)}.m${i % 10}`);

  it("has a column each while they can be told apart", () => {
    const few = entries(inLayers(16));
    expect(condensed(few)).toEqual({ residuals: few, columns: "module" });
  });

  it("has a column a layer, the mean of its modules", () => {
    const { residuals, columns } = condensed(entries(inLayers(100)));
    expect([columns, residuals.length]).toEqual(["layer", 200]);
    expect(residuals[0]).toEqual({
      module: "model.layers.0",
      task: "one",
      variant: "IterIS",
      residual: 4.5,
    });
    const [panel] = layout(residuals, ["IterIS", "average"]);
    expect(panel?.columns).toHaveLength(100);
    expect(panel?.bands).toHaveLength(100);
  });

  it("has a column a kind where the names tell no layers, and leaves out what is not known", () => {
    const known = entries(sdxlModules());
    const { residuals, columns } = condensed([
      ...known,
      { module: "other", task: "one", variant: "IterIS", residual: Number.NaN },
    ]);
    expect(columns).toBe("kind");
    expect(residuals.length).toBeLessThan(2 * 60);
    expect(residuals.every(({ residual }) => Number.isFinite(residual))).toBe(true);
  });
});
