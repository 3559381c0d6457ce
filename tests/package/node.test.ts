/** The package in a fresh Node project: its types, its API, its command. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { npmBin, root } from "../../xtask/paths.mjs";
import { exampleInputs, type Made, mergeInTree, withoutReport } from "./example.ts";
import { Project } from "./project.ts";

let project: Project;
let inTree: Made;

beforeAll(async () => {
  project = new Project("node-project", ["@types/node"]);
  inTree = await mergeInTree();
});

afterAll(() => project?.close());

test("its declarations serve a strict NodeNext project", () => {
  project.run(npmBin("tsc"), ["-p", "tsconfig.json", "--skipLibCheck", "false"]);
});

test("a merge gives the bytes of the merge in the checkout", () => {
  project.run(npmBin("rolldown"), [
    "merge.ts",
    "--platform=node",
    "--external=iteris-web",
    "--file=merge.mjs",
  ]);
  const { made, layers, code } = JSON.parse(
    project.run("node", ["merge.mjs", JSON.stringify(exampleInputs())]),
  );
  expect(Object.keys(made)).toContain("adapter_model.safetensors");
  expect(withoutReport(made)).toEqual(inTree);
  expect(layers).toBeGreaterThan(0);
  expect(code).toBe("no_adapters");
});

test("npx iteris-web --help tells how to merge", () => {
  const help = project.run("npx", ["--no-install", "iteris-web", "--help"]);
  for (const word of ["merge", "--base", "--adapter", "--samples", "--out"]) expect(help).toContain(word);
});

test("npx iteris-web --version is the package's", () => {
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  expect(project.run("npx", ["--no-install", "iteris-web", "--version"])).toContain(version);
});

test("a merge on the command line gives the same bytes", () => {
  const { base, adapters, workers } = exampleInputs();
  const inputs = adapters.flatMap(({ files, samples }) => ["--adapter", files, "--samples", samples]);
  const out = project.path("merged");
  const options = ["--schedule", "sweep", "--device", "cpu", "--workers", `${workers}`, "--json"];
  const printed = project.run("npx", [
    "--no-install",
    "iteris-web",
    "merge",
    "--base",
    base,
    ...inputs,
    "--out",
    out,
    ...options,
  ]);
  expect(JSON.parse(printed)).toBeTypeOf("object");
  const made: Made = {};
  for (const name of readdirSync(out, { recursive: true, encoding: "utf8" })) {
    const path = join(out, name);
    if (statSync(path).isFile()) made[name] = readFileSync(path).toString("base64");
  }
  expect(withoutReport(made)).toEqual(inTree);
});
