/** Several methods on the same samples, as a person compares them on the page, and what can be done with each. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Browser, Locator, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { root } from "../../xtask/paths.mjs";
import { type ExampleFolder, layOutExample } from "./example-files.ts";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveApp } from "./harness/serve.ts";
import {
  drop,
  lacking,
  network,
  openPage,
  overflow,
  ready,
  resultHeading,
  tickMethods,
  unzipped,
  violations,
  zone,
} from "./page-driver.ts";
import { type FamilyFolder, layOutFamily } from "./page-family.ts";

let browser: Browser;
let served: Served;
let example: ExampleFolder;
let llama: FamilyFolder;

beforeAll(async () => {
  example = layOutExample();
  llama = layOutFamily("llama");
  [browser, served] = await Promise.all([launchBrowser(), serveApp()]);
});

afterAll(async () => {
  await browser?.close();
  await served?.close();
  for (const folder of [example?.folder, llama?.folder]) if (folder) rmSync(folder, { recursive: true });
});

/** Waits for a claim to come true; a second, which is the default, is short on a busy machine. */
const eventually = <T>(look: () => T | Promise<T>) => expect.poll(look, { timeout: 100_000 });

const button = (page: Page): Locator => page.getByRole("button", { name: "Compare methods" });
const heading = (page: Page): Locator => page.locator("#method-comparison-heading");
const table = (page: Page): Locator => page.getByRole("region", { name: "Methods compared" });
const row = (page: Page, name: string): Locator =>
  table(page)
    .getByRole("row")
    .filter({ has: page.getByRole("rowheader", { name, exact: true }) });

async function dropAll(page: Page, { folder }: { folder: string }): Promise<void> {
  await drop(page, zone(page, "adapters"), [folder]);
  await ready(page);
}

/** Compares these methods on what was dropped, to the end. */
async function compare(page: Page, titles: readonly string[]): Promise<void> {
  await tickMethods(page, titles);
  await button(page).click();
  await page.getByRole("heading", { name: /methods compared$/ }).waitFor({ timeout: 110_000 });
}

/** The numbers of a row, by the head of their column; the words for ears alone are left out. */
async function numbers(page: Page, name: string): Promise<Record<string, string>> {
  const heads = await table(page).getByRole("columnheader").allTextContents();
  const cells = await row(page, name)
    .locator("th, td")
    .evaluateAll((cells) =>
      cells.map((cell) => (cell.querySelector("strong") ?? cell).textContent?.trim() ?? ""),
    );
  return Object.fromEntries(heads.map((head, index) => [head, cells[index] ?? ""]));
}

describe("methods that are compared", () => {
  test("have their numbers, bars and files side by side, and make no request", async () => {
    const { page, log } = await openPage(browser, served.url);
    await dropAll(page, example);
    const before = network(log).length;
    await compare(page, ["IterIS", "Linear average", "Task arithmetic"]);
    expect(await heading(page).evaluate((element) => element === document.activeElement)).toBe(true);
    expect(await heading(page).textContent()).toBe("3 methods compared");

    const [iteris, average] = [await numbers(page, "IterIS"), await numbers(page, "Linear average")];
    const right = (of: Record<string, string>) => Number(of["Right answers, %"]);
    // The built-in example is one that an average spoils.
    expect(right(iteris)).toBeGreaterThan(85);
    expect(right(average)).toBeLessThan(60);
    expect(Number(iteris["Mean residual"])).toBeLessThan(Number(average["Mean residual"]));
    expect(iteris.Time).toMatch(/\d+(\.\d)? (s|min)/);
    const own = await numbers(page, "Each task’s own adapter");
    expect(own["Agreement, %"]).toBe("100.0");
    expect(await row(page, "IterIS").locator(".best").count()).toBeGreaterThan(0);
    expect(await row(page, "Linear average").locator(".best").count()).toBe(0);

    const bars = page.locator(".bar-panel");
    expect(await bars.locator("figcaption").allTextContents()).toEqual([
      expect.stringContaining("Right answers"),
      expect.stringContaining("Agreement"),
      expect.stringContaining("less is better"),
      expect.stringContaining("Time"),
    ]);
    for (const panel of await bars.all()) expect(await panel.locator("rect.bar").count()).toBe(3);

    for (const [title, method] of [
      ["IterIS", "iteris"],
      ["Task arithmetic", "task_arithmetic"],
    ] as const) {
      const files = await unzipped(page, page.getByRole("button", { name: `Save ${title} as a zip` }));
      const report = JSON.parse(files.get("merge_report.json")?.toString() ?? "null");
      expect(report.options.method).toBe(method);
      expect(files.get("adapter_model.safetensors")?.length).toBeGreaterThan(0);
    }
    expect(network(log).slice(before)).toEqual([]);
    expect(log.complaints).toEqual([]);

    // One of them in full, without another merge.
    await page.getByRole("button", { name: "Details of IterIS" }).click();
    await eventually(() =>
      resultHeading(page).evaluate((element) => element === document.activeElement),
    ).toBe(true);
    expect(await resultHeading(page).textContent()).toBe("Merged by IterIS");
    expect(await page.locator(".comparison thead th").allTextContents()).toEqual([
      "Task",
      "Base",
      "Own adapter",
      "Linear average",
      "IterIS",
    ]);
    await page.getByLabel("Weight", { exact: true }).first().fill("0.5");
    expect(await page.locator(".stale").allTextContents()).toEqual([
      expect.stringContaining("since this comparison"),
      expect.stringContaining("since this merge"),
    ]);
    await page.context().close();
  });

  test("say what each of them needs before they begin", async () => {
    const { page } = await openPage(browser, served.url);
    await page.getByRole("radio", { name: "Compare several" }).check();
    await drop(page, zone(page, "adapters"), Object.values(llama.adapters));
    await eventually(() => lacking(page)).toContain("Drop the base model’s folder.");
    await drop(page, zone(page, "base"), [llama.base]);
    await eventually(() => lacking(page)).toEqual([
      "Samples are missing for a and b. Drop a file, or let the adapter write them.",
    ]);
    await tickMethods(page, ["TIES"]);
    expect(await lacking(page)).toEqual([
      "Drop texts to compare on for a and b: held-out texts, or samples.",
      "Tick at least two methods to compare.",
    ]);
    await drop(page, zone(page, "adapters"), Object.values(llama.sampleFiles));
    await page.getByRole("checkbox", { name: "Linear sum", exact: true }).check();
    await ready(page);
    await page.context().close();
  });

  test("write side by side where the model writes", async () => {
    const { page, log } = await openPage(browser, served.url);
    await dropAll(page, llama);
    await compare(page, ["RegMean++", "TIES", "DARE, cut by SVD"]);
    expect(Object.keys(await numbers(page, "TIES"))).toContain("Agreement, %");
    await page.getByRole("button", { name: "Write", exact: true }).click();
    await page.locator('[aria-busy="false"] .output').first().waitFor();
    expect(await page.locator(".output-name").allTextContents()).toEqual([
      "Base",
      "a",
      "b",
      "RegMean++",
      "TIES",
      "DARE, cut by SVD",
    ]);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("can be cancelled, and what was merged by then can be saved", async () => {
    const { page } = await openPage(browser, served.url);
    await dropAll(page, example);
    await page.getByText("More options").click();
    await tickMethods(page, ["Linear average", "IterIS"]);
    await page.getByLabel("Schedule").selectOption("iterate");
    await page.getByLabel("Passes", { exact: true }).fill("500");
    await button(page).click();
    const cancel = page.getByRole("button", { name: "Cancel" });
    await eventually(() => cancel.evaluate((element) => element === document.activeElement)).toBe(true);
    await eventually(() => row(page, "IterIS").textContent()).toContain("merging");
    expect(await violations(page)).toEqual([]);
    await cancel.click();
    await page.getByText("The comparison was cancelled").waitFor();
    expect(await heading(page).textContent()).toBe("Comparison cancelled");
    expect(await table(page).getByRole("button").count()).toBe(0);

    await tickMethods(page, ["Linear average", "Linear sum"]);
    await button(page).click();
    await page.getByRole("button", { name: "Save Linear average as a zip" }).waitFor({ timeout: 60_000 });
    await cancel.click();
    await page.getByText("The comparison was cancelled").waitFor();
    const files = await unzipped(page, page.getByRole("button", { name: "Save Linear average as a zip" }));
    expect(files.has("adapter_model.safetensors")).toBe(true);
    await page.context().close();
  });

  test("fail each for itself", async () => {
    const { page } = await openPage(browser, served.url);
    await dropAll(page, llama);
    for (const [name, text] of [
      ["a", "w9"],
      ["b", "w12"],
    ] as const) {
      await page.getByRole("button", { name: `Remove ${name}.samples.jsonl from ${name}` }).click();
      const few = join(llama.folder, `${name}.few.jsonl`);
      writeFileSync(few, `${JSON.stringify({ text })}\n`);
      await drop(page, zone(page, "adapters"), [few]);
    }
    await tickMethods(page, ["IterIS", "Linear average", "Linear sum"]);
    await page.getByText("More options").click();
    // Fewer tokens than inputs of a layer, and no ridge that holds the rest; averages need none.
    await page.getByLabel("Alpha 1").fill("0");
    await page.getByLabel("Alpha 2").fill("0");
    await button(page).click();
    await page.getByRole("heading", { name: "2 methods compared" }).waitFor();
    expect(await row(page, "IterIS").textContent()).toContain("not_positive_definite");
    expect(await row(page, "IterIS").getByRole("button").count()).toBe(0);
    expect(Object.values(await numbers(page, "Linear average"))).not.toContain("–");
    expect(await violations(page)).toEqual([]);

    // An adapter of another base model, with which nothing can be merged.
    await drop(page, zone(page, "adapters"), [join(root, "tests/goldens/data/adapters/qv")]);
    await page.getByRole("button", { name: "Remove the adapter qv" }).waitFor();
    const texts = join(llama.folder, "qv.test.jsonl");
    writeFileSync(texts, '{"prompt": "w9 w12"}\n');
    await drop(page, zone(page, "adapters"), [texts]);
    await tickMethods(page, ["Linear average", "Linear sum"]);
    await ready(page);
    await button(page).click();
    await page.getByRole("heading", { name: "No method could be used" }).waitFor();
    expect(await row(page, "Linear sum").textContent()).toMatch(/qv[\s\S]*(shape_mismatch|missing)/);
    await page.context().close();
  });
});

describe("for everybody", () => {
  test.each([
    ["light", 1200],
    ["dark", 1200],
    ["dark", 360],
  ] as const)(
    "has no accessibility violation and fits the screen, %s, %i pixels",
    async (colorScheme, width) => {
      const { page, log } = await openPage(browser, served.url, {
        colorScheme,
        viewport: { width, height: 800 },
      });
      const check = async (): Promise<void> => {
        expect(await violations(page)).toEqual([]);
        expect(await overflow(page)).toBe(0);
      };
      await dropAll(page, llama);
      await page.getByRole("radio", { name: "Compare several" }).check();
      await check();
      await compare(page, ["IterIS", "RegMean", "Linear average", "DARE with TIES, cut by SVD"]);
      for (const summary of await page.locator(".result summary").all()) await summary.click();
      await check();
      expect(log.complaints).toEqual([]);
      await page.context().close();
    },
  );
});
