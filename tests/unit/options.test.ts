/** The options as the core describes them, held against what TypeScript makes of them. */
import { describe, expect, it } from "vitest";
import { GENERATE_OPTIONS, SELF_OPTIONS } from "../../www/lib/generated.ts";
import { readLayerWeights, writeLayerWeights } from "../../www/lib/layer-weights.ts";
import {
  defaultValues,
  isInRange,
  OPTIONS,
  type OptionFacts,
  optionChoices,
  optionNames,
} from "../../www/lib/options.ts";

const tables: Record<string, OptionFacts>[] = [OPTIONS, GENERATE_OPTIONS, SELF_OPTIONS];

describe.each(tables.flatMap((table) => Object.entries(table)))("%s", (_, facts) => {
  it("has a default that it may be", () => {
    const { default: usual, choices, range, unset } = facts;
    if (unset !== undefined) expect(usual).toBeNull();
    else if (choices !== undefined) expect(Object.keys(choices)).toContain(usual);
    else if (range !== undefined) expect(isInRange(usual as number, range)).toBe(true);
  });

  it("is explained by one sentence", () => {
    expect(facts.sentence).toMatch(/^.{5,}\.$/);
  });
});

describe("the tables", () => {
  it("give every option a value, and the words of those that are one of a few", () => {
    expect(Object.keys(defaultValues).sort()).toEqual(["method", ...optionNames].sort());
    expect(optionChoices.ranks).toEqual(["auto", "uniform", "per-layer"]);
    expect(Object.keys(optionChoices)).not.toContain("density");
  });

  it("have ranges whose ends are inside or outside as they say", () => {
    const { density, maxIter, seed } = OPTIONS;
    const holds = ({ range }: OptionFacts, value: number) => range !== undefined && isInRange(value, range);
    expect([0, 1e-9, 1, 1.01, Number.NaN].map((value) => holds(density, value))).toEqual([
      false,
      true,
      true,
      false,
      false,
    ]);
    expect([0, 1, 1000, 1001, 1.5].map((value) => holds(maxIter, value))).toEqual([
      false,
      true,
      true,
      false,
      false,
    ]);
    expect([-1, 0, 2 ** 53].map((value) => holds(seed, value))).toEqual([false, true, false]);
  });
});

describe("weights of layers", () => {
  it("are read in both spellings, from the end, and written in one", () => {
    const read = { pattern: "a=b:[0-5].*", weights: [1, -0.5] };
    expect(readLayerWeights(" a=b:[0-5].* : [1, -0.5] ", 2)).toEqual(read);
    expect(readLayerWeights("a=b:[0-5].*=1,-0.5", 2)).toEqual(read);
    expect(writeLayerWeights(read.pattern, read.weights)).toBe("a=b:[0-5].*: [1, -0.5]");
  });

  it.each([
    ["a", "write a pattern and its weights"],
    ["(=1,2", "( is no regular expression"],
    ["a: [1]", "a has 1 weights for 2 adapters"],
    ["a=1,", "weights are numbers, not nothing"],
  ])("are refused: %j", (text, problem) => {
    expect(readLayerWeights(text, 2)).toEqual({ problem: expect.stringContaining(problem) });
  });
});
