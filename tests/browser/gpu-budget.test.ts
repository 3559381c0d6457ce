/**
 * What a merge may ask of a GPU. The time that a merge takes there follows from these counts before anything else, and
 * they are the same on every adapter.
 */
import { rmSync } from "node:fs";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { layOutExample } from "./example-files.ts";
import { mergeFamily, openFamily } from "./family-in-library.ts";
import { launchBrowser } from "./harness/browser.ts";
import { countGpu } from "./harness/gpu-counts.ts";
import { type Served, serveLibrary } from "./harness/serve.ts";

/** Readbacks beside one a linear group and pass. */
const FURTHER_READBACKS = 10;

let browser: Browser;
let served: Served;
const folders: string[] = [];

beforeAll(async () => {
  [browser, served] = await Promise.all([launchBrowser(), serveLibrary()]);
});

afterAll(async () => {
  await browser?.close();
  await served?.close();
  for (const folder of folders) rmSync(folder, { recursive: true });
});

test("a tiny llama is merged within 166 dispatches a block and 30 pipelines, and a readback a linear group", {
  timeout: 600_000,
}, async () => {
  const { page, family, folder } = await openFamily(browser, served.url, "llama");
  folders.push(folder);
  const counts = await countGpu(page);
  await mergeFamily(page, family, "webgpu");
  const { readbacks, dispatches, pipelines } = await counts();
  // Two blocks of four groups: query, key and value; output; gate and up; down. A third of 500 a block.
  expect(readbacks).toBeLessThanOrEqual(2 * 4 + FURTHER_READBACKS);
  expect(dispatches).toBeLessThanOrEqual(2 * 166);
  expect(pipelines).toBeLessThanOrEqual(30);
});

test("the built-in example is merged within 1000 dispatches", { timeout: 600_000 }, async () => {
  const example = layOutExample();
  folders.push(example.folder);
  const page = await (await browser.newContext()).newPage();
  await page.goto(served.url);
  await page.waitForFunction(() => globalThis.iteris !== undefined);
  const choose = async (name: string, paths: string | string[], directory: boolean) => {
    await page.evaluate(
      ({ name, directory }) => {
        const input = Object.assign(document.createElement("input"), { type: "file", name, multiple: true });
        input.webkitdirectory = directory;
        document.body.append(input);
      },
      { name, directory },
    );
    await page.setInputFiles(`input[name="${name}"]`, paths);
  };
  await choose("base", example.base, true);
  for (const { name, folder, samples } of example.adapters) {
    await choose(name, folder, true);
    await choose(`${name} samples`, samples, false);
  }
  const counts = await countGpu(page);
  const layers = await page.evaluate(
    async (names) => {
      const chosen = (name: string) => [
        ...(document.querySelector<HTMLInputElement>(`input[name="${name}"]`)?.files ?? []),
      ];
      const { report } = await iteris.merge({
        base: chosen("base"),
        adapters: names.map((name) => ({
          name,
          files: chosen(name),
          samples: chosen(`${name} samples`)[0] as File,
        })),
        // Counts do not depend on how many tokens there are, and a software adapter is slow.
        options: { maxLength: 8 },
        device: "webgpu",
      });
      return report.layers.length;
    },
    example.adapters.map(({ name }) => name),
  );
  const { readbacks, dispatches, pipelines } = await counts();
  expect(readbacks).toBeLessThanOrEqual(layers + FURTHER_READBACKS);
  expect(dispatches).toBeLessThanOrEqual(1000);
  expect(pipelines).toBeLessThanOrEqual(30);
});
