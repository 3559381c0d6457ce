import { describe, expect, it } from "vitest";
import { METHODS } from "../../www/lib/methods.ts";
import { readLayerWeights, writeLayerWeights } from "../../www/page/layer-weights.ts";
import { METHOD_GROUPS } from "../../www/page/method-groups.ts";
import { DEFAULTS, mergeOptions, optionsOf, rankChoice } from "../../www/page/settings.ts";

describe("methods", () => {
  it("are all to be chosen, each once", () => {
    const offered = METHOD_GROUPS.flatMap(({ methods }) => methods.map(({ name }) => name));
    expect([...offered].sort()).toEqual(METHODS.map(({ name }) => name).sort());
    expect(METHOD_GROUPS.every(({ methods }) => methods.length > 0)).toBe(true);
  });

  it("have the options that at least one of them looks at", () => {
    expect(optionsOf(["cat", "average"])).toEqual(new Set());
    expect(optionsOf(["ties", "task_arithmetic"])).toEqual(
      new Set(["density", "majoritySignMethod", "scale"]),
    );
  });
});

describe("options of a merge", () => {
  it("are the chosen method's: what another one left behind does not count", () => {
    const settings = { ...DEFAULTS, density: 0.2, scale: 3, maxIter: 9, method: "ties" } as const;
    expect(mergeOptions(settings)).toMatchObject({ density: 0.2, scale: 1, maxIter: DEFAULTS.maxIter });
    expect(mergeOptions({ ...settings, method: "knots" })).toMatchObject({ density: 0.2, scale: 3 });
  });

  it("say of a whole model neither whose adapter files nor ranks of layers", () => {
    const settings = { ...DEFAULTS, format: "kohya", ranks: "per-layer" } as const;
    expect(mergeOptions(settings)).toMatchObject({ format: "kohya", ranks: "per-layer" });
    expect(mergeOptions({ ...settings, output: "base" })).toMatchObject({ format: "auto", ranks: "uniform" });
  });

  it("cut by a rank or by a share, even while the field is empty", () => {
    expect(rankChoice({ rank: null, energy: null })).toBe("full");
    expect(rankChoice({ rank: Number.NaN, energy: null })).toBe("rank");
    expect(rankChoice({ rank: null, energy: 0.9 })).toBe("energy");
  });
});

describe("weights of layers", () => {
  it("are read line by line, and written the same", () => {
    const text = "encoder.layer.[0-5].*: [1, 0.5]\n(?:a|b):c: [2, 3e-1]";
    const { weights, problem } = readLayerWeights(`\n${text}\n  `, 2, false);
    expect(problem).toBeUndefined();
    expect(Object.entries(weights)).toEqual([
      ["encoder.layer.[0-5].*", [1, 0.5]],
      ["(?:a|b):c", [2, 0.3]],
    ]);
    expect(readLayerWeights(writeLayerWeights(weights), 2, false).weights).toEqual(weights);
  });

  const wrong: [string, string][] = [
    ["layer.0", "line 1: write a pattern"],
    ["a: [1, 1]\nb: 1, 1", "line 2: write a pattern"],
    ["a: [1]", "one weight for each of the 2 adapters"],
    ["a: [1, ]", "above zero"],
    ["a: [1, x]", "above zero"],
    ["a: [1, -1]", "above zero"],
    ["a: [1, 2]\na: [1, 1]", "line 2: the pattern a stands above already"],
    ["(: [1, 1]", "no regular expression"],
  ];
  it.each(wrong)("says what is wrong with %j", (text, problem) => {
    const read = readLayerWeights(text, 2, false);
    expect(read.problem).toContain(problem);
    expect(read.weights).toEqual({});
  });

  it("may be negative where nothing is solved for", () => {
    expect(readLayerWeights("a: [1, -1]", 2, true).weights).toEqual({ a: [1, -1] });
    expect(readLayerWeights("a: [1, 0]", 2, true).problem).toContain("other than zero");
  });
});
