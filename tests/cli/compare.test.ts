/** `iteris-web compare` and `compareMethods` on tiny models: every method on the same texts. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { METHODS } from "../../www/lib/methods.ts";
import { compareMethods } from "../../www/node/index.ts";
import { type Tiny, writeTiny } from "../tiny.ts";
import { run } from "./command.ts";
import { writeFamily } from "./family.ts";

let folder: string;
let tiny: Tiny;
let out: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-compare-"));
  tiny = writeTiny(folder);
  out = join(folder, "results");
});
afterEach(() => rmSync(folder, { recursive: true }));

function heldOut(name: string): string {
  const path = join(folder, `${name}.test.csv`);
  writeFileSync(path, "text,label\nw41 w78,0\nw13 w60,1\nw7 w9 w30,0\n");
  return path;
}

function inputs(which: { samples?: boolean; compare?: boolean }): string[] {
  const adapters = tiny.adapters.flatMap(({ name, files, samples }) => [
    ...["--adapter", files],
    ...(which.samples ? ["--samples", samples] : []),
    ...(which.compare ? ["--compare", heldOut(name)] : []),
  ]);
  return ["compare", "--base", tiny.base, ...adapters, "--device", "cpu"];
}

const bytesOf = (...path: string[]) => readFileSync(join(...path, "adapter_model.safetensors"));

describe("compare", () => {
  test("prints a row and a bar for base, adapters and each method", async () => {
    const { code, stdout, stderr } = await run(...inputs({ samples: true, compare: true }));
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: expect.stringContaining("iteris, running the model: 0 %"),
    });
    const [table = "", agreement = "", accuracy = "", rest = ""] = stdout.split("\n\n");
    expect(table.split("\n")[0]).toMatch(
      /^method +qv agrees +all agrees +qv right +all right +residual +seconds$/,
    );
    expect(table.split("\n").map((line) => line.split(" ", 1)[0])).toEqual([
      ...["method", "base", "adapter", "iteris", "average", "ties"],
    ]);
    expect(table).toMatch(/^adapter +100\.0 % +100\.0 % .* - +-$/m);
    expect(table).toMatch(/^iteris .* \d+\.\d % +\S+ +\d+\.\d$/m);
    expect(agreement).toMatch(/^adapter {2}█{40} {2}100\.0 %$/m);
    expect(accuracy).toMatch(/^Right answers/);
    expect(rest).toContain("Texts: qv 3, all 3. The CPU was asked for.");
    expect(readdirSync(folder)).not.toContain("results");
  });

  test("of all methods with --json prints one object, and keeps each result in its folder", async () => {
    const line = inputs({ samples: true, compare: true });
    const { code, stdout } = await run(...line, "--methods", "all", "--out", out, "--json");
    expect(code).toBe(0);
    expect(stdout.trimEnd()).not.toContain("\n");
    const { variants, report, device, merged } = JSON.parse(stdout);
    const names = METHODS.map(({ name }) => name as string);
    expect(variants.map(({ name }: { name: string }) => name)).toEqual(names);
    expect(readdirSync(out).sort()).toEqual([...names].sort());
    for (const variant of variants) {
      expect(variant).toMatchObject({ method: variant.name, folder: join(out, variant.name) });
      expect(variant.seconds).toBeGreaterThan(0);
      expect(variant.report).toEqual(
        JSON.parse(readFileSync(join(variant.folder, "merge_report.json"), "utf8")),
      );
      expect(bytesOf(variant.folder).length).toBeGreaterThan(0);
    }
    for (const task of report.tasks) {
      expect(task.variants.map(({ variant }: { variant: string }) => variant)).toEqual([
        "base",
        "adapter",
        ...names,
      ]);
    }
    for (const name of names) {
      const residuals = report.residuals.filter((one: { variant: string }) => one.variant === name);
      expect(residuals.length, name).toBeGreaterThan(0);
    }
    expect(device.kind).toBe("cpu");
    expect(merged).toEqual([]);
  }, 300_000);

  test("keeps what merge would have written, and reports that are recipes", async () => {
    await run(...inputs({ samples: true }), "--methods", "iteris,ties", "--density", "0.3", "--out", out);
    const again = join(folder, "again");
    for (const name of ["iteris", "ties"]) {
      const recipe = join(out, name, "merge_report.json");
      expect(await run("merge", "--recipe", recipe, "--out", again, "--force")).toMatchObject({ code: 0 });
      expect(bytesOf(again).equals(bytesOf(out, name)), name).toBe(true);
    }
  });

  test("without samples compares what needs none, on held-out texts", async () => {
    const { code, stdout } = await run(...inputs({ compare: true }), "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout).variants.map(({ name }: { name: string }) => name)).toEqual([
      "average",
      "ties",
    ]);
  });

  test("without held-out texts compares on the samples, and says so", async () => {
    const { stdout } = await run(...inputs({ samples: true }), "--methods", "average");
    expect(stdout).toContain("for want of held-out ones: qv, all");
    expect(stdout).toContain("Texts: qv 12, all 12.");
  });

  test("takes adapters along that are merged already", async () => {
    const mine = join(folder, "mine");
    const adapters = tiny.adapters.flatMap(({ files }) => ["--adapter", files]);
    await run("merge", ...adapters, "--method", "average", "--out", mine);
    const { code, stdout } = await run(
      ...inputs({ samples: true }),
      "--methods",
      "average",
      "--merged",
      mine,
    );
    expect(code).toBe(0);
    const row = (name: string) => new RegExp(`^${name} +(.*?) +\\S+$`, "m").exec(stdout)?.[1];
    expect(row("mine")).toBe(row("average"));
    expect(row("mine")).toMatch(/%/);
  });

  test("that fails tells by which method, and leaves nothing", async () => {
    // The sum of what one adapter adds and another takes away can be had, their mean cannot.
    const weights = ["--weight", "1", "--weight", "-1"];
    const line = [...inputs({ samples: true }), ...weights, "--methods", "linear,average", "--out", out];
    const { code, stderr } = await run(...line);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringMatching(/average: .*weight/) });
    expect(readdirSync(folder).filter((name) => name.includes("results"))).toEqual([]);
  });

  test("does not touch a folder that holds something", async () => {
    mkdirSync(out);
    writeFileSync(join(out, "precious"), "x");
    const line = [...inputs({ samples: true }), "--methods", "average", "--out", out];
    expect(await run(...line)).toMatchObject({ code: 2, stderr: expect.stringContaining("--force") });
    expect(readdirSync(out)).toEqual(["precious"]);
    expect(await run(...line, "--force")).toMatchObject({ code: 0 });
    expect(readdirSync(out)).toEqual(["average"]);
  });

  test("of a language model's adapters compares what is written", async () => {
    const family = writeFamily("llama", join(folder, "family"));
    const adapters = (["a", "b"] as const).flatMap((name) => {
      const path = join(folder, `${name}.test.jsonl`);
      writeFileSync(path, family.prompts.map((prompt) => JSON.stringify({ prompt })).join("\n"));
      return ["--adapter", family.adapters[name], "--samples", "self", "--compare", path];
    });
    const line = [
      "compare",
      "--base",
      family.base,
      ...adapters,
      "--methods",
      "iteris,linear",
      "--device",
      "cpu",
    ];
    const { code, stdout, stderr } = await run(...line, "--max-new-tokens", "4");
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining("iteris, writing text") });
    expect(stdout).toMatch(/^linear +\d/m);
  });
});

describe("compareMethods", () => {
  const request = () => ({ base: tiny.base, adapters: tiny.adapters, device: "cpu" as const });

  test("gives every merge with its files, by the variants' names", async () => {
    const methods = [
      "average" as const,
      { name: "sparse", options: { method: "ties" as const, density: 0.1 } },
    ];
    const { variants, report } = await compareMethods({ ...request(), methods, options: { density: 0.9 } });
    expect(variants.map(({ name, method }) => [name, method])).toEqual([
      ["average", "average"],
      ["sparse", "ties"],
    ]);
    expect(variants[1]?.report.options.density).toBe(0.1);
    for (const { files } of variants) {
      expect(files.map(({ name }) => name)).toEqual(
        expect.arrayContaining(["adapter_model.safetensors", "merge_report.json"]),
      );
    }
    expect(report.tasks[0]?.variants.map(({ variant }) => variant)).toEqual([
      "base",
      "adapter",
      "average",
      "sparse",
    ]);
  });

  test("is cancelled", async () => {
    const stop = new AbortController();
    const comparing = compareMethods({
      ...request(),
      methods: ["average", "iteris"],
      signal: stop.signal,
      onProgress: ({ variant }) => variant === "iteris" && stop.abort(),
    });
    await expect(comparing).rejects.toMatchObject({ code: "cancelled" });
    await expect(compareMethods({ ...request(), methods: ["average"] })).resolves.toBeDefined();
  });
});
