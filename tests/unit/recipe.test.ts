/** Recipes: what is read from a report, what is held against it, and the command line that repeats a merge. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  differences,
  mismatches,
  type Recipe,
  readRecipe,
  recipeMismatch,
  samplesMismatches,
} from "../../www/lib/recipe.ts";
import type { MergeReport } from "../../www/lib/types.ts";
import { parseCommand } from "../../www/node/cli/args.ts";
import type { MergeCommand } from "../../www/node/cli/parse-merge.ts";

const sha = (letter: string) => letter.repeat(64);
const file = (name: string, letter: string) => ({ name, bytes: 3, sha256: sha(letter) });

const options = {
  method: "iteris",
  schedule: "sweep",
  max_iter: 3,
  target: "delta",
  alpha1: 1e-5,
  alpha2: 1e-5,
  adaptive_weights: true,
  padding: "exclude",
  scale: 1,
  non_diagonal: 0.9,
  density: 0.5,
  majority_sign_method: "total",
  svd_rank: null,
  seed: 0,
  layer_weights: { "layer.0.*": [1, 0.5] },
  rank: 8,
  energy: null,
  ranks: "uniform",
  format: "peft",
  output: "adapter",
  dtype: "auto",
  max_length: 32,
  decoder_inputs: "own",
  max_new_tokens: 16,
  positions: "all",
};

const samples = {
  source: "a.txt",
  path: "../texts/a.txt",
  count: 12,
  truncated: 0,
  tokens: 40,
  sha256: sha("5"),
  answers: "none",
  answer_tokens: 0,
  self: null,
};

const own = {
  count: 4,
  max_new_tokens: 8,
  temperature: 1,
  top_p: 1,
  seed: 3,
  prompt_tokens: 2,
  prompt: "Once upon",
};

/** As the core writes it, but for what a recipe does not look at. */
function report(more: object = {}): MergeReport {
  return {
    version: 2,
    created_by: "iteris-web 0.1.0",
    options,
    device: "cpu",
    workers: 3,
    base: {
      name: "base model",
      path: "../base",
      files: [file("config.json", "0"), file("model.safetensors", "1")],
    },
    adapters: [
      {
        name: "a",
        path: "../a",
        weight: 1,
        rank: 4,
        files: [file("adapter_model.safetensors", "a")],
        samples,
      },
      {
        name: "b",
        path: "../b/b.safetensors",
        weight: 0.5,
        rank: 4,
        files: [file("b.safetensors", "b")],
        samples: { ...samples, source: null, path: null, sha256: sha("6"), self: own },
      },
    ],
    output: [file("adapter_model.safetensors", "e"), file("adapter_config.json", "f")],
    ...more,
  } as unknown as MergeReport;
}

/** As the first version of the program wrote it. */
function firstReport(method: string): object {
  const { layer_weights, non_diagonal, energy, ranks, format, svd_rank, seed, density, ...rest } = options;
  const { majority_sign_method, ...old } = rest;
  const { base, adapters } = report();
  const strip = ({ path: _, ...input }: { path: unknown }) => input;
  return report({
    version: 1,
    options: { ...old, method, dtype: "f32" },
    base: strip(base as NonNullable<typeof base>),
    adapters: adapters.map(({ path: _, ...adapter }) => ({
      ...adapter,
      samples: { ...samples, path: undefined },
    })),
  });
}

describe("a report read as a recipe", () => {
  it("tells options by their names in JavaScript, inputs and how samples came about", () => {
    const recipe = readRecipe(JSON.stringify(report()));
    expect(recipe.options).toEqual({
      method: "iteris",
      schedule: "sweep",
      maxIter: 3,
      target: "delta",
      alpha1: 1e-5,
      alpha2: 1e-5,
      adaptiveWeights: true,
      padding: "exclude",
      scale: 1,
      nonDiagonal: 0.9,
      density: 0.5,
      majoritySignMethod: "total",
      svdRank: null,
      seed: 0,
      layerWeights: { "layer.0.*": [1, 0.5] },
      rank: 8,
      energy: null,
      ranks: "uniform",
      format: "peft",
      output: "adapter",
      dtype: "auto",
      maxLength: 32,
      decoderInputs: "own",
      maxNewTokens: 16,
      positions: "all",
    });
    expect(recipe.base?.path).toBe("../base");
    expect(recipe.adapters.map(({ name, weight, path }) => [name, weight, path])).toEqual([
      ["a", 1, "../a"],
      ["b", 0.5, "../b/b.safetensors"],
    ]);
    expect(recipe.adapters[0]?.samples).toMatchObject({ path: "../texts/a.txt", self: null, written: false });
    expect(recipe.adapters[1]?.samples).toMatchObject({
      written: true,
      self: { count: 4, maxNewTokens: 8, temperature: 1, topP: 1, seed: 3, prompt: "Once upon" },
    });
  });

  it("may be one of the first version, whose linear was the average and which knew no paths", () => {
    const recipe = readRecipe(firstReport("linear"));
    expect(recipe.options).toMatchObject({ method: "average", dtype: "f32" });
    expect(recipe.base?.path).toBeNull();
    expect(recipe.adapters.map(({ path, samples }) => [path, samples?.path])).toEqual([
      [null, null],
      [null, null],
    ]);
    expect(readRecipe(firstReport("task-arithmetic")).options.method).toBe("task_arithmetic");
    expect(readRecipe(report({ options: { ...options, method: "linear" } })).options.method).toBe("linear");
  });

  it("does not make up what self-written samples of the first version began with", () => {
    const { prompt: _, ...unknown } = own;
    const written = (self: object) =>
      readRecipe(report({ adapters: [{ ...report().adapters[1], samples: { ...samples, self } }] }))
        .adapters[0]?.samples?.self;
    expect(written(unknown)).toBeNull();
    expect(written({ ...unknown, prompt_tokens: 0 })).toEqual({
      count: 4,
      maxNewTokens: 8,
      temperature: 1,
      topP: 1,
      seed: 3,
    });
  });

  it.each([
    ["{", "it is not JSON"],
    ["[]", "it must be an object"],
    ["{}", "its version is not told"],
    [report({ version: 3 }), "its version is 3"],
    [report({ adapters: [] }), "it names no adapter"],
    [report({ device: "tpu" }), "device must be cpu or webgpu"],
    [
      report({ options: { ...options, future: 1 } }),
      "options.future is an option that this version does not know",
    ],
    [report({ options: { ...options, constructor: 1 } }), "options.constructor is an option"],
    [report({ options: { ...options, schedule: "never" } }), "options.schedule must be sweep or iterate"],
    [report({ options: { ...options, rank: "all" } }), "options.rank must be a number"],
    [
      report({ options: { ...options, adaptive_weights: 1 } }),
      "options.adaptive_weights must be true or false",
    ],
    [
      report({ options: { ...options, layer_weights: { x: 1 } } }),
      'options.layer_weights["x"] must be a list',
    ],
    [
      report({ base: { name: "m", files: [{ name: "x", bytes: 1, sha256: "?" }] } }),
      "base.files[0].sha256 must be",
    ],
  ])("is refused if it is none: %#", (source, message) => {
    expect(() => readRecipe(source)).toThrowError(
      expect.objectContaining({ code: "config_invalid", message: expect.stringContaining(message) }),
    );
  });

  it("is refused for a method that is none", () => {
    expect(() => readRecipe(report({ options: { ...options, method: "soup" } }))).toThrowError(
      expect.objectContaining({ code: "option_invalid", message: expect.stringContaining("soup") }),
    );
  });
});

describe("inputs held against a recipe", () => {
  const recipe = readRecipe(report());
  const right = {
    base: [file("config.json", "0"), file("model.safetensors", "1"), file("README.md", "9")],
    adapters: [
      { name: "a", files: [file("adapter_model.safetensors", "a")] },
      { name: "b", files: [file("b.safetensors", "b")] },
    ],
  };

  it("are right if every file is the recipe's, whatever lies beside them", () => {
    expect(mismatches(recipe, right)).toEqual([]);
  });

  it("are right if a single file has another name", () => {
    const adapters = [right.adapters[0], { name: "b", files: [file("b (1).safetensors", "b")] }];
    expect(mismatches(recipe, { ...right, adapters } as typeof right)).toEqual([]);
  });

  it("are wrong by file and reason", () => {
    const found = {
      base: [file("config.json", "0")],
      adapters: [{ name: "a", files: [file("adapter_model.safetensors", "c")] }],
    };
    expect(mismatches(recipe, found)).toEqual([
      { input: "base model", file: "model.safetensors", why: "missing" },
      { input: "a", file: "adapter_model.safetensors", why: "changed" },
      { input: "b", file: "b.safetensors", why: "missing" },
    ]);
    expect(recipeMismatch(mismatches(recipe, found))).toMatchObject({
      code: "recipe_mismatch",
      message: expect.stringContaining(
        "base model: model.safetensors is missing; a: adapter_model.safetensors is another one",
      ),
    });
  });

  it("need no base where the merge had none", () => {
    expect(mismatches(readRecipe(report({ base: null })), { ...right, base: null })).toEqual([]);
  });
});

describe("samples held against a recipe", () => {
  const recipe: Recipe = readRecipe(report());
  const withSamples = (i: number, more: object, rest: object = {}) => {
    const adapters = report().adapters.map((adapter, at) =>
      at === i ? { ...adapter, samples: { ...adapter.samples, ...more } } : adapter,
    );
    return report({ adapters, ...rest });
  };
  const changed = (input: string, name: string) => [{ input, file: name, why: "changed" }];

  it("are right if their tokens are", () => {
    expect(samplesMismatches(recipe, report())).toEqual([]);
  });

  it("are wrong if their tokens are others", () => {
    expect(samplesMismatches(recipe, withSamples(0, { sha256: sha("7") }))).toEqual(changed("a", "a.txt"));
    expect(samplesMismatches(recipe, withSamples(1, { sha256: sha("7") }))).toEqual(changed("b", "samples"));
  });

  it("may differ where that was asked for", () => {
    const other = { sha256: sha("7") };
    const shorter = withSamples(0, other, { options: { ...options, max_length: 8 } });
    expect(samplesMismatches(recipe, shorter)).toEqual([]);
    expect(samplesMismatches(recipe, withSamples(1, { ...other, self: { ...own, seed: 4 } }))).toEqual([]);
    expect(samplesMismatches(recipe, withSamples(1, { ...other, self: null }))).toEqual([]);
  });

  it("that a model wrote may differ on another device, and others may not", () => {
    const other = { sha256: sha("7") };
    expect(samplesMismatches(recipe, withSamples(1, other, { device: "webgpu" }))).toEqual([]);
    expect(samplesMismatches(recipe, withSamples(0, other, { device: "webgpu" }))).toEqual(
      changed("a", "a.txt"),
    );
  });

  it("do not count where the method reads none", () => {
    const adapters = report().adapters.map((adapter) => ({ ...adapter, samples: null }));
    expect(samplesMismatches(recipe, report({ adapters }))).toEqual([]);
  });
});

it("what a repetition wrote otherwise is told by file", () => {
  const recipe = readRecipe(report());
  expect(differences(recipe, report().output)).toEqual([]);
  expect(
    differences(recipe, [file("adapter_model.safetensors", "e"), file("adapter_config.json", "0")]),
  ).toEqual(["adapter_config.json"]);
});

describe("the command line of a repetition", () => {
  let folder: string;
  let path: string;
  const write = (source: object) => writeFileSync(path, JSON.stringify(source));
  const merge = (...words: string[]) => parseCommand(["merge", "--recipe", path, ...words]) as MergeCommand;
  const refused = (message: string, code = "option_invalid") =>
    expect.objectContaining({ code, message: expect.stringContaining(message) });

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "iteris-recipe-"));
    mkdirSync(join(folder, "merged"));
    path = join(folder, "merged/merge_report.json");
    write(report());
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it("has everything from the recipe, with paths from its folder", () => {
    expect(merge("--out", "o")).toMatchObject({
      base: join(folder, "base"),
      adapters: [
        { name: "a", folder: join(folder, "a"), samples: join(folder, "texts/a.txt"), weight: 1 },
        {
          name: "b",
          folder: join(folder, "b/b.safetensors"),
          samples: { self: { count: 4, prompt: "Once upon", seed: 3 } },
          weight: 0.5,
        },
      ],
      out: "o",
      options: { method: "iteris", rank: 8, maxLength: 32 },
      device: "cpu",
      workers: 3,
    });
  });

  it("writes into the recipe's folder, over the recipe alone without being forced", () => {
    expect(merge()).toMatchObject({ out: join(folder, "merged"), force: true });
    writeFileSync(join(folder, "merged/other"), "");
    expect(merge()).toMatchObject({ force: false });
    expect(merge("--force")).toMatchObject({ force: true });
  });

  it("lets options beside it override it", () => {
    const words =
      "--out o --rank 4 --weight 2 --weight 3 --name x --name y --seed 9 --device auto --workers 2";
    expect(merge(...words.split(" "))).toMatchObject({
      options: { rank: 4, method: "iteris", seed: 0 },
      device: "auto",
      workers: 2,
      adapters: [
        { name: "x", weight: 2 },
        { name: "y", weight: 3, samples: { self: { seed: 9, prompt: "Once upon" } } },
      ],
    });
    const ties = merge(..."--out o --method ties --density .2".split(" "));
    expect(ties.options).toMatchObject({ method: "ties", density: 0.2, rank: 8 });
    expect(ties.adapters.map(({ samples }) => samples)).toEqual([undefined, undefined]);
  });

  it("lets a share of the energy take the place of a rank", () => {
    expect(merge("--energy", "0.9").options).toMatchObject({ energy: 0.9, rank: null });
    write(report({ options: { ...options, rank: null, energy: 0.8 } }));
    expect(merge("--rank", "2").options).toMatchObject({ energy: null, rank: 2 });
  });

  it("takes what an option needs from the recipe too", () => {
    write(report({ options: { ...options, schedule: "iterate" } }));
    expect(merge("--max-iter", "5").options).toMatchObject({ schedule: "iterate", maxIter: 5 });
    write(report());
    expect(() => merge("--max-iter", "5")).toThrowError(refused("--max-iter does nothing"));
    expect(() => merge("--density", "0.1")).toThrowError(refused("--density does nothing"));
  });

  it("tells where the inputs are now", () => {
    const words = "--out o --base m --adapter p/a --samples s.txt --adapter q --samples self";
    expect(merge(...words.split(" "))).toMatchObject({
      base: "m",
      adapters: [
        { name: "a", folder: "p/a", samples: "s.txt", weight: 1 },
        { name: "b", folder: "q", samples: { self: {} }, weight: 0.5 },
      ],
    });
    expect(() => merge("--adapter", "p")).toThrowError(
      refused("each of the recipe's 2 adapters, in their order: a, b"),
    );
    expect(() => merge("--weight", "2")).toThrowError(refused("--weight is given 1 times for 2 adapters."));
  });

  it("needs the paths that a recipe of the first version lacks", () => {
    write(firstReport("iteris"));
    expect(() => merge()).toThrowError(refused("give --adapter for each: a, b"));
    const adapters = ["--adapter", "a", "--adapter", "b"];
    expect(() => merge(...adapters)).toThrowError(refused("give --samples for each adapter: a, b"));
    const texts = [...adapters, "--samples", "a.txt", "--samples", "b.txt"];
    expect(() => merge(...texts)).toThrowError(
      refused("the recipe does not tell where the folder of the base model is"),
    );
    expect(merge(...texts, "--base", "m")).toMatchObject({ base: "m", options: { method: "iteris" } });
    write(firstReport("linear"));
    expect(merge(...adapters, "--base", "m")).toMatchObject({ options: { method: "average" } });
  });

  it("is refused for a file that is no recipe, by its path", () => {
    writeFileSync(path, "{}");
    expect(() => merge()).toThrowError(refused(`${path}: This is no recipe`, "config_invalid"));
    rmSync(path);
    expect(() => merge()).toThrowError(refused("there is no such file", "read_failed"));
  });
});
