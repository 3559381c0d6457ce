/** `iteris-web compare`: its words, its table and its bars. */
import { sep } from "node:path";
import { describe, expect, it } from "vitest";
import { METHODS } from "../../www/lib/methods.ts";
import type { CompareReport } from "../../www/lib/types.ts";
import { parseCommand } from "../../www/node/cli/args.ts";
import { bar, methodsChart, methodsTable } from "../../www/node/cli/methods-table.ts";
import type { CompareCommand } from "../../www/node/cli/parse-compare.ts";
import { progressView } from "../../www/node/cli/progress.ts";
import { pathFrom } from "../../www/node/files.ts";

const compare = (words: string) =>
  parseCommand(["compare", "--base", "m", ...words.split(" ")]) as CompareCommand;
const refused = (message: string) =>
  expect.objectContaining({ code: "option_invalid", message: expect.stringContaining(message) });
const calibrated = "--adapter a --samples a.txt --adapter b --samples b.txt";
const tested = "--adapter a --compare a.txt --adapter b --compare b.txt";

describe("the command line of a comparison", () => {
  it("reads inputs, methods and where to keep the results", () => {
    expect(
      compare(`${calibrated} --methods ties,iteris --density .2 --out o --force --merged x/c --json`),
    ).toEqual({
      command: "compare",
      base: "m",
      adapters: ["a", "b"].map((name) => ({ name, folder: name, samples: `${name}.txt` })),
      methods: ["ties", "iteris"],
      merged: [{ name: "c", folder: "x/c" }],
      out: "o",
      force: true,
      options: { density: 0.2 },
      device: "auto",
      workers: "auto",
      json: true,
    });
  });

  it("compares the usual methods, or all of them; without samples those that need none", () => {
    expect(compare(calibrated).methods).toEqual(["iteris", "average", "ties"]);
    expect(compare(tested).methods).toEqual(["average", "ties"]);
    expect(compare(`${calibrated} --methods all`).methods).toEqual(METHODS.map(({ name }) => name));
    const free = METHODS.filter(({ samples }) => !samples).map(({ name }) => name);
    expect(compare(`${tested} --methods all`).methods).toEqual(free);
    expect(compare(`${tested} --methods task-arithmetic`).methods).toEqual(["task_arithmetic"]);
  });

  it("takes options that one of the methods looks at", () => {
    const line = `${calibrated} --methods iteris,dare_ties --alpha .01 --seed 3 --layer-weights q=1,2`;
    expect(compare(line).options).toEqual({
      alpha1: 0.01,
      alpha2: 0.01,
      seed: 3,
      layerWeights: { q: [1, 2] },
    });
  });

  it("gives a seed to whatever draws: DARE, and adapters that write their samples", () => {
    const self = "--adapter a --samples self --compare a.jsonl --seed 3";
    expect(compare(`${self} --methods iteris`)).toMatchObject({
      options: {},
      adapters: [{ samples: { self: { seed: 3 } } }],
    });
    expect(compare(`${self} --methods iteris,dare_linear`)).toMatchObject({
      options: { seed: 3 },
      adapters: [{ samples: { self: { seed: 3 } } }],
    });
  });

  it("names a merged adapter by its path where its name is taken", () => {
    expect(compare(`${calibrated} --merged x/ties --merged x/old --merged y/old`).merged).toEqual([
      { name: "x/ties", folder: "x/ties" },
      { name: "old", folder: "x/old" },
      { name: "y/old", folder: "y/old" },
    ]);
  });

  it.each([
    [`${calibrated} --methods soup`, "--methods must be one of iteris, regmean,"],
    [`${calibrated} --methods ties,ties`, "--methods names ties twice."],
    [`${tested} --methods ties,iteris`, "--methods iteris needs --samples for each adapter."],
    [
      `${calibrated} --methods iteris,ties --scale 2`,
      "--scale does nothing here: it is for task_arithmetic, knots, not for iteris, ties.",
    ],
    [
      `${tested} --layer-weights q=1`,
      "--layer-weights q=1: q has 1 weights for 2 adapters; give one for each, in their order.",
    ],
    [
      "--adapter a --adapter b",
      "Give texts to compare on, --compare or else --samples; there are none for a.",
    ],
    ["--adapter a --samples self", "give --compare too"],
    ["--adapter a --samples self --compare x.txt --methods ties", "--samples self does nothing here"],
    ["--adapter a --compare x --adapter b", "--compare needs a file for each of the 2 adapters"],
    [`${tested} --force`, "--force goes with --out."],
    [`${tested} --merged x --merged x`, "--merged x would be the second row of that name."],
    [`${tested} --method ties`, "Unknown option '--method'"],
  ])("refuses %s with the reason and where the help is", (line, message) => {
    expect(() => compare(line)).toThrowError(refused(message));
    expect(() => compare(line)).toThrowError(refused("See: iteris-web compare --help"));
  });

  it("needs a base", () => {
    expect(() => parseCommand(["compare", "--adapter", "a"])).toThrowError(refused("--base is missing"));
  });
});

const score = (variant: string, agreement: number, accuracy: number | null) => ({
  variant,
  agreement,
  accuracy,
  cosine: 1,
});
const report: CompareReport = {
  tasks: [
    {
      task: "emotion",
      samples: 600,
      labelled: 600,
      variants: [score("base", 0.25, 0.3), score("adapter", 1, 0.9), score("iteris", 0.95, 0.875)],
    },
    {
      task: "b",
      samples: 9,
      labelled: 0,
      variants: [score("base", 0.5, null), score("adapter", 1, null), score("iteris", 0.85, null)],
    },
  ],
  residuals: [
    { module: "q", task: "emotion", variant: "iteris", residual: 0.01 },
    { module: "q", task: "b", variant: "iteris", residual: 0.03 },
  ],
  seconds: 1,
  notes: [],
};
const rows = [
  { name: "base", seconds: null },
  { name: "adapter", seconds: null },
  { name: "iteris", seconds: 12.34 },
];

describe("the results for people", () => {
  it("are a table with a row for each method", () => {
    expect(methodsTable(report, rows)).toBe(
      [
        "method   emotion agrees  b agrees  emotion right  residual  seconds",
        "base             25.0 %    50.0 %         30.0 %         -        -",
        "adapter         100.0 %   100.0 %         90.0 %         -        -",
        "iteris           95.0 %    85.0 %         87.5 %    0.0200     12.3",
        "",
      ].join("\n"),
    );
  });

  it("are bars of the means", () => {
    expect(methodsChart(report, rows, "agreement")).toBe(
      [
        "Answers as the task's own adapter does, mean of the tasks",
        `base     ${"█".repeat(15)}${" ".repeat(25)}   37.5 %`,
        `adapter  ${"█".repeat(40)}  100.0 %`,
        `iteris   ${"█".repeat(36)}${" ".repeat(4)}   90.0 %`,
        "",
      ].join("\n"),
    );
    expect(methodsChart(report, rows, "accuracy")).toContain(
      "iteris   ███████████████████████████████████        87.5 %",
    );
  });

  it("have no bars of what nobody knows", () => {
    const unlabelled = { ...report, tasks: report.tasks.slice(1) };
    expect(methodsChart(unlabelled, rows, "accuracy")).toBe("");
    expect(methodsTable(unlabelled, rows)).not.toContain("right");
  });

  it("have bars that are exact to an eighth of a character", () => {
    expect([0, 1 / 16, 0.5, 0.99, 1, 2, -1].map((share) => bar(share, 2))).toEqual([
      "",
      "▏",
      "█",
      "██",
      "██",
      "██",
      "",
    ]);
  });
});

it("progress of several merges says whose it is", () => {
  const written: string[] = [];
  const view = progressView({ write: (text) => written.push(text) });
  const at = (variant: string) => ({
    stage: "write" as const,
    layer: "",
    done: 0,
    total: 1,
    seconds: 0,
    variant,
  });
  view.show(at("iteris"));
  view.show(at("ties"));
  view.show(at("ties"));
  expect(written).toEqual(["iteris, writing: 0 %\n", "ties, writing: 0 %\n"]);
});

it("paths in a report lead from its folder, and inputs without one have none", () => {
  expect(pathFrom("out/merged", "models/base")).toBe("../../models/base");
  expect(pathFrom("out", `out${sep}x`)).toBe("x");
  expect(pathFrom("out", "out")).toBe(".");
  expect(pathFrom(undefined, "models/base")).toBeUndefined();
  expect(pathFrom("out", ["a text"])).toBeUndefined();
});
