/** A tiny language model in the page that holds the library alone: opened there, and merged there. */
import { cpSync, mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import type { MergeRequest } from "../../www/lib/index.ts";
import { type Family, type FamilyName, writeFamily } from "../cli/family.ts";

/** A page with the library, and a family's folders chosen in inputs `base`, `a` and `b`. */
export async function openFamily(
  browser: Browser,
  url: string,
  name: FamilyName,
): Promise<{ page: Page; family: Family; folder: string }> {
  const folder = mkdtempSync(join(tmpdir(), "iteris-language-"));
  const family = writeFamily(name, folder);
  for (const adapter of ["a", "b"] as const) {
    mkdirSync(join(folder, adapter));
    cpSync(family.adapters[adapter], join(folder, adapter), { recursive: true });
  }
  const page = await (await browser.newContext()).newPage();
  await page.goto(url);
  await page.waitForFunction(() => globalThis.iteris !== undefined);
  for (const input of ["base", "a", "b"]) {
    await page.evaluate((name) => {
      const input = Object.assign(document.createElement("input"), { type: "file", name, multiple: true });
      input.webkitdirectory = true;
      document.body.append(input);
    }, input);
    await page.setInputFiles(`input[name=${input}]`, join(folder, input));
  }
  return { page, family, folder };
}

/** The merged adapter's weights, merged on a device from the family's samples without their answers. */
export async function mergeFamily(
  page: Page,
  family: Family,
  device: MergeRequest["device"],
): Promise<Buffer> {
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
