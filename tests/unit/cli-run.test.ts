/**
 * Command lines from their words to their exit code, on files, with a fake module in the engine: what is read, where
 * paths lead, and what is left behind. What merges give is for the tests of the real module.
 */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Engine } from "../../www/lib/engine/engine.ts";
import { Faults } from "../../www/lib/engine/faults.ts";
import { nextTask } from "../../www/lib/engine/next-task.ts";
import type { MergeReport } from "../../www/lib/types.ts";
import type { MergeSource } from "../../www/lib/wasm-interface.ts";
import { fakeGpu, real } from "./fake-gpu.ts";
import {
  coreError,
  type FakeBehaviour,
  fakeWasm,
  type Seen,
  smallPlan,
  tinyBase,
  tooLargePlan,
} from "./fake-wasm.ts";

let behaviour: FakeBehaviour;
let gpu: GPU | undefined;
vi.mock("../../www/node/engine.ts", () => ({
  withEngine: (work: (engine: Engine) => Promise<unknown>) =>
    work(
      new Engine({
        loadWasm: async () => fakeWasm(behaviour),
        gpu: async () => gpu,
        gpuRemedy: "",
        faults: new Faults(),
        nextTask,
      }),
    ),
}));
const { runCommandLine } = await import("../../www/node/cli/run.ts");

let folder: string;
let seen: Seen[];
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "iteris-cli-run-"));
  seen = [];
  behaviour = { seen, report: report() };
  gpu = undefined;
  mkdirSync(join(folder, "base"));
  for (const { name, blob } of tinyBase()) writeFileSync(join(folder, "base", name), await blob.text());
  for (const name of ["one", "two"]) {
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, "adapter_config.json"), `{"name": "${name}"}`);
    writeFileSync(join(folder, `${name}.txt`), "a b\nb");
  }
});
afterEach(() => rmSync(folder, { recursive: true }));

const at = (name: string) => join(folder, name);
const sha256 = (bytes: string | Buffer) => createHash("sha256").update(bytes).digest("hex");

async function run(...argv: string[]) {
  const said = { stdout: "", stderr: "" };
  const into = (name: "stdout" | "stderr") => ({
    write: (text: string) => {
      said[name] += text;
    },
  });
  const terminal = { stdout: into("stdout"), stderr: into("stderr"), signal: new AbortController().signal };
  return { code: await runCommandLine(argv, terminal), ...said };
}

const adapters = (samples = true) =>
  ["one", "two"].flatMap((name) => [
    "--adapter",
    at(name),
    ...(samples ? ["--samples", at(`${name}.txt`)] : []),
  ]);
const inputs = (samples = true) => ["--base", at("base"), ...adapters(samples), "--device", "cpu"];

/** A report as the core would write it, of what lies in the folder. */
function report(tokens = "5"): Partial<MergeReport> {
  const digest = (path: string, name: string) => {
    let bytes: Buffer;
    try {
      bytes = readFileSync(join(at(path), name));
    } catch {
      bytes = Buffer.alloc(0);
    }
    return { name, bytes: bytes.length, sha256: sha256(bytes) };
  };
  return {
    created_by: "iteris-web 0.0.0",
    device: "cpu",
    base: { name: "base", path: "../base", files: [digest("base", "config.json")] },
    adapters: ["one", "two"].map((name) => ({
      name,
      path: `../${name}`,
      weight: name === "one" ? 1 : -2,
      rank: 1,
      files: [digest(name, "adapter_config.json")],
      samples: {
        source: `${name}.txt`,
        path: `../${name}.txt`,
        count: 2,
        truncated: 0,
        tokens: 3,
        sha256: tokens.repeat(64),
        answers: "none",
        answer_tokens: 0,
        self: null,
      },
    })),
    layers: [],
    notes: [],
    output: [{ name: "adapter_model.safetensors", bytes: 3, sha256: sha256(Buffer.from([1, 2, 3])) }],
  };
}

/** Writes the report of what lies in the folder as a recipe. */
function writeRecipe(): string {
  behaviour.report = report();
  const options = { method: "iteris", max_length: 8 };
  mkdirSync(at("merged"), { recursive: true });
  writeFileSync(at("merged/merge_report.json"), JSON.stringify({ version: 2, options, ...report() }));
  behaviour.report = { ...report(), options: { method: "iteris", max_length: 8 } as MergeReport["options"] };
  return at("merged/merge_report.json");
}

describe("a merge", () => {
  it("tells the core where inputs are, from the output folder", async () => {
    expect(await run("merge", ...inputs(), "--out", at("x/merged"))).toMatchObject({ code: 0 });
    expect(seen[0]).toMatchObject({
      basePath: "../../base",
      adapters: [
        { name: "one", path: "../../one", samples: { path: "../../one.txt", source: "one.txt" } },
        { name: "two", path: "../../two", samples: { path: "../../two.txt" } },
      ],
    });
  });

  it("needs neither base nor samples where the method needs none", async () => {
    const { code } = await run("merge", ...adapters(false), "--method", "ties", "--out", at("merged"));
    expect(code).toBe(0);
    expect(seen[0]).toMatchObject({ basePath: undefined, options: { method: "ties" } });
    expect(seen[0]?.adapters[0]).not.toHaveProperty("samples");
  });
});

describe("a recipe", () => {
  it("is made again with what it says, and the same files are told to be the same", async () => {
    const recipe = writeRecipe();
    const { code, stdout, stderr } = await run("merge", "--recipe", recipe, "--out", at("again"));
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining("loading") });
    expect(stdout).toContain(`The files are those of the recipe's merge, byte for byte: ${recipe}`);
    expect(seen[0]).toMatchObject({
      basePath: "../base",
      options: { method: "iteris", maxLength: 8 },
      adapters: [
        { name: "one", weight: 1, samples: { ids: Uint32Array.of(1, 2, 2) } },
        { name: "two", weight: -2 },
      ],
      device: "cpu",
    });
    expect(readdirSync(at("again"))).toEqual(["adapter_model.safetensors", "merge_report.json"]);
  });

  it.each([
    ["base/config.json", "recipe: base model: config.json is another one (recipe_mismatch)"],
    ["two/adapter_config.json", "recipe: two: adapter_config.json is another one (recipe_mismatch)"],
  ])("is refused where %s has changed, before the merge", async (path, message) => {
    const recipe = writeRecipe();
    writeFileSync(at(path), '{"eos_token_id": 3, "changed": true}');
    const { code, stderr } = await run("merge", "--recipe", recipe, "--out", at("again"));
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(message) });
    expect(seen).toEqual([]);
    expect(readdirSync(folder).filter((name) => name.includes("again"))).toEqual([]);
  });

  it("is refused where a file is gone", async () => {
    const recipe = writeRecipe();
    rmSync(at("one/adapter_config.json"));
    expect(await run("merge", "--recipe", recipe, "--out", at("again"))).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("one: adapter_config.json is missing"),
    });
  });

  it("is refused where samples have other tokens, and what was merged is not kept", async () => {
    const recipe = writeRecipe();
    behaviour.report = { ...behaviour.report, ...{ adapters: report("6").adapters ?? [] } };
    const { code, stderr } = await run("merge", "--recipe", recipe, "--out", at("again"));
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: expect.stringContaining("one: one.txt is another one"),
    });
    expect(seen).toHaveLength(1);
    expect(readdirSync(folder).filter((name) => name.includes("again"))).toEqual([]);
  });

  it("with an option beside it says what is not as it was", async () => {
    const recipe = writeRecipe();
    behaviour.report = { ...behaviour.report, output: [] };
    const { stdout } = await run("merge", "--recipe", recipe, "--rank", "1", "--out", at("again"), "--json");
    expect(JSON.parse(stdout).recipe).toEqual({
      path: recipe,
      identical: false,
      different: ["adapter_model.safetensors"],
    });
    expect(seen[0]?.options).toMatchObject({ rank: 1, maxLength: 8 });
  });
});

describe("an output folder", () => {
  it.each([["."], ["one"]])("that holds an input (%s) is refused, forced or not", async (out) => {
    const { code, stderr } = await run("merge", ...inputs(), "--out", at(out), "--force");
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining("holds an input") });
    expect(readdirSync(at("one"))).toEqual(["adapter_config.json"]);
  });
});

it("a merge that a GPU gives up is made on the CPU, in the folder it was to go to", async () => {
  gpu = fakeGpu(real);
  behaviour.merge = async (observer) => {
    if (seen.at(-1)?.device === "cpu") return;
    await observer.write("adapter_model.safetensors", Uint8Array.of(9, 9, 9, 9));
    throw coreError("device_limit", "It has 1 MiB.");
  };
  const line = [...inputs().slice(0, -1), "auto", "--out", at("out"), "--json"];
  const { code, stdout } = await run("merge", ...line);
  expect(code).toBe(0);
  expect(JSON.parse(stdout).device).toMatchObject({
    kind: "cpu",
    why: "The CPU, because the GPU gave up. It has 1 MiB.",
  });
  expect(seen.map(({ device }) => device)).toEqual(["auto", "cpu"]);
  expect([...readFileSync(at("out/adapter_model.safetensors"))]).toEqual([1, 2, 3]);
});

describe("a comparison", () => {
  it("keeps each result in a folder of its own, with paths from there", async () => {
    const line = ["compare", ...inputs(), "--methods", "iteris,ties", "--out", at("results")];
    const { code, stdout, stderr } = await run(...line);
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining("ties, running the model") });
    expect(stdout).toContain(`Each result is in a folder of its method's name in ${at("results")}`);
    expect(stdout).toContain("Note: ties: adapter_model.safetensors merge_report.json");
    expect(readdirSync(at("results")).sort()).toEqual(["iteris", "ties"]);
    expect(readFileSync(at("results/ties/adapter_model.safetensors"))).toEqual(Buffer.from([1, 2, 3]));
    expect(seen[1]).toMatchObject({ basePath: "../../base", adapters: [{ path: "../../one" }, {}] });
  });

  it("with --json prints what was made and where", async () => {
    const { stdout } = await run("compare", ...inputs(), "--methods", "ties", "--json");
    const { variants, merged, device } = JSON.parse(stdout);
    expect(variants).toEqual([
      { name: "ties", method: "ties", seconds: 2, folder: null, report: expect.anything() },
    ]);
    expect(merged).toEqual([]);
    expect(device.kind).toBe("cpu");
  });

  it("that fails leaves nothing", async () => {
    behaviour.merge = async (_, { method }) => {
      if (method === "ties") throw Object.assign(new Error("No."), { code: "shape_mismatch" });
    };
    const line = ["compare", ...inputs(), "--methods", "iteris,ties", "--out", at("results")];
    const { code, stderr } = await run(...line);
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: expect.stringContaining("ties: No. (shape_mismatch)"),
    });
    expect(readdirSync(folder).filter((name) => name.includes("results"))).toEqual([]);
  });
});

describe("inspect", () => {
  const safetensors = (...names: string[]) => {
    const header = Buffer.from(JSON.stringify(Object.fromEntries(names.map((name) => [name, {}]))));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    return Buffer.concat([length, header]);
  };
  const kindOf = async (path: string) => {
    const { code, stdout, stderr } = await run("inspect", at(path));
    // The fake reads any base and refuses every adapter.
    if (stderr.includes("adapter_unsupported")) return "adapter";
    return code === 0 ? stdout.split("\n")[0]?.split(": ").at(-1) : stderr;
  };

  it.each([
    ["lora_unet_x.lora_down.weight", "adapter"],
    ["unet.x.lora_A.weight", "adapter"],
    ["lora_te_x.hada_w1_a", "adapter"],
    ["model.layers.0.weight", "base"],
  ])("takes a file with %s for one of kind %s, alone and in a folder", async (name, kind) => {
    mkdirSync(at("x"));
    for (const path of ["x.safetensors", "x/model.safetensors"]) writeFileSync(at(path), safetensors(name));
    expect(await kindOf("x.safetensors")).toBe(kind);
    expect(await kindOf("x")).toBe(kind);
  });

  it("leaves what is no safetensors file to the core", async () => {
    writeFileSync(at("x.safetensors"), "no header at all, but longer than a length");
    expect(await kindOf("x.safetensors")).toBe("base");
    expect(await kindOf("base")).toBe("base");
    expect(await kindOf("one")).toBe("adapter");
    expect(await kindOf("one.txt")).toBe("samples");
  });
});

describe("inspect --plan", () => {
  const plan = (...words: string[]) => run("inspect", "--plan", at("one"), at("two"), ...words);

  it("prints what a merge would take, and starts none", async () => {
    const planned: MergeSource[] = [];
    Object.assign(behaviour, { planned });
    const { code, stdout } = await plan("--method", "svd", "--svd-rank", "16");
    expect([code, stdout]).toEqual([
      0,
      "986 layers: reads 429 MiB, writes 429 MiB, at most 60 MiB of memory, 12 GFLOP, about 6 s on this machine\n",
    ]);
    expect(planned[0]).toMatchObject({ base: [], options: { method: "svd", svdRank: 16 } });
    expect(planned[0]?.adapters.map(({ name }) => name)).toEqual(["one", "two"]);
    expect(seen).toEqual([]);
  });

  it("prints the numbers as JSON", async () => {
    const { stdout } = await plan("--method", "linear", "--json");
    expect(JSON.parse(stdout)).toEqual(smallPlan);
  });

  it("leaves open what the samples decide", async () => {
    behaviour.plan = { ...smallPlan, peakBytes: null, operations: null, seconds: null };
    const { stdout } = await plan("--base", at("base"));
    expect(stdout).toBe("986 layers: reads 429 MiB, writes 429 MiB\nThe samples decide the rest.\n");
  });

  it("says of what does not fit what the core says", async () => {
    behaviour.plan = tooLargePlan;
    const { stdout } = await plan("--method", "ties");
    expect(stdout).toMatch(/ on this machine\nThis merge needs 5\.0 GiB .*; ask for less\.\n$/);
  });

  it("refuses options that would do nothing, and no adapters at all", async () => {
    const useless = await plan("--method", "linear", "--density", "0.5");
    expect([useless.code, useless.stderr]).toEqual([
      2,
      expect.stringContaining("--density does nothing here"),
    ]);
    const none = await run("inspect", "--plan");
    expect([none.code, none.stderr]).toEqual([2, expect.stringContaining("Give the adapters")]);
  });
});
