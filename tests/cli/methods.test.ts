/** Every merge method on the command line, on tiny adapters of different ranks, without scaling and with it. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { METHODS } from "../../www/lib/methods.ts";
import { withEngine } from "../../www/node/engine.ts";
import { defaultOptions } from "../../www/node/index.ts";
import { deltasOf, relativeError, tensorsOf } from "../deltas.ts";
import { type Tiny, writeTiny } from "../tiny.ts";
import { run } from "./command.ts";
import { kohyaModule, writeKohya } from "./kohya.ts";

let folder: string;
let tiny: Tiny;
let runs: number;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-methods-"));
  tiny = writeTiny(folder);
  runs = 0;
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Merges into a folder of its own; the adapter's files and the report. */
async function mergeInputs(inputs: string[], ...words: string[]) {
  runs += 1;
  const out = join(folder, `out-${runs}`);
  const { code, stderr } = await run("merge", ...inputs, "--out", out, "--device", "cpu", ...words);
  expect({ code, stderr }).toEqual({ code: 0, stderr: expect.any(String) });
  return {
    out,
    report: JSON.parse(readFileSync(join(out, "merge_report.json"), "utf8")),
    config: () => JSON.parse(readFileSync(join(out, "adapter_config.json"), "utf8")),
    deltas: () => deltasOf(readFileSync(join(out, "adapter_model.safetensors"))),
  };
}

const adapters = (samples: boolean) =>
  tiny.adapters.flatMap((one) => ["--adapter", one.files, ...(samples ? ["--samples", one.samples] : [])]);
const calibrated = (...words: string[]) => mergeInputs(["--base", tiny.base, ...adapters(true)], ...words);
const free = (...words: string[]) => mergeInputs(adapters(false), ...words);

type Deltas = Map<string, number[]>;

/** Holds two merges against each other, module by module; a module that one lacks is zero. */
function expectSame(actual: Deltas, expected: Deltas, factor = 1): void {
  expect(actual.size).toBeGreaterThan(0);
  expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort());
  for (const [module, delta] of expected) {
    const wanted = delta.map((value) => value * factor);
    expect(relativeError(actual.get(module) ?? [], wanted), module).toBeLessThan(1e-5);
  }
}

const norm = (deltas: Deltas) => Math.hypot(...[...deltas.values()].flat());

test("the methods are those of the core", async () => {
  const names = METHODS.map(({ name }) => name as string);
  expect((await withEngine((engine) => engine.methods())).sort()).toEqual(names.sort());
});

test("every option of a method is one of the core's", async () => {
  const known = Object.keys(await defaultOptions());
  for (const { options } of METHODS) expect(known).toEqual(expect.arrayContaining([...options]));
});

describe.each(METHODS)("--method $name", ({ name, samples }) => {
  test("writes an adapter and says so", async () => {
    const { out, report, deltas } = await (samples ? calibrated : free)("--method", name);
    expect(readdirSync(out)).toEqual(
      expect.arrayContaining([
        "adapter_config.json",
        "adapter_model.safetensors",
        "heads",
        "merge_report.json",
      ]),
    );
    expect(report).toMatchObject({ version: 2, options: { method: name } });
    expect(report.adapters.map((one: { samples: unknown }) => one.samples !== null)).toEqual([
      samples,
      samples,
    ]);
    expect(report.layers.length).toBe(deltas().size);
    expect(norm(deltas())).toBeGreaterThan(0);
    for (const layer of report.layers) expect(layer.error).toBeGreaterThanOrEqual(0);
  });

  test("gives the same again", async () => {
    const merge = samples ? calibrated : free;
    const [first, second] = [await merge("--method", name), await merge("--method", name)];
    const bytes = ({ out }: typeof first) => readFileSync(join(out, "adapter_model.safetensors"));
    expect(bytes(second).equals(bytes(first))).toBe(true);
  });

  test("can be cut to a rank", async () => {
    const { report, config } = await (samples ? calibrated : free)("--method", name, "--rank", "2");
    expect(config().r).toBe(2);
    expect(report.layers.map(({ rank }: { rank: number }) => rank).every((rank: number) => rank <= 2)).toBe(
      true,
    );
  });
});

describe("data-free methods", () => {
  test("of which all are the sum where nothing is dropped, cut or elected", async () => {
    const sum = (await free("--method", "linear")).deltas();
    const all = ["--density", "1"];
    expectSame((await free("--method", "cat")).deltas(), sum);
    expectSame((await free("--method", "task-arithmetic")).deltas(), sum);
    expectSame((await free("--method", "svd", "--svd-rank", "16")).deltas(), sum);
    expectSame((await free("--method", "magnitude_prune", ...all)).deltas(), sum);
    expectSame((await free("--method", "dare_linear", ...all)).deltas(), sum);
    expectSame((await free("--method", "average")).deltas(), sum, 0.5);
    expectSame((await free("--method", "task_arithmetic", "--scale", "0.25")).deltas(), sum, 0.25);
  });

  test("weigh each adapter, also negatively", async () => {
    const [one] = tiny.adapters;
    const twice = [
      "--adapter",
      one?.files ?? "",
      "--adapter",
      one?.files ?? "",
      "--name",
      "x",
      "--name",
      "y",
    ];
    const weigh = (...weights: string[]) =>
      mergeInputs(twice, "--method", "linear", ...weights.flatMap((weight) => ["--weight", weight]));
    const alone = (await mergeInputs(["--adapter", one?.files ?? ""], "--method", "linear")).deltas();
    expectSame((await weigh("3", "-1")).deltas(), alone, 2);
    expectSame((await weigh("-0.5", "-0.5")).deltas(), alone, -1);
    expect(norm((await weigh("1", "-1")).deltas())).toBeLessThan(1e-5 * norm(alone));
  });

  test("do not look at the base model", async () => {
    const base = ["--base", tiny.base, ...adapters(false)];
    expectSame(
      (await mergeInputs(base, "--method", "ties")).deltas(),
      (await free("--method", "ties")).deltas(),
    );
  });

  test("do not depend on the adapters' order", async () => {
    const [one, two] = tiny.adapters.map(({ files }) => files);
    const turned = ["--adapter", two ?? "", "--adapter", one ?? ""];
    for (const method of ["linear", "svd", "ties", "knots"]) {
      const there = (await free("--method", method)).deltas();
      expectSame((await mergeInputs(turned, "--method", method)).deltas(), there);
    }
  });

  test("that drop at random drop the same by the same seed only", async () => {
    const draw = async (seed: string) => (await free("--method", "dare_linear", "--seed", seed)).deltas();
    const first = await draw("1");
    expectSame(await draw("1"), first);
    const other = await draw("2");
    const apart = [...first].some(([module, delta]) => relativeError(other.get(module) ?? [], delta) > 0.1);
    expect(apart).toBe(true);
  });

  test("cut by an SVD to the largest rank among the adapters, as PEFT does", async () => {
    const { report } = await free("--method", "svd");
    const largest = Math.max(...report.adapters.map(({ rank }: { rank: number }) => rank));
    expect(Math.max(...report.layers.map(({ rank }: { rank: number }) => rank))).toBe(largest);
  });
});

describe("ranks", () => {
  test("kept for a share of the energy are uniform, or each layer's own", async () => {
    const uniform = await free("--method", "linear", "--energy", "0.9");
    expect(uniform.config().rank_pattern).toEqual({});
    const own = await free("--method", "linear", "--energy", "0.9", "--ranks", "per-layer");
    const ranks: number[] = own.report.layers.map(({ rank }: { rank: number }) => rank);
    expect(new Set(ranks).size).toBeGreaterThan(1);
    expect(Object.keys(own.config().rank_pattern).length).toBeGreaterThan(0);
    for (const { report } of [uniform, own]) {
      for (const { energy_kept, error } of report.layers) {
        // Nothing is told where nothing was cut.
        const kept = energy_kept ?? 1;
        expect(kept).toBeGreaterThanOrEqual(0.9 - 1e-6);
        expect(error).toBeCloseTo(Math.sqrt(Math.max(0, 1 - kept)), 3);
      }
    }
  });
});

describe("weights of layers", () => {
  test("for all layers are the adapters' weights", async () => {
    for (const method of ["iteris", "regmean", "linear"]) {
      const weighed = await calibrated("--method", method, "--weight", "2", "--weight", "0.5");
      const layers = await calibrated("--method", method, "--layer-weights", ".*: [2, 0.5]");
      expectSame(layers.deltas(), weighed.deltas());
      expect(layers.report.options.layer_weights).toEqual({ ".*": [2, 0.5] });
    }
  });

  test("for some leave the others' alone", async () => {
    const plain = (await calibrated("--method", "regmean")).deltas();
    const some = (await calibrated("--method", "regmean", "--layer-weights", "query=1,5")).deltas();
    const moved = [...plain].filter(([module, delta]) => relativeError(some.get(module) ?? [], delta) > 1e-6);
    expect(moved.length).toBeGreaterThan(0);
    for (const [module] of moved) expect(module).toMatch(/query$/);
  });
});

test("an option out of its range is refused with its name, and nothing is written", async () => {
  const out = join(folder, "refused");
  const line = ["merge", ...adapters(false), "--method", "ties", "--density", "0", "--out", out];
  expect(await run(...line)).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/density.*\(option_invalid\)/),
  });
  expect(readdirSync(folder)).not.toContain("refused");
});

describe("an adapter in one file", () => {
  test("is merged without its base and written as it came", async () => {
    const [one, two] = [join(folder, "one.safetensors"), join(folder, "two.safetensors")];
    writeKohya(one, [1, 2], [1, 0, 2], 0.5);
    writeKohya(two, [0, 1], [1, 1, 1], 3);
    const { out, report } = await mergeInputs(
      ["--adapter", one, "--adapter", two],
      ...["--method", "linear", "--format", "kohya"],
    );
    expect(report.adapters.map(({ name }: { name: string }) => name)).toEqual(["one", "two"]);
    const [written = ""] = readdirSync(out).filter((name) => name.endsWith(".safetensors"));
    const tensors = tensorsOf(readFileSync(join(out, written)));
    const values = (end: string) => [...(tensors.get(`${kohyaModule}.${end}`)?.values ?? [])];
    const [down, up, [alpha = Number.NaN]] = [
      values("lora_down.weight"),
      values("lora_up.weight"),
      values("alpha"),
    ];
    const rank = down.length / 3;
    const change = [0, 1].flatMap((i) =>
      [0, 1, 2].map((j) => {
        const terms = Array.from(
          { length: rank },
          (_, k) => (up[i * rank + k] ?? 0) * (down[k * 3 + j] ?? 0),
        );
        return (alpha / rank) * terms.reduce((sum, term) => sum + term, 0);
      }),
    );
    expect(relativeError(change, [0.5, 0, 1, 4, 3, 5])).toBeLessThan(1e-6);
  });

  test("is inspected as one, alone and in a folder", async () => {
    const path = join(folder, "style.safetensors");
    writeKohya(path, [1, 2], [1, 0, 2], 0.5);
    const inside = join(folder, "lora");
    cpSync(path, join(inside, "style.safetensors"));
    const { code, stdout } = await run("inspect", path, inside);
    expect(code).toBe(0);
    for (const place of [path, inside]) expect(stdout).toContain(`${place}: adapter\n`);
    expect(stdout.match(/^ {2}format: kohya$/gm)).toHaveLength(2);
    expect(stdout.match(/^ {2}needsBase: false$/gm)).toHaveLength(2);
  });
});
