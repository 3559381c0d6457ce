/** A merge made again by its report: byte for byte, from where the files are now, and from no other files. */
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { digestFiles, mismatches, readRecipe } from "../../www/node/index.ts";
import { type Tiny, writeTiny } from "../tiny.ts";
import { run } from "./command.ts";
import { writeFamily } from "./family.ts";

let folder: string;
let tiny: Tiny;
let out: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-recipe-"));
  mkdirSync(join(folder, "inputs"));
  tiny = writeTiny(join(folder, "inputs"));
  out = join(folder, "results/merged");
});
afterEach(() => rmSync(folder, { recursive: true }));

const recipeOf = (merged: string) => join(merged, "merge_report.json");
const reportOf = (merged: string) => JSON.parse(readFileSync(recipeOf(merged), "utf8"));

function inputs(samples = true): string[] {
  const adapters = tiny.adapters.flatMap((one) => [
    ...["--adapter", one.files],
    ...(samples ? ["--samples", one.samples] : []),
  ]);
  return ["--base", tiny.base, ...adapters];
}

async function merge(...words: string[]): Promise<void> {
  const { code, stderr } = await run("merge", ...words, "--out", out, "--device", "cpu");
  expect({ code, stderr }).toEqual({ code: 0, stderr: expect.any(String) });
}

/** Every file but the report, which tells seconds. */
function contents(merged: string): Record<string, string> {
  const names = readdirSync(merged, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== "merge_report.json")
    .map((entry) => join(entry.parentPath, entry.name));
  return Object.fromEntries(
    names.map((name) => [name.slice(merged.length), readFileSync(name).toString("base64")]),
  );
}

async function expectRepeated(first: string, ...words: string[]): Promise<void> {
  const again = join(folder, "again");
  const { code, stdout, stderr } = await run("merge", "--recipe", recipeOf(first), "--out", again, ...words);
  expect({ code, stderr }).toEqual({ code: 0, stderr: expect.any(String) });
  expect(stdout).toContain("The files are those of the recipe's merge, byte for byte");
  expect(contents(again)).toEqual(contents(first));
  expect(Object.keys(contents(again))).toContain("/adapter_model.safetensors");
}

describe("a recipe repeats", () => {
  test("IterIS with weights, names, options and weights of layers", async () => {
    const names = ["--name", "x", "--weight", "2", "--name", "y", "--weight", "0.5"];
    const options = [
      "--alpha",
      "1e-3",
      "--rank",
      "3",
      "--dtype",
      "f16",
      "--layer-weights",
      "layer.0.*: [1, 3]",
    ];
    await merge(...inputs(), ...names, ...options);
    await expectRepeated(out);
    const { options: used, adapters } = reportOf(join(folder, "again"));
    expect(used).toEqual(reportOf(out).options);
    expect(adapters.map(({ name, weight }: { name: string; weight: number }) => [name, weight])).toEqual([
      ["x", 2],
      ["y", 0.5],
    ]);
  });

  test("what was drawn by a seed, without a base", async () => {
    const adapters = tiny.adapters.flatMap(({ files }) => ["--adapter", files]);
    await merge(
      ...adapters,
      "--method",
      "dare_ties",
      "--density",
      "0.3",
      "--seed",
      "11",
      "--weight",
      "1",
      "--weight",
      "-1",
    );
    expect(reportOf(out).base).toBeNull();
    await expectRepeated(out);
  });

  test("samples that adapters wrote themselves, by prompt and seed", async () => {
    const family = writeFamily("llama", join(folder, "family"));
    const self = ["--samples", "self", "--self-prompt", family.prompts[0] ?? ""];
    const { a, b } = family.adapters;
    await merge(
      "--base",
      family.base,
      "--adapter",
      a,
      ...self,
      "--adapter",
      b,
      "--samples",
      "self",
      "--seed",
      "5",
    );
    expect(reportOf(out).adapters[0].samples.self).toMatchObject({ seed: 5, prompt: family.prompts[0] });
    await expectRepeated(out);
  });

  test("from where it was moved to with its inputs", async () => {
    await merge(...inputs());
    const moved = join(folder, "elsewhere");
    mkdirSync(moved);
    for (const name of ["inputs", "results"]) renameSync(join(folder, name), join(moved, name));
    await expectRepeated(join(moved, "results/merged"));
  });

  test("into its own folder, if that holds nothing else", async () => {
    await merge(...inputs());
    const before = contents(out);
    const alone = join(folder, "results/alone");
    mkdirSync(alone);
    cpSync(recipeOf(out), recipeOf(alone));
    expect(await run("merge", "--recipe", recipeOf(alone))).toMatchObject({ code: 0 });
    expect(contents(alone)).toEqual(before);
    expect(await run("merge", "--recipe", recipeOf(alone))).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("--force"),
    });
  });

  test("from paths beside it where the inputs lie elsewhere", async () => {
    await merge(...inputs());
    renameSync(join(folder, "inputs"), join(folder, "moved"));
    expect(await run("merge", "--recipe", recipeOf(out), "--out", join(folder, "again"))).toMatchObject({
      code: 2,
    });
    tiny = {
      base: join(folder, "moved/base"),
      adapters: tiny.adapters.map(({ name }) => ({
        name,
        files: join(folder, "moved", name),
        samples: join(folder, "moved", `${name}.txt`),
      })),
    };
    await expectRepeated(out, ...inputs());
  });

  test("a merge of the first version, whose linear is the average, with paths beside it", async () => {
    await merge(...inputs(false), "--method", "average", "--dtype", "f32");
    const report = reportOf(out);
    const known = [
      "schedule",
      "max_iter",
      "target",
      "alpha1",
      "alpha2",
      "adaptive_weights",
      "padding",
      "scale",
    ];
    const old = Object.fromEntries(known.map((name) => [name, report.options[name]]));
    const { path: _, ...base } = report.base;
    const adapters = report.adapters.map(({ path: _, ...adapter }: { path: string }) => adapter);
    const options = { ...old, method: "linear", rank: null, output: "adapter", dtype: "f32" };
    const first = join(folder, "first");
    mkdirSync(first);
    writeFileSync(recipeOf(first), JSON.stringify({ ...report, version: 1, options, base, adapters }));
    const words = ["--recipe", recipeOf(first), "--out", join(folder, "again")];
    expect(await run("merge", ...words)).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("--adapter"),
    });
    expect(await run("merge", ...words, ...inputs(false))).toMatchObject({ code: 0 });
    const tensors = (merged: string) => contents(merged)["/adapter_model.safetensors"];
    expect(tensors(join(folder, "again"))).toBe(tensors(out));
  });
});

describe("options beside a recipe", () => {
  test("override it, and the result is said to be another", async () => {
    await merge(...inputs());
    const again = join(folder, "again");
    const line = ["merge", "--recipe", recipeOf(out), "--out", again, "--rank", "2", "--json"];
    const { code, stdout } = await run(...line);
    const { report, recipe } = JSON.parse(stdout);
    expect(code).toBe(0);
    expect(report.options).toEqual({ ...reportOf(out).options, rank: 2 });
    expect(recipe).toMatchObject({ path: recipeOf(out), identical: false });
    expect(recipe.different).toContain("adapter_model.safetensors");
  });

  test("may ask for other tokens of the same samples, or for none", async () => {
    await merge(...inputs());
    const again = (...words: string[]) =>
      run("merge", "--recipe", recipeOf(out), "--out", join(folder, "again"), "--force", ...words);
    expect(await again("--max-length", "4")).toMatchObject({ code: 0 });
    expect(await again("--method", "ties")).toMatchObject({ code: 0 });
    expect(reportOf(join(folder, "again"))).toMatchObject({ options: { method: "ties" } });
  });
});

describe("what is not the recipe's is refused by name and nothing is written:", () => {
  const again = async (message: RegExp) => {
    const line = ["merge", "--recipe", recipeOf(out), "--out", join(folder, "again"), "--json"];
    const { code, stdout } = await run(...line);
    expect(code).toBe(2);
    expect(JSON.parse(stdout).error).toEqual({
      code: "recipe_mismatch",
      message: expect.stringMatching(message),
    });
    expect(readdirSync(folder).filter((name) => name.includes("again"))).toEqual([]);
  };
  beforeEach(() => merge(...inputs()));

  test("a file of the base", async () => {
    appendFileSync(join(tiny.base, "config.json"), "\n");
    await again(/base model: config\.json is another one/);
  });

  test("a file of an adapter, and one that is gone", async () => {
    appendFileSync(join(tiny.adapters[0]?.files ?? "", "adapter_config.json"), "\n");
    rmSync(join(tiny.adapters[1]?.files ?? "", "adapter_config.json"));
    await again(/qv: adapter_config\.json is another one; all: adapter_config\.json is missing/);
  });

  test("samples, which their tokens tell apart", async () => {
    appendFileSync(tiny.adapters[1]?.samples ?? "", "\nw9 w10");
    await again(/all: all\.txt is another one/);
  });
});

test("samples in another form but of the same tokens are the recipe's", async () => {
  await merge(...inputs());
  const [one] = tiny.adapters;
  writeFileSync(one?.samples ?? "", `\n${readFileSync(one?.samples ?? "", "utf8")}\n\n`);
  await expectRepeated(out);
});

test("digests of files at hand are those of the report", async () => {
  await merge(...inputs());
  const found = {
    base: await digestFiles(tiny.base),
    adapters: await Promise.all(
      tiny.adapters.map(async ({ name, files }) => ({ name, files: await digestFiles(files) })),
    ),
  };
  expect(found.base).toEqual(reportOf(out).base.files);
  expect(mismatches(readRecipe(reportOf(out)), found)).toEqual([]);
});

test("a merge does not replace a folder that holds an input", async () => {
  const [one] = tiny.adapters;
  const { code, stderr } = await run("merge", ...inputs(), "--out", join(folder, "inputs"), "--force");
  expect({ code, stderr }).toEqual({
    code: 2,
    stderr: expect.stringContaining("The output folder holds an input"),
  });
  expect(readdirSync(one?.files ?? "")).toHaveLength(2);
});
