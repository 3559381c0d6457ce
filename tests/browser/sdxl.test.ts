/** Two SDXL adapters of rank 32 (225 MB each) on the page: merged, saved and read again; cancelled in the middle. */
import { createWriteStream, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { root } from "../../xtask/paths.mjs";
import { modules, randomAdapter } from "../bench/random-adapter.mjs";
import { writeRandomAdapter } from "../random-adapter.ts";
import { SafetensorsFile } from "../safetensors.ts";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveApp } from "./harness/serve.ts";
import { slowness } from "./harness/slowness.ts";
import {
  chooseMethod,
  drop,
  merge,
  mergeButton,
  openPage,
  ready,
  resultHeading,
  zone,
} from "./page-driver.ts";

const RANK = 32;
/** Milliseconds for work that takes ten seconds where nothing else runs. */
const PATIENCE = 200_000;
const sdxl = JSON.parse(readFileSync(join(root, "tests/bench/data/sdxl.json"), "utf8"));
const layers: { name: string; dOut: number; dIn: number }[] = modules(sdxl);

let folder: string;
let inputs: string[];
let browser: Browser;
let served: Served;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "iteris-sdxl-"));
  inputs = ["one", "two"].map((name) => join(folder, `${name}.safetensors`));
  for (const [index, path] of inputs.entries()) {
    const bytes = randomAdapter(sdxl, { rank: RANK, seed: index + 1 });
    await pipeline(Readable.from(bytes), createWriteStream(path));
  }
  [browser, served] = await Promise.all([launchBrowser(), serveApp()]);
});
afterAll(async () => {
  await browser?.close();
  await served?.close();
  rmSync(folder, { recursive: true });
});

/** A page with these adapters and this method, ready to merge. */
async function open(paths: string[], method: string): Promise<Page> {
  const { page } = await openPage(browser, served.url);
  await drop(page, zone(page, "adapters"), paths);
  await chooseMethod(page, method);
  await ready(page);
  return page;
}

/** Saves one file of the result, as its button does. @returns where it is on disk */
async function save(page: Page, name: string): Promise<string> {
  await page.getByText("Single files").click();
  const button = page.locator(".files button", { hasText: name });
  const [download] = await Promise.all([page.waitForEvent("download"), button.click()]);
  const path = join(folder, name);
  await download.saveAs(path);
  await page.getByText("Single files").click();
  return path;
}

/** Presses Cancel. @returns milliseconds until the page says that the merge was cancelled, by the page's own clock */
const cancel = (page: Page): Promise<number> =>
  page.evaluate(
    () =>
      new Promise((resolve) => {
        const pressed = performance.now();
        const observer = new MutationObserver(() => {
          const said = [...document.querySelectorAll(".notice")].map(({ textContent }) => textContent);
          if (!said.some((text) => text?.includes("The merge was cancelled"))) return;
          observer.disconnect();
          resolve(performance.now() - pressed);
        });
        observer.observe(document.body, { subtree: true, childList: true, characterData: true });
        document.querySelector<HTMLButtonElement>("#cancel")?.click();
      }),
  );

/** How many files there are in the origin private file system. */
const filesOnDisk = (page: Page): Promise<number> =>
  page.evaluate(async () => {
    const walk = async (folder: FileSystemDirectoryHandle): Promise<number> => {
      let files = 0;
      for await (const handle of folder.values()) {
        files += handle.kind === "file" ? 1 : await walk(handle as FileSystemDirectoryHandle);
      }
      return files;
    };
    return walk(await navigator.storage.getDirectory());
  });

/** Every 16th row of (alpha / r) B A of a layer. */
function rowsOf(file: SafetensorsFile, layer: string): Float64Array[] {
  const up = file.halves(`${layer}.lora_up.weight`);
  const down = file.halves(`${layer}.lora_down.weight`);
  const [rank = 0, dIn = 0] = down.shape;
  const scaling = (file.halves(`${layer}.alpha`).values[0] ?? 0) / rank;
  const rows: Float64Array[] = [];
  for (let row = 0; row < (up.shape[0] ?? 0); row += 16) {
    const sum = new Float64Array(dIn);
    for (let k = 0; k < rank; k += 1) {
      const factor = scaling * (up.values[row * rank + k] ?? 0);
      for (let j = 0; j < dIn; j += 1) sum[j] = (sum[j] ?? 0) + factor * (down.values[k * dIn + j] ?? 0);
    }
    rows.push(sum);
  }
  return rows;
}

/** Of the merged layer and the inputs' sum, on the same rows: the Frobenius norm of the difference, relative. */
function errorOf(layer: string, merged: SafetensorsFile, adapters: SafetensorsFile[]): number {
  const parts = adapters.map((adapter) => rowsOf(adapter, layer));
  let difference = 0;
  let norm = 0;
  for (const [i, row] of rowsOf(merged, layer).entries()) {
    for (const [j, value] of row.entries()) {
      const expected = parts.reduce((sum, rows) => sum + (rows[i]?.[j] ?? 0), 0);
      difference += (value - expected) ** 2;
      norm += expected ** 2;
    }
  }
  return Math.sqrt(difference / norm);
}

test("their sum is exact, saved to disk, and made in at most 700 MiB", {
  timeout: 2 * PATIENCE,
}, async () => {
  const page = await open(inputs, "Linear sum");
  await merge(page, PATIENCE);
  const merged = new SafetensorsFile(await save(page, "merged_lora.safetensors"));
  const report = JSON.parse(readFileSync(await save(page, "merge_report.json"), "utf8"));
  await page.context().close();
  expect(report.peak_bytes).toBeGreaterThan(0);
  expect(report.peak_bytes).toBeLessThanOrEqual(700 * 2 ** 20);

  let end = 0;
  for (const { dtype, shape, data_offsets } of merged.tensors.values()) {
    const bytes = 2 * shape.reduce((product, size) => product * size, 1);
    expect({ dtype, data_offsets }).toEqual({ dtype: "F16", data_offsets: [end, end + bytes] });
    end += bytes;
  }
  expect(end).toBe(merged.dataBytes);
  // A sum of two matrices of rank 32 has rank 64.
  const shapes = layers.flatMap(({ name, dOut, dIn }) => [
    [`${name}.alpha`, []],
    [`${name}.lora_down.weight`, [2 * RANK, dIn]],
    [`${name}.lora_up.weight`, [dOut, 2 * RANK]],
  ]);
  const found = [...merged.tensors].map(([name, { shape }]) => [name, shape]);
  expect(Object.fromEntries(found)).toEqual(Object.fromEntries(shapes));

  const adapters = inputs.map((path) => new SafetensorsFile(path));
  for (const kind of ["_mlp_fc1", "_attn2_to_k", "_ff_net_0_proj"]) {
    const layer = layers.find(({ name }) => name.endsWith(kind))?.name ?? kind;
    // Each factor is rounded to f16, which is at most 2^-11 of a number, so their product 2^-10.
    expect(errorOf(layer, merged, adapters), layer).toBeLessThan(2 ** -10);
  }
  for (const file of [merged, ...adapters]) file.close();
});

// Tried again if it fails: a machine that is busy with other programs interrupts the worker too.
test("a merge that is cancelled in the middle ends at once, leaves nothing, and the next one works", {
  retry: 1,
  timeout: 3 * PATIENCE,
}, async () => {
  const page = await open(inputs, "Sum, cut by SVD");
  await page.getByLabel("Rank of the cut").fill(String(RANK));
  const slower = await slowness(browser, page);
  await mergeButton(page).click();
  // The first 64 MiB of a result are in memory.
  await expect.poll(() => filesOnDisk(page), { timeout: PATIENCE }).toBeGreaterThan(0);
  expect(await cancel(page)).toBeLessThan(1000 * slower);
  expect(await filesOnDisk(page)).toBe(0);
  expect(await resultHeading(page).count()).toBe(0);

  await chooseMethod(page, "Linear sum");
  await merge(page, PATIENCE);
  expect(await page.locator(".tile", { hasText: "Modules merged" }).textContent()).toContain(
    String(layers.length),
  );
  await page.context().close();
});

test("a layer that takes many seconds is left within one", async () => {
  const wide = ["wide-one", "wide-two"].map((name, index) => {
    mkdirSync(join(folder, name));
    return writeRandomAdapter(join(folder, name), { modules: 1, width: 8192, rank: 16, seed: index + 1 });
  });
  const page = await open(wide, "TIES");
  const slower = await slowness(browser, page);
  await mergeButton(page).click();
  await page.locator(".progress-detail", { hasText: "Merging" }).waitFor();
  await page.waitForTimeout(1500);
  expect(await cancel(page)).toBeLessThan(1000 * slower);
  await page.context().close();
});
