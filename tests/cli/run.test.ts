/** Command lines, in this process: what they print where, what they write, how they exit. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Tiny, writeTiny } from "../tiny.ts";
import { run } from "./command.ts";

let folder: string;
let tiny: Tiny;
let out: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-run-"));
  tiny = writeTiny(folder);
  out = join(folder, "merged");
});
afterEach(() => rmSync(folder, { recursive: true }));

function inputs(): string[] {
  const adapters = tiny.adapters.flatMap(({ files, samples }) => ["--adapter", files, "--samples", samples]);
  return ["--base", tiny.base, ...adapters];
}

const mergeOn = (device: string, ...more: string[]) =>
  run("merge", ...inputs(), "--out", out, "--device", device, ...more);
const merge = (...more: string[]) => mergeOn("cpu", ...more);

describe("merge", () => {
  test("writes the folder and says what it did", async () => {
    const { code, stdout, stderr } = await merge();
    expect(stderr).toMatch(/^loading: 0 %\n/);
    expect({ code, stdout }).toEqual({
      code: 0,
      stdout: expect.stringContaining(`Merged qv, all with iteris into ${out}`),
    });
    expect(readdirSync(out, { recursive: true }).sort()).toEqual([
      "README.md",
      "adapter_config.json",
      "adapter_model.safetensors",
      "heads",
      "heads/all.safetensors",
      "heads/qv.safetensors",
      "merge_report.json",
    ]);
    // No hidden folder is left beside it.
    expect(readdirSync(folder).sort()).toEqual(["all", "all.txt", "base", "merged", "qv", "qv.txt"]);
  });

  test("with --json prints one object on standard output, which holds the report it wrote", async () => {
    const { code, stdout } = await merge("--json", "--weight", "2", "--weight", "1");
    expect(code).toBe(0);
    expect(stdout.trimEnd()).not.toContain("\n");
    const printed = JSON.parse(stdout);
    expect(Object.keys(printed).sort()).toEqual(["comparison", "device", "files", "out", "report"]);
    expect(printed.report).toEqual(JSON.parse(readFileSync(join(out, "merge_report.json"), "utf8")));
    expect(printed.report.adapters.map(({ weight }: { weight: number }) => weight)).toEqual([2, 1]);
    for (const { name, bytes } of printed.files) expect(readFileSync(join(out, name)).length).toBe(bytes);
  });

  test("with --compare prints how all do", async () => {
    const heldOut = tiny.adapters.map(({ name }) => {
      const path = join(folder, `${name}.test.csv`);
      writeFileSync(path, "text,label\nw41 w78,0\nw13 w60,1\n");
      return ["--compare", path];
    });
    const { code, stdout, stderr } = await merge(...heldOut.flat());
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining("comparing") });
    expect(stdout).toMatch(/task +samples +base +adapter +iteris +average\nqv +2 /);
    expect(stdout).toContain("accuracy");
  });

  test("of an average needs no samples", async () => {
    const adapters = tiny.adapters.flatMap(({ files }) => ["--adapter", files]);
    const line = ["--base", tiny.base, ...adapters, "--out", out, "--method", "average", "--device", "cpu"];
    expect((await run("merge", ...line)).code).toBe(0);
  });

  test("into the base model writes a model", async () => {
    expect((await merge("--output", "base")).code).toBe(0);
    expect(readdirSync(out)).toEqual(expect.arrayContaining(["config.json", "model.safetensors"]));
  });

  test("does not touch a folder that holds something", async () => {
    mkdirSync(out);
    writeFileSync(join(out, "precious"), "x");
    expect(await merge()).toMatchObject({ code: 2, stderr: expect.stringContaining("--force") });
    expect(readdirSync(out)).toEqual(["precious"]);
    expect((await merge("--force")).code).toBe(0);
    expect(readdirSync(out)).not.toContain("precious");
  });

  test("of bad input exits 2 and leaves nothing", async () => {
    writeFileSync(tiny.adapters[1]?.samples ?? "", "");
    const { code, stdout, stderr } = await merge();
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toBe("iteris-web: all.txt: holds no samples. (samples_invalid)\n");
    expect(readdirSync(folder).sort()).toEqual(["all", "all.txt", "base", "qv", "qv.txt"]);
  });

  test("of bad input with --json tells it as one object", async () => {
    const { code, stdout, stderr } = await run("merge", "--base", tiny.base, "--out", out, "--json");
    expect(code).toBe(2);
    expect(stderr).not.toContain("iteris-web:");
    expect(JSON.parse(stdout)).toEqual({ error: { code: "no_adapters", message: expect.any(String) } });
  });

  test("on WebGPU without the package names it and exits 1", async () => {
    expect(await mergeOn("webgpu")).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("npm install webgpu"),
    });
  });
});

describe("inspect", () => {
  test("tells a base model, an adapter and samples apart", async () => {
    const [one] = tiny.adapters;
    const { code, stdout } = await run("inspect", tiny.base, one?.files ?? "", one?.samples ?? "");
    expect(code).toBe(0);
    expect(stdout).toContain(`${tiny.base}: base\n  family: bert\n`);
    expect(stdout).toContain(`${one?.files}: adapter\n`);
    for (const fact of ["format: peft", "needsBase: false", "peftType: LORA"]) {
      expect(stdout).toContain(`\n  ${fact}\n`);
    }
    expect(stdout).toContain(`${one?.samples}: samples\n  name: qv.txt\n  format: txt\n  count: 12\n`);
  });

  test("tells an adapter's layers by pattern", async () => {
    const [one] = tiny.adapters;
    const { stdout } = await run("inspect", one?.files ?? "");
    expect(stdout).toMatch(
      /\n {2}layers:\n( {4}bert\.encoder\.layer\.\*\.attention\.self\.(query|value) {1,2}\d+ x rank \d+\n)+/,
    );
    const { found } = JSON.parse((await run("inspect", "--json", one?.files ?? "")).stdout);
    const [{ facts }] = found;
    const patterns = facts.groups.map(({ pattern }: { pattern: string }) => pattern);
    expect(patterns).toEqual(patterns.filter((pattern: string) => pattern.includes("*")));
    const modules = facts.groups.reduce((sum: number, group: { modules: number }) => sum + group.modules, 0);
    expect(modules).toBe(facts.modules);
  });

  test("with --json prints one object", async () => {
    const { stdout } = await run("inspect", "--json", tiny.base);
    const { found } = JSON.parse(stdout);
    expect(found).toEqual([
      { path: tiny.base, kind: "base", facts: expect.objectContaining({ family: "bert", maxLength: 64 }) },
    ]);
  });

  test("of nothing exits 2", async () => {
    expect(await run("inspect", join(folder, "nowhere"))).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("nowhere"),
    });
  });
});

test("--version prints a version", async () => {
  expect(await run("--version")).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/),
  });
});

test("an unknown command exits 2 and points to the help", async () => {
  expect(await run("mrege")).toMatchObject({ code: 2, stderr: expect.stringContaining("iteris-web --help") });
});
