/**
 * Language models in a browser: what WebGPU merges and writes is what the CPU does, on one tiny model of each kind
 * of decoder. WebGPU is a software adapter here, so this says nothing about speed.
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { MergeRequest } from "../../www/lib/index.ts";
import { type Family, type FamilyName, writeFamily } from "../cli/family.ts";
import { deltasOf, relativeError } from "../deltas.ts";
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

/** A page with the library, and a family's folders chosen in inputs `base`, `a` and `b`. */
async function open(name: FamilyName): Promise<{ page: Page; family: Family }> {
  const folder = mkdtempSync(join(tmpdir(), "iteris-language-"));
  folders.push(folder);
  const family = writeFamily(name, folder);
  for (const adapter of ["a", "b"] as const) {
    mkdirSync(join(folder, adapter));
    cpSync(family.adapters[adapter], join(folder, adapter), { recursive: true });
  }
  const page = await (await browser.newContext()).newPage();
  await page.goto(served.url);
  await page.waitForFunction(() => globalThis.iteris !== undefined);
  for (const input of ["base", "a", "b"]) {
    await page.evaluate((name) => {
      const input = Object.assign(document.createElement("input"), { type: "file", name, multiple: true });
      input.webkitdirectory = true;
      document.body.append(input);
    }, input);
    await page.setInputFiles(`input[name=${input}]`, join(folder, input));
  }
  return { page, family };
}

/** The merged adapter's weights, merged on a device from the family's samples without their answers. */
async function merge(page: Page, family: Family, device: MergeRequest["device"]): Promise<Buffer> {
  const tasks = (["a", "b"] as const).map((name) => ({ name, samples: family.samples[name] }));
  const weights = await page.evaluate(
    async ({ tasks, maxNewTokens, device }) => {
      const chosen = (name: string) => [
        ...(document.querySelector<HTMLInputElement>(`input[name=${name}]`)?.files ?? []),
      ];
      const { files } = await iteris.merge({
        base: chosen("base"),
        adapters: tasks.map(({ name, samples }) => ({ name, samples, files: chosen(name) })),
        options: { maxNewTokens },
        device,
      });
      const blob = files.find(({ name }) => name === "adapter_model.safetensors")?.blob;
      const bytes = new Uint8Array((await blob?.arrayBuffer()) ?? new ArrayBuffer());
      return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
    },
    { tasks, maxNewTokens: family.maxNewTokens, device },
  );
  return Buffer.from(weights, "latin1");
}

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
  beforeAll(async () => {
    ({ page, family } = await open(name));
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
    const [cpu, gpu] = [await merge(page, family, "cpu"), await merge(page, family, "webgpu")].map(deltasOf);
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
