/** What is in the package that npm would publish, and what is not. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { root } from "../../xtask/paths.mjs";
import { pack } from "./project.ts";

let names: string[];

beforeAll(() => {
  names = pack().files.map((file) => file.path);
});

test("it holds dist/, README, LICENSE and package.json, and nothing else", () => {
  const others = names.filter((name) => !name.startsWith("dist/"));
  expect(others.sort()).toEqual(["LICENSE", "README.md", "package.json"]);
});

test("every file that package.json names is in it", () => {
  const { bin, exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const named = [...JSON.stringify({ bin, exports }).matchAll(/"(?:\.\/)?(dist\/[^"]+)"/g)].map(
    ([, path]) => path,
  );
  expect(named.length).toBeGreaterThan(4);
  expect(names).toEqual(expect.arrayContaining(named));
});

test("it holds the wasm module once, and no model", () => {
  expect(names.filter((name) => name.endsWith(".wasm"))).toEqual(["dist/iteris_web_bg.wasm"]);
  expect(names.filter((name) => /safetensors$|tokenizer\.json$|\.(bin|pt)$/.test(name))).toEqual([]);
});

test("it holds no source and no declaration that names one", () => {
  expect(names.filter((name) => /\.(rs|ts|mjs)$/.test(name) && !name.endsWith(".d.ts"))).toEqual([]);
  const declarations = names.filter((name) => name.endsWith(".d.ts"));
  expect(declarations.length).toBeGreaterThan(0);
  for (const name of declarations) {
    expect(readFileSync(join(root, name), "utf8"), name).not.toMatch(/from "\.[^"]*\.ts"/);
  }
});

test("it needs no other package, and says whose work is inside", () => {
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  expect(dependencies).toBeUndefined();
  const notices = readFileSync(join(root, "dist/THIRD-PARTY.md"), "utf8");
  for (const name of ["@huggingface/tokenizers", "papaparse", "burn-flex", "wgpu", "safetensors"]) {
    expect(notices).toMatch(new RegExp(`^- ${name} \\d`, "m"));
  }
});

test("nothing in it names a folder of the machine that built it", () => {
  const home = join(process.env.HOME ?? "/root", ".cargo");
  for (const name of names) {
    const bytes = readFileSync(join(root, name));
    expect(bytes.includes(home), name).toBe(false);
    expect(bytes.includes(root), name).toBe(false);
  }
});
