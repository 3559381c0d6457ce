/** The options of merge methods on the command line, held against the one table of them. */
import { describe, expect, it } from "vitest";
import { METHODS } from "../../www/lib/methods.ts";
import { OPTIONS, optionNames } from "../../www/lib/options.ts";
import { parseCommand } from "../../www/node/cli/args.ts";
import { helpTexts } from "../../www/node/cli/help.ts";
import { flags, methodOptions } from "../../www/node/cli/method-options.ts";
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

const factsOf = (word: string) => (flags.get(word) ?? []).map((name) => ({ name, ...OPTIONS[name] }));

/** Words that give the flag a value that is not the usual one, and what the flag needs beside it. */
function wordsOf(word: string): string[] {
  const [{ kind, choices = {}, default: usual, needs = {}, range } = { kind: "flag" as const }] =
    factsOf(word);
  const others = Object.entries(needs).flatMap(([other, value]) => [
    `--${OPTIONS[other as keyof typeof OPTIONS].flag?.name}`,
    value,
  ]);
  const value = {
    flag: [],
    word: Object.keys(choices)
      .filter((choice) => choice !== usual)
      .slice(0, 1),
    weights: ["query: [1, 0.25]"],
    bytes: ["4GB"],
    number: [range?.whole ? "2" : "0.25"],
  }[kind];
  return [`--${word}`, ...value, ...others];
}

describe("the methods", () => {
  it("are all taken by their names, and one by an old spelling", () => {
    for (const { name } of METHODS) expect(line(`--method ${name}`).options).toEqual({ method: name });
    expect(line("--method task-arithmetic").options).toEqual({ method: "task_arithmetic" });
  });

  it("stand in the help of merge and of compare, each with its options", () => {
    for (const help of [helpTexts.merge, helpTexts.compare]) {
      for (const { name } of METHODS)
        expect(help).toMatch(new RegExp(`^  ${name.replace(/\+/g, "\\+")} `, "m"));
      expect(help.replace(/\s+/g, " ")).toContain("averages those that agree. (--density, ");
      for (const option of Object.keys(methodOptions)) expect(help).toContain(`--${option}`);
    }
  });

  it("have every option on the command line", () => {
    expect([...flags.values()].flat().sort()).toEqual([...optionNames].sort());
  });
});

const words = [...flags.keys()];
const ofMethods = words.filter((word) => factsOf(word).some(({ methods }) => methods !== undefined));

describe.each(ofMethods)("--%s", (word) => {
  const [option] = factsOf(word);
  it.each(METHODS.map(({ name }) => [name, option?.methods?.includes(name) ?? false] as const))(
    "with %s: %s",
    (name, belongs) => {
      // Passes go with a schedule, which not every method has.
      const parse = () => merge("--method", name, ...wordsOf(word));
      if (belongs) expect(parse().options).toHaveProperty(option?.name ?? "");
      else expect(parse).toThrowError(expect.objectContaining({ code: "option_invalid" }));
    },
  );
});

it.each(words)("--%s gives every option that it sets another value than the usual", (word) => {
  const [option] = factsOf(word);
  const method = option?.methods?.[0] ?? "iteris";
  const { options } = merge("--method", method, ...wordsOf(word));
  for (const { name, default: usual } of factsOf(word)) {
    expect(options).toHaveProperty(name);
    expect(options[name]).not.toEqual(usual);
  }
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

  it("have a switch for one rank of all layers, told in the help", () => {
    expect(line("--uniform-rank --rank 8").options).toEqual({ ranks: "uniform", rank: 8 });
    expect(helpTexts.merge).toMatch(/^ {2}--uniform-rank {7}the same as --ranks uniform$/m);
    expect(() => line("--uniform-rank --ranks per-layer")).toThrowError(refused("--ranks is given twice."));
    expect(() => line("--uniform-rank --output base")).toThrowError(refused("--ranks does nothing here"));
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
    [["--layer-weights", "query"], "--layer-weights query: write a pattern and its weights"],
    [["--layer-weights", "query: [1]"], "query has 1 weights for 2 adapters"],
    [["--layer-weights", "query: [1, two]"], "weights are numbers, not two."],
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
    [["--ranks", "some"], "--ranks must be auto or uniform or per-layer, not some."],
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
