/** The options of merge methods on the command line, held against the one table of them. */
import { describe, expect, it } from "vitest";
import { METHODS } from "../../www/lib/methods.ts";
import type { MethodOption } from "../../www/lib/types.ts";
import { parseCommand } from "../../www/node/cli/args.ts";
import { helpTexts } from "../../www/node/cli/help.ts";
import { methodOptions, ownOptions } from "../../www/node/cli/method-options.ts";
import type { MergeCommand } from "../../www/node/cli/parse-merge.ts";

const merge = (...words: string[]) =>
  parseCommand([
    "merge",
    "--base",
    "m",
    "--out",
    "o",
    "--adapter",
    "a",
    "--adapter",
    "b",
    ...words,
  ]) as MergeCommand;
const line = (words: string) => merge(...words.split(" "));
const refused = (message: string) =>
  expect.objectContaining({ code: "option_invalid", message: expect.stringContaining(message) });

/** A value that each option of a method takes, without one where it is a flag. */
const values: Record<keyof typeof ownOptions, string[]> = {
  schedule: ["iterate"],
  "max-iter": ["2", "--schedule", "iterate"],
  target: ["full"],
  alpha: ["1e-3"],
  "no-adaptive-weights": [],
  padding: ["include"],
  "non-diagonal": ["0.5"],
  scale: ["0.3"],
  density: ["0.2"],
  "majority-sign-method": ["frequency"],
  "svd-rank": ["4"],
  seed: ["7"],
};

describe("the methods", () => {
  it("are all taken by their names, and one by an old spelling", () => {
    for (const { name } of METHODS) expect(line(`--method ${name}`).options).toEqual({ method: name });
    expect(line("--method task-arithmetic").options).toEqual({ method: "task_arithmetic" });
  });

  it("stand in the help of merge and of compare, each with its options", () => {
    for (const help of [helpTexts.merge, helpTexts.compare]) {
      for (const { name } of METHODS)
        expect(help).toMatch(new RegExp(`^  ${name.replace(/\+/g, "\\+")} `, "m"));
      expect(help.replace(/\s+/g, " ")).toContain(
        "averages those that agree. (--density, --majority-sign-method)",
      );
      for (const option of Object.keys(methodOptions)) expect(help).toContain(`--${option}`);
    }
  });

  it("have every option of theirs on the command line", () => {
    const known: MethodOption[] = [...Object.values(ownOptions), "alpha2"];
    expect(new Set(METHODS.flatMap(({ options }) => options))).toEqual(new Set(known));
  });
});

describe.each(Object.entries(ownOptions))("--%s", (option, property) => {
  const words = [`--${option}`, ...values[option as keyof typeof values]];
  it.each(METHODS.map(({ name, options }) => [name, options.includes(property)] as const))(
    "with %s: %s",
    (name, belongs) => {
      // Passes go with a schedule, which not every method has.
      const parse = () => merge("--method", name, ...words);
      if (belongs) expect(parse().options).toHaveProperty(property);
      else expect(parse).toThrowError(expect.objectContaining({ code: "option_invalid" }));
    },
  );
});

describe("options", () => {
  it("reach the core by its names", () => {
    expect(
      line("--method dare_ties_svd --density .3 --majority-sign-method frequency --svd-rank 6 --seed 4"),
    ).toMatchObject({ options: { density: 0.3, majoritySignMethod: "frequency", svdRank: 6, seed: 4 } });
    expect(line("--method regmean++ --non-diagonal .8").options).toEqual({
      method: "regmean++",
      nonDiagonal: 0.8,
    });
    expect(line("--energy .99 --ranks per-layer --format kohya --dtype bf16").options).toEqual({
      energy: 0.99,
      ranks: "per-layer",
      format: "kohya",
      dtype: "bf16",
    });
  });

  it("take negative weights, beside the adapter or behind an equals sign", () => {
    const weights = (words: string) => line(words).adapters.map(({ weight }) => weight);
    expect(weights("--method linear --weight 1 --weight -0.5")).toEqual([1, -0.5]);
    expect(weights("--method linear --weight=-1 --weight -.5")).toEqual([-1, -0.5]);
  });

  it("take weights of layers by pattern, in two spellings", () => {
    const given = [
      "--layer-weights",
      "encoder.layer.[0-5].*: [1, 0.5]",
      "--layer-weights",
      "(?:q|v)_proj=2,-1e-1",
    ];
    expect(Object.entries(merge(...given).options.layerWeights ?? {})).toEqual([
      ["encoder.layer.[0-5].*", [1, 0.5]],
      ["(?:q|v)_proj", [2, -0.1]],
    ]);
  });

  it.each([
    [["--layer-weights", "query"], "is written 'PATTERN: [1, 0.5]'"],
    [["--layer-weights", "query: [1]"], "has 1 weights for 2 adapters"],
    [["--layer-weights", "query: [1, two]"], "--layer-weights must be a number, not two."],
    [["--layer-weights", "q=1,2", "--layer-weights", "q: [2, 1]"], "given twice for q"],
    [["--density", "0.5"], "--density does nothing here: it is for ties, ties_svd, dare_linear,"],
    [["--scale", "2", "--method", "ties"], "it is for task_arithmetic, knots, not for --method ties."],
    [["--max-iter", "2"], "--max-iter does nothing without --schedule iterate."],
    [["--format", "kohya", "--output", "base"], "--format does nothing here: --output base writes a model"],
    [["--ranks", "per-layer", "--output", "base"], "--ranks does nothing here"],
    [
      ["--max-length", "8", "--method", "cat"],
      "--max-length does nothing here: --method cat reads no samples.",
    ],
    [["--seed", "1", "--method", "ties"], "--seed does nothing here: it is for dare_linear,"],
    [["--ranks", "some"], "--ranks must be uniform or per-layer, not some."],
    [["--format", "comfy"], "--format must be auto or peft or kohya or diffusers, not comfy."],
    [["--svd-rank", "0", "--method", "svd"], "--svd-rank must be a whole number above 0"],
  ])("are refused where they would do nothing or mean nothing: %j", (words, message) => {
    expect(() => merge(...words)).toThrowError(refused(message));
  });
});

describe("a base model", () => {
  const without = (...words: string[]) =>
    parseCommand(["merge", "--out", "o", "--adapter", "a", ...words]) as MergeCommand;

  it("may be left out where no samples are read", () => {
    expect(without("--method", "ties").base).toBeUndefined();
  });

  it.each([
    [[], "the method runs it on samples"],
    [["--method", "regmean"], "the method runs it on samples"],
    [["--method", "ties", "--compare", "x.txt"], "--compare runs it"],
    [["--method", "ties", "--output", "base"], "--output base writes it"],
  ])("is needed otherwise: %j", (words, message) => {
    expect(() => without(...words)).toThrowError(
      refused(`--base is missing: the folder of the base model; ${message}`),
    );
  });
});

it("an adapter of one file is called by it", () => {
  const { adapters } = parseCommand(
    "merge --out o --method cat --adapter x/style.safetensors --adapter y/other".split(" "),
  ) as MergeCommand;
  expect(adapters.map(({ name, folder }) => [name, folder])).toEqual([
    ["style", "x/style.safetensors"],
    ["other", "y/other"],
  ]);
});
