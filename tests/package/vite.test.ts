/** The package in a fresh Vite project: built for production, and from the development server. */
import { readdirSync } from "node:fs";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { npmBin } from "../../xtask/paths.mjs";
import { launchBrowser, watch } from "../browser/harness/browser.ts";
import { exampleFolder, type Made, mergeInTree, withoutReport } from "./example.ts";
import { Project } from "./project.ts";

declare global {
  // Of vite-project/src/main.ts.
  var mergeExample: () => Promise<Record<string, string>>;
  var mergeNothing: () => Promise<string>;
}

const VITE = "node_modules/vite/bin/vite.js";
let project: Project;
let browser: Browser;
let inTree: Made;

beforeAll(async () => {
  project = new Project("vite-project", ["vite"]);
  project.copy("public/example", exampleFolder);
  browser = await launchBrowser();
  inTree = await mergeInTree();
});

afterAll(async () => {
  await browser?.close();
  project?.close();
});

/** The page at `url`, once its script has run. */
async function open(url: string): Promise<{ page: Page; log: ReturnType<typeof watch> }> {
  const page = await browser.newPage();
  const log = watch(page);
  await page.goto(url);
  await page.waitForFunction(() => globalThis.mergeExample !== undefined);
  return { page, log };
}

test("its declarations serve a strict project with a bundler", () => {
  project.run(npmBin("tsc"), ["-p", "tsconfig.json", "--skipLibCheck", "false"]);
});

test("a production build merges, byte for byte as in the checkout", async () => {
  project.run("node", [VITE, "build"]);
  expect(readdirSync(project.path("dist/assets")).filter((name) => name.endsWith(".wasm"))).toHaveLength(1);
  const url = await project.serve([VITE, "preview", "--host", "127.0.0.1", "--port", "4580"]);
  const { page, log } = await open(url);
  expect(withoutReport(await page.evaluate(() => globalThis.mergeExample()))).toEqual(inTree);
  expect(await page.evaluate(() => globalThis.mergeNothing())).toBe("no_adapters");
  expect(log.complaints).toEqual([]);
  expect(log.requests.every((request) => request.startsWith(`GET ${url}`))).toBe(true);
  await page.close();
});

test("the development server serves worker and wasm too", async () => {
  const url = await project.serve([VITE, "--host", "127.0.0.1", "--port", "4680"]);
  const { page, log } = await open(url);
  expect(withoutReport(await page.evaluate(() => globalThis.mergeExample()))).toEqual(inTree);
  expect(log.complaints).toEqual([]);
  await page.close();
});
