import { nothing } from "lit-html";
import { describe, expect, it } from "vitest";
import { METHODS } from "../../www/lib/methods.ts";
import { OPTIONS, optionNames } from "../../www/lib/options.ts";
import { readLayerWeights, writeLayerWeights } from "../../www/page/layer-weights.ts";
import { METHOD_GROUPS } from "../../www/page/method-groups.ts";
import { optionField, optionsAt } from "../../www/page/option-fields.ts";
import { DEFAULTS, mergeOptions, optionsOf, rankChoice } from "../../www/page/settings.ts";
import { Store } from "../../www/page/state.ts";

describe("methods", () => {
  it("are all to be chosen, each once", () => {
    const offered = METHOD_GROUPS.flatMap(({ methods }) => methods.map(({ name }) => name));
    expect([...offered].sort()).toEqual(METHODS.map(({ name }) => name).sort());
    expect(METHOD_GROUPS.every(({ methods }) => methods.length > 0)).toBe(true);
  });

  it("have the options that at least one of them looks at", () => {
    expect(optionsOf(["cat", "average"])).toEqual(new Set());
    expect(optionsOf(["ties", "task_arithmetic"])).toEqual(
      new Set(["density", "majoritySignMethod", "scale", "space"]),
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
    expect(mergeOptions({ ...settings, output: "base" })).toMatchObject({ format: "auto", ranks: "auto" });
  });

  it("cut by a rank or by a share, even while the field is empty", () => {
    expect(rankChoice({ rank: null, energy: null })).toBe("full");
    expect(rankChoice({ rank: Number.NaN, energy: null })).toBe("rank");
    expect(rankChoice({ rank: null, energy: 0.9 })).toBe("energy");
  });
});

describe("fields", () => {
  it("are there for every option that has one, and nothing for one that has none", () => {
    const store = new Store();
    for (const name of optionNames) {
      const { field, kind } = OPTIONS[name];
      const shown = optionField(store, name);
      if (field === undefined) expect(shown, name).toBe(nothing);
      else expect(JSON.stringify(shown), `${name} (${kind})`).toContain(field.label);
    }
  });

  it("stand where they do something", () => {
    const at = (place: "beside" | "folded", change: Partial<typeof DEFAULTS>) =>
      optionsAt(place, { ...DEFAULTS, ...change }, [change.method ?? "iteris"]);
    expect(at("beside", { method: "knots" })).toEqual(["scale", "density", "majoritySignMethod"]);
    expect(at("folded", {})).not.toContain("maxIter");
    expect(at("folded", { schedule: "iterate" })).toContain("maxIter");
    expect(at("folded", { method: "cat" })).toEqual(["maxLength"]);
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
    ["a: [1]", "a has 1 weights for 2 adapters; give one for each"],
    ["a: [1, ]", "weights are numbers, not nothing"],
    ["a: [1, x]", "weights are numbers, not x"],
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
