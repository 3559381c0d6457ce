import { describe, expect, it } from "vitest";
import type { Progress } from "../../www/lib/types.ts";
import { layout, ticksTo } from "../../www/page/chart-layout.ts";
import { tableOf } from "../../www/page/comparison-table.ts";
import { bytes, compact, duration, layerName, number, percent, setting } from "../../www/page/format.ts";
import { shareDone } from "../../www/page/pace.ts";
import { beginsStretch } from "../../www/page/work.ts";

describe("format", () => {
  it("writes bytes in decimal units, never with four digits", () => {
    expect([0, 999, 1000, 304_600, 999_600, 90_868_376, 4e9].map(bytes)).toEqual([
      "0 B",
      "999 B",
      "1.0 kB",
      "305 kB",
      "1.0 MB",
      "90.9 MB",
      "4.0 GB",
    ]);
  });

  it("writes times as people say them", () => {
    expect([0.04, 9.94, 12.4, 59.6, 61, 120, 3660].map(duration)).toEqual([
      "0.0 s",
      "9.9 s",
      "12 s",
      "1 min",
      "1 min 1 s",
      "2 min",
      "1 h 1 min",
    ]);
  });

  it("keeps three digits of any size, and shows what is not there as a dash", () => {
    expect([0, 0.0123, 1234.4, 0.00001, 3.3e6].map(number)).toEqual([
      "0",
      "0.0123",
      "1,234",
      "1.0 × 10⁻⁵",
      "3.3 × 10⁶",
    ]);
    expect([number(null), number(Number.NaN), percent(undefined)]).toEqual(["–", "–", "–"]);
    expect([setting(32), setting(0.125), compact(22_713_216), percent(0.9714)]).toEqual([
      "32",
      "0.125",
      "22.7M",
      "97.1 %",
    ]);
  });
});

describe("progress", () => {
  it("never runs backwards when a stage that counts for itself begins", () => {
    const stages = [
      { stage: "load", done: 0, total: 1 },
      { stage: "forward", done: 0, total: 4 },
      { stage: "solve", done: 3, total: 4 },
      { stage: "forward", done: 4, total: 4 },
      { stage: "load", done: 0, total: 1 },
      { stage: "merge", done: 4, total: 5 },
      { stage: "write", done: 4, total: 5 },
      { stage: "write", done: 5, total: 5 },
    ] as const;
    const at = (count: Pick<Progress, "stage" | "done" | "total">) => ({ ...count, layer: "", seconds: 0 });
    let share = 0;
    const shares = stages.map((stage) => {
      share = shareDone(at(stage), share);
      return share;
    });
    expect(shares).toEqual([0, 0, 0.97 * 0.75, 0.97, 0.97, 0.97, 0.97, 0.99]);
    expect(shareDone(at({ stage: "merge", done: 1, total: 2 }))).toBe(0.99 / 2);
    expect(shareDone(at({ stage: "compare", done: 5, total: 5 }))).toBe(1);
    expect(shareDone(at({ stage: "generate", done: 8, total: 32 }))).toBe(0.25);
    expect(shareDone(at({ stage: "forward", done: 0, total: 0 }))).toBe(0);
  });

  it("begins a new stretch where answers are written first, and where they are done", () => {
    const at = (stage: "load" | "generate" | "forward", done: number): Progress => ({
      stage,
      layer: "",
      done,
      total: 8,
      seconds: 0,
    });
    expect(beginsStretch(undefined, at("load", 0))).toBe(false);
    expect(beginsStretch(undefined, at("generate", 0))).toBe(true);
    expect(beginsStretch(at("load", 0), at("forward", 0))).toBe(false);
    expect(beginsStretch(at("load", 0), at("generate", 0))).toBe(true);
    expect(beginsStretch(at("generate", 3), at("generate", 4))).toBe(false);
    // The next adapter's.
    expect(beginsStretch(at("generate", 8), at("generate", 0))).toBe(true);
    expect(beginsStretch(at("generate", 8), at("forward", 0))).toBe(true);
  });

  it("names a module by layer and place", () => {
    expect(layerName("bert.encoder.layer.3.attention.self.query")).toBe("layer 3, attention.self.query");
    expect(layerName("encoder.layer.11.output.dense")).toBe("layer 11, output.dense");
    expect(layerName("pooler.dense")).toBe("pooler.dense");
    expect(layerName("h.2.attn.c_attn")).toBe("layer 2, attn.c_attn");
    expect(layerName("encoder.block.1.layer.0.SelfAttention.q")).toBe("encoder layer 1, SelfAttention.q");
    expect(layerName("decoder.block.1.layer.1.EncDecAttention.q")).toBe("decoder layer 1, EncDecAttention.q");
    expect(layerName("model.decoder.layers.11.fc1")).toBe("decoder layer 11, fc1");
    expect(layerName("vision_model.encoder.layers.2.self_attn.qkv")).toBe("vision layer 2, self_attn.qkv");
    expect(layerName("text_decoder.bert.encoder.layer.0.crossattention.self.key")).toBe(
      "text layer 0, crossattention.self.key",
    );
    expect(layerName("text_model.encoder.layers.2.mlp.fc1")).toBe("text layer 2, mlp.fc1");
    expect(layerName("text_decoder.cls.predictions.transform.dense")).toBe(
      "text_decoder.cls.predictions.transform.dense",
    );
  });
});

describe("comparison table", () => {
  const variants = ["IterIS", "Linear average"];
  const entry = (variant: string, accuracy: number | null, agreement: number | null) => ({
    variant,
    accuracy,
    agreement,
    cosine: 0,
  });
  const task = (name: string, iteris: number | null, linear: number | null) => ({
    task: name,
    samples: 10,
    labelled: 10,
    variants: [
      entry("base", 0.2, 0.2),
      entry("adapter", 0.9, 1),
      entry("IterIS", iteris, 0.9),
      entry("Linear average", linear, 0.9),
    ],
  });

  it("marks the best merged adapter and never base or own adapter", () => {
    const [accuracy] = tableOf({ variants, tasks: [task("a", 0.8, 0.6), task("b", 0.5, 0.7)] });
    expect(accuracy?.rows.map((row) => row.cells.map(({ best }) => best))).toEqual([
      [false, false, false, true],
      [false, false, true, false],
    ]);
    // 0.65 twice, but for the last bit of a sum of decimal fractions: shown alike, so best alike.
    expect(accuracy?.mean?.cells.map(({ value }) => value?.toFixed(3))).toEqual([
      "0.200",
      "0.900",
      "0.650",
      "0.650",
    ]);
    expect(accuracy?.mean?.cells.map(({ best }) => best)).toEqual([false, false, true, true]);
  });

  it("marks both in a tie, and nothing where there is one merged adapter", () => {
    const [, agreement] = tableOf({ variants, tasks: [task("a", 0.8, 0.6)] });
    expect(agreement?.rows[0]?.cells.map(({ best }) => best)).toEqual([false, false, true, true]);
    const [alone] = tableOf({ variants: ["Linear average"], tasks: [task("a", 0.8, 0.6)] });
    expect(alone?.rows[0]?.cells.some(({ best }) => best)).toBe(false);
  });

  it("leaves a metric out that nothing is known of, and means over gaps too", () => {
    const unlabelled = {
      task: "a",
      samples: 3,
      labelled: 0,
      variants: [entry("base", null, 0.5), entry("IterIS", null, 0.9)],
    };
    expect(tableOf({ variants: ["IterIS"], tasks: [unlabelled] }).map(({ metric }) => metric)).toEqual([
      "agreement",
    ]);
    const headless = {
      task: "a",
      samples: 3,
      labelled: 0,
      variants: [entry("base", null, null), entry("IterIS", null, null)],
    };
    expect(tableOf({ variants: ["IterIS"], tasks: [headless] }).map(({ metric }) => metric)).toEqual([
      "cosine",
    ]);
    const [accuracy] = tableOf({ variants, tasks: [task("a", 0.8, 0.6), task("b", null, 0.7)] });
    expect(accuracy?.mean?.cells[3]?.value).toBeNull();
  });
});

describe("chart", () => {
  it("has round ticks that reach the largest value", () => {
    expect(ticksTo(0.68)).toEqual([0, 0.2, 0.4, 0.6, 0.8]);
    expect(ticksTo(1)).toEqual([0, 0.5, 1]);
    expect(ticksTo(0.0031)).toEqual([0, 0.001, 0.002, 0.003, 0.004]);
    expect(ticksTo(0)).toEqual([0, 1]);
    for (const max of [0.013, 0.2, 0.9, 7, 123]) {
      const ticks = ticksTo(max);
      expect(ticks.at(-1)).toBeGreaterThanOrEqual(max);
      expect(ticks.length).toBeLessThanOrEqual(7);
    }
  });

  it("puts every task on the same scale and every module in its layer's band", () => {
    const residual = (task: string, layer: number, name: string, variant: string, value: number) => ({
      task,
      variant,
      module: `bert.encoder.layer.${layer}.attention.self.${name}`,
      residual: value,
    });
    const panels = layout(
      [
        residual("a", 0, "query", "IterIS", 0.1),
        residual("a", 0, "value", "IterIS", 0.2),
        residual("a", 1, "query", "IterIS", 0.4),
        residual("b", 0, "query", "IterIS", 0.8),
        residual("b", 0, "value", "IterIS", Number.NaN),
        residual("b", 1, "query", "Other", 5),
      ],
      ["IterIS"],
    );
    expect(panels.map(({ task }) => task)).toEqual(["a", "b"]);
    expect(panels[0]?.ticks).toEqual(panels[1]?.ticks);
    expect(panels[0]?.bands.map(({ label }) => label)).toEqual(["0", "1"]);
    expect(panels[0]?.bands[0]?.width).toBeCloseTo(2 * (panels[0]?.bands[1]?.width ?? 0));
    const heights = panels[0]?.columns.map(({ points }) => points[0]?.y ?? Number.NaN) ?? [];
    expect(heights[0]).toBeGreaterThan(heights[1] ?? Number.NaN);
    // What is not known is not drawn as zero.
    expect(panels[1]?.columns.map(({ points }) => points.length)).toEqual([1, 0, 0]);
  });

  it("tells an encoder's layers from a decoder's", () => {
    const entry = (module: string) => ({ task: "a", variant: "IterIS", module, residual: 0.5 });
    const modules = ["encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.0.SelfAttention.q"];
    const [panel] = layout(modules.map(entry), ["IterIS"], modules);
    expect(panel?.bands.map(({ label }) => label)).toEqual(["e0", "d0"]);
  });

  it("has the modules in the model's order, whatever order the numbers come in", () => {
    const entry = (module: string) => ({ task: "a", variant: "IterIS", module, residual: 0.5 });
    const [panel] = layout(["c", "b", "a", "z"].map(entry), ["IterIS"], ["a", "b", "c"]);
    expect(panel?.columns.map(({ module }) => module)).toEqual(["a", "b", "c", "z"]);
  });

  it("draws nothing where there is nothing", () => {
    expect(layout([], ["IterIS"])).toEqual([]);
  });
});
