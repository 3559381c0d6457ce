import { describe, expect, it } from "vitest";
import type { MergeReport } from "../../www/lib/types.ts";
import { methodComparisonTable, taskRows, written } from "../../www/page/method-comparison-table.ts";
import type { Entry, MethodComparison } from "../../www/page/state.ts";

const entry = (method: Entry["method"], name: string, more: Partial<Entry> = {}): Entry => ({
  method,
  name,
  status: "done",
  files: [],
  report: { seconds: { total: 2 } } as MergeReport,
  ...more,
});

type Answers = Record<string, [accuracy: number | null, agreement: number | null]>;

const task = (name: string, answers: Answers) => ({
  task: name,
  samples: 10,
  labelled: 10,
  variants: Object.entries(answers).map(([variant, [accuracy, agreement]]) => ({
    variant,
    accuracy,
    agreement,
    cosine: 0.5,
  })),
});

const residual = (variant: string, value: number) => ({ module: "a", task: "one", variant, residual: value });

const comparison = (more: Partial<MethodComparison> = {}) => ({
  entries: [entry("iteris", "IterIS"), entry("ties", "TIES")],
  status: "done" as const,
  tasks: [
    task("one", { base: [0.2, 0.2], adapter: [0.9, 1], IterIS: [0.9, 0.8], TIES: [0.5, 0.8] }),
    task("two", { base: [0.4, 0.2], adapter: [0.9, 1], IterIS: [0.7, 0.6], TIES: [0.6, 0.6] }),
  ],
  residuals: [
    residual("IterIS", 0.1),
    residual("IterIS", 0.3),
    residual("TIES", 0.5),
    residual("TIES", Number.NaN),
  ],
  ...more,
});

describe("the table of a method comparison", () => {
  it("has means over tasks, and over the residuals that are known", () => {
    const { measures, rows, base, own } = methodComparisonTable(comparison());
    expect(measures).toEqual(["accuracy", "agreement", "residual", "seconds"]);
    const values = rows.map((row) => measures.map((measure) => row.values[measure]?.value?.toFixed(2)));
    expect(values).toEqual([
      ["0.80", "0.70", "0.20", "2.00"],
      ["0.55", "0.70", "0.50", "2.00"],
    ]);
    expect(base.accuracy).toBeCloseTo(0.3);
    expect(own).toEqual({ accuracy: 0.9, agreement: 1 });
  });

  it("marks more answers and less residual, and never the time", () => {
    const best = methodComparisonTable(comparison()).rows.map(({ values }) =>
      Object.entries(values).flatMap(([measure, { best }]) => (best ? [measure] : [])),
    );
    // They agree alike, so neither does better.
    expect(best).toEqual([["accuracy", "residual"], []]);
  });

  it("marks all that share the best", () => {
    const answers: Answers = {
      base: [0, 0],
      adapter: [1, 1],
      IterIS: [0.9, 0.9],
      TIES: [0.9, 0.9],
      KnOTS: [0.5, 0.5],
    };
    const { rows } = methodComparisonTable(
      comparison({
        entries: [entry("iteris", "IterIS"), entry("ties", "TIES"), entry("knots", "KnOTS")],
        tasks: [task("one", answers)],
      }),
    );
    expect(rows.map(({ values }) => values.accuracy?.best)).toEqual([true, true, false]);
  });

  it("marks nothing while tasks are still to come, and nothing of one method", () => {
    const marked = (more: Partial<MethodComparison>) =>
      methodComparisonTable(comparison(more)).rows.some(({ values }) =>
        Object.values(values).some(({ best }) => best),
      );
    expect(marked({ status: "running" })).toBe(false);
    expect(marked({ entries: [entry("iteris", "IterIS")] })).toBe(false);
  });

  it("takes features where there are no answers, and leaves out what nobody knows", () => {
    const wordless = [task("one", { base: [null, null], IterIS: [null, null], TIES: [null, null] })];
    expect(methodComparisonTable(comparison({ tasks: wordless })).measures).toEqual([
      "cosine",
      "residual",
      "seconds",
    ]);
    const entries = [entry("iteris", "IterIS", { status: "waiting" })].map(({ report: _, ...rest }) => rest);
    expect(methodComparisonTable(comparison({ entries, tasks: [], residuals: [] })).measures).toEqual([]);
  });

  it("gives no mean where a task has no number", () => {
    const half = [
      task("one", { IterIS: [0.9, 0.9], TIES: [0.5, 0.5] }),
      task("two", { IterIS: [null, 0.9], TIES: [null, 0.5] }),
    ];
    const { measures, rows } = methodComparisonTable(comparison({ tasks: half }));
    expect(measures).not.toContain("accuracy");
    expect(rows[0]?.values.agreement).toEqual({ value: 0.9, best: true });
  });

  it("has every task's numbers of what is through", () => {
    const entries = [entry("iteris", "IterIS"), entry("ties", "TIES", { status: "failed" })];
    expect(taskRows(comparison({ entries }), "accuracy")).toEqual([
      { name: "Base", values: [0.2, 0.4] },
      { name: "Own adapter", values: [0.9, 0.9] },
      { name: "IterIS", values: [0.9, 0.7] },
    ]);
  });
});

it("writes a measure in its own unit", () => {
  expect([
    written("accuracy", 0.9),
    written("residual", 0.123456),
    written("seconds", 4),
    written("cosine", null),
  ]).toEqual(["90.0", "0.123", "4.0 s", "–"]);
});
