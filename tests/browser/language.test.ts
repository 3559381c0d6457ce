/**
 * Language models in a browser: what WebGPU merges and writes is what the CPU does, on one tiny model of each kind
 * of decoder. WebGPU is a software adapter here, so this says nothing about speed.
 */
import { rmSync } from "node:fs";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Family } from "../cli/family.ts";
import { deltasOf, relativeError } from "../deltas.ts";
import { mergeFamily, openFamily } from "./family-in-library.ts";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveLibrary } from "./harness/serve.ts";

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

/** What base and adapters write to the first prompts on a device. */
async function write(
  page: Page,
  { prompts }: Family,
  count: number,
  maxNewTokens: number,
  device: "cpu" | "webgpu",
) {
  return page.evaluate(
    async ({ prompts, maxNewTokens, device }) => {
      const chosen = (name: string) => [
        ...(document.querySelector<HTMLInputElement>(`input[name=${name}]`)?.files ?? []),
      ];
      const { variants } = await iteris.generate({
        base: chosen("base"),
        adapters: ["a", "b"].map((name) => ({ name, files: chosen(name) })),
        prompts,
        maxNewTokens,
        device,
      });
      return variants.map(({ texts }) => texts);
    },
    { prompts: prompts.slice(0, count), maxNewTokens, device },
  );
}

// Shaders are compiled on the processor, which takes a minute where other work runs too.
describe.each(["t5", "llama", "gpt2"] as const)("%s", { timeout: 600_000 }, (name) => {
  let page: Page;
  let family: Family;
  let folder: string;
  beforeAll(async () => {
    ({ page, family, folder } = await openFamily(browser, served.url, name));
    folders.push(folder);
  });

  test("writes on the CPU what transformers writes", async () => {
    const { base, a, b } = family.generated;
    const texts = await write(page, family, family.prompts.length, family.maxNewTokens, "cpu");
    expect(texts).toEqual([base.texts, a.texts, b.texts]);
  });

  // The goldens' margins between the first and the second token are far above what f32 on a GPU moves.
  test("writes on WebGPU what it writes on the CPU", async () => {
    const [cpu, gpu] = [await write(page, family, 2, 4, "cpu"), await write(page, family, 2, 4, "webgpu")];
    expect(gpu).toEqual(cpu);
  });

  test("is merged on WebGPU as on the CPU within 1e-3, and as the oracle does", async () => {
    const [cpu, gpu] = [
      await mergeFamily(page, family, "cpu"),
      await mergeFamily(page, family, "webgpu"),
    ].map(deltasOf);
    const oracle = family.sweep();
    let compared = 0;
    for (const [module, expected] of cpu ?? []) {
      expect(relativeError(gpu?.get(module) ?? [], expected), module).toBeLessThan(1e-3);
      const wanted = [...oracle].find(([name]) => module.endsWith(name))?.[1] ?? [];
      expect(relativeError(gpu?.get(module) ?? [], wanted), `${module} of the oracle`).toBeLessThan(1e-3);
      compared += 1;
    }
    expect(compared).toBe(oracle.size);
  });
});
