/** Recipes on the page: a merge made again from its report, and what is said where it cannot be. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Locator, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveApp } from "./harness/serve.ts";
import {
  chooseMethod,
  drop,
  lacking,
  mergeButton,
  messages,
  openPage,
  overflow,
  ready,
  resultHeading,
  saved,
  violations,
  zone,
} from "./page-driver.ts";
import { type FamilyFolder, layOutFamily } from "./page-family.ts";

let browser: Browser;
let served: Served;
let llama: FamilyFolder;
let folder: string;
/** What the page calls the recipe's base model, whose folder a page does not tell. */
const base = expect.stringMatching(/^model\.safetensors, \d/);
/** The report of {@link makeMerge}, on disk. */
let report: string;
let made: Map<string, Buffer>;

beforeAll(async () => {
  llama = layOutFamily("llama");
  folder = mkdtempSync(join(tmpdir(), "iteris-page-"));
  [browser, served] = await Promise.all([launchBrowser(), serveApp()]);
  made = await makeMerge();
  report = join(folder, "merge_report.json");
  writeFileSync(report, made.get("merge_report.json") ?? "");
});

afterAll(async () => {
  await browser?.close();
  await served?.close();
  for (const path of [llama?.folder, folder]) if (path) rmSync(path, { recursive: true });
});

/** Waits for a claim to come true; a second, which is the default, is short on a busy machine. */
const eventually = <T>(look: () => T | Promise<T>) => expect.poll(look, { timeout: 30_000 });

const card = (page: Page, name: string): Locator => page.locator(`[data-adapter="${name}"]`);
const panel = (page: Page): Locator => page.getByRole("region", { name: "Recipe" });

/** The recipe's lines: what stands there, and how it is marked. */
const lines = (page: Page): Promise<[string, string][]> =>
  page
    .locator(".recipe-lines li")
    .evaluateAll((items) =>
      items.map((item) => [item.querySelector("strong")?.textContent ?? "", item.className]),
    );

/** A merge by RegMean with options, names and weights of its own. */
async function makeMerge(): Promise<Map<string, Buffer>> {
  const { page } = await openPage(browser, served.url);
  await drop(page, zone(page, "adapters"), [llama.folder]);
  await ready(page);
  await chooseMethod(page, "RegMean");
  await page.getByLabel("Non-diagonal a").fill("0.6");
  await page.getByLabel("Size").selectOption("rank");
  await page.getByLabel("Output rank").fill("3");
  await page.getByText("More options").click();
  await page.getByLabel("Weights of single layers").fill("model.layers.0.*: [2, 0.5]");
  await card(page, "a").getByLabel("Weight").fill("1.5");
  await card(page, "a").getByLabel("Name of the adapter").fill("alpha");
  await mergeButton(page).click();
  await resultHeading(page).waitFor();
  const files = await saved(page);
  await page.context().close();
  return files;
}

describe("a recipe", () => {
  test("sets everything, takes files in any order, and gives the same bytes again", async () => {
    const { page, log } = await openPage(browser, served.url);
    // Samples first, then an adapter under another name, then the recipe, and the rest after it.
    await drop(page, zone(page, "adapters"), [llama.sampleFiles.a]);
    const renamed = join(folder, "renamed");
    cpSync(llama.adapters.a, renamed, { recursive: true });
    await drop(page, zone(page, "adapters"), [renamed]);
    await card(page, "renamed").locator(".facts").waitFor();
    await drop(page, zone(page, "adapters"), [report]);
    await panel(page).waitFor();
    await eventually(() => lines(page)).toEqual([
      [base, "lacking"],
      ["alpha", "here"],
      ["b", "lacking"],
    ]);
    expect(await card(page, "alpha").getByLabel("Weight").inputValue()).toBe("1.5");
    expect(await page.getByRole("radio", { name: "RegMean", exact: true }).isChecked()).toBe(true);
    expect(await page.getByLabel("Non-diagonal a").inputValue()).toBe("0.6");
    expect(await page.getByLabel("Output rank").inputValue()).toBe("3");
    await page.getByText("More options").click();
    expect(await page.getByLabel("Weights of single layers").inputValue()).toBe("model.layers.0.*: [2, 0.5]");
    expect(await lacking(page)).toEqual(
      expect.arrayContaining([
        expect.stringMatching(/^Drop the base model’s folder: the recipe used model\.safetensors, /),
        "Drop b: the recipe merges it.",
      ]),
    );

    await drop(page, zone(page, "adapters"), [llama.adapters.b]);
    await eventually(() => lacking(page)).toContain(
      "Samples are missing for b: the recipe used b.samples.jsonl.",
    );
    await drop(page, zone(page, "adapters"), [llama.sampleFiles.b, llama.base]);
    await ready(page);
    await eventually(() => lines(page)).toEqual([
      [base, "here"],
      ["alpha", "here"],
      ["b", "here"],
    ]);
    await mergeButton(page).click();
    await resultHeading(page).waitFor();
    expect(await page.locator(".repetition").textContent()).toContain(
      "The same as the recipe’s merge, byte for byte.",
    );
    const again = await saved(page);
    const weights = "adapter_model.safetensors";
    expect(again.get(weights)?.equals(made.get(weights) ?? Buffer.alloc(0))).toBe(true);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("tells which files are others than it knows, and lets them be merged", async () => {
    const { page } = await openPage(browser, served.url);
    const other = join(folder, "alpha");
    mkdirSync(other);
    for (const name of ["adapter_config.json", "adapter_model.safetensors"]) {
      cpSync(join(llama.adapters.b, name), join(other, name));
    }
    const changed = Buffer.from(made.get("merge_report.json") ?? "");
    const recipe = JSON.parse(changed.toString());
    recipe.base.files = recipe.base.files.map((file: object) => ({ ...file, sha256: "0".repeat(64) }));
    // Of b nothing is known but its name.
    recipe.adapters[1].files = [];
    const path = join(folder, "merge_report (1).json");
    writeFileSync(path, JSON.stringify(recipe));
    await drop(page, zone(page, "adapters"), [path, other, llama.base]);
    await eventually(() => lines(page)).toEqual([
      [base, "differs"],
      ["alpha", "differs"],
      ["b", "lacking"],
    ]);
    expect(await panel(page).textContent()).toContain(
      "adapter_model.safetensors is not the file of the recipe",
    );
    expect(await violations(page)).toEqual([]);
    await page.getByRole("button", { name: "Remove the adapter alpha" }).click();
    await eventually(() => lines(page)).toContainEqual(["alpha", "lacking"]);

    await page.getByRole("button", { name: "Leave the recipe" }).click();
    expect(await panel(page).count()).toBe(0);
    expect(await page.getByRole("radio", { name: "RegMean", exact: true }).isChecked()).toBe(true);
    await page.context().close();
  });

  test("is chosen with a button, or offered by the adapter that was made", async () => {
    const { page } = await openPage(browser, served.url);
    const merged = join(folder, "merged");
    mkdirSync(merged);
    for (const [name, bytes] of made) if (!name.includes("/")) writeFileSync(join(merged, name), bytes);
    await drop(page, zone(page, "adapters"), [merged]);
    await card(page, "merged").locator(".facts").waitFor();
    expect(await panel(page).count()).toBe(0);
    await page.getByRole("button", { name: "Load it as a recipe" }).click();
    await panel(page).waitFor();
    await page.getByRole("button", { name: "Leave the recipe" }).click();

    const [chooser] = await Promise.all([
      page.waitForEvent("filechooser"),
      page.getByRole("button", { name: "Load a recipe" }).click(),
    ]);
    await chooser.setFiles(report);
    await panel(page).waitFor();
    expect(await lines(page)).toContainEqual(["alpha", "lacking"]);
    await page.context().close();
  });

  test("that is none is told with the reason", async () => {
    const { page } = await openPage(browser, served.url);
    const broken = join(folder, "broken");
    mkdirSync(broken);
    writeFileSync(join(broken, "merge_report.json"), JSON.stringify({ version: 99 }));
    await drop(page, zone(page, "adapters"), [join(broken, "merge_report.json")]);
    await eventually(() => messages(page)).toContain("merge_report.json is no recipe.");
    expect(await messages(page)).toMatch(/version is 99[\s\S]*config_invalid/);
    expect(await panel(page).count()).toBe(0);
    await page.context().close();
  });
});

test.each([
  ["light", 1200],
  ["dark", 360],
] as const)(
  "has no accessibility violation and fits the screen, %s, %i pixels",
  async (colorScheme, width) => {
    const { page, log } = await openPage(browser, served.url, {
      colorScheme,
      viewport: { width, height: 800 },
    });
    await drop(page, zone(page, "adapters"), [report]);
    await panel(page).waitFor();
    expect(await violations(page)).toEqual([]);
    await drop(page, zone(page, "adapters"), [llama.folder]);
    await ready(page);
    expect(await violations(page)).toEqual([]);
    expect(await overflow(page)).toBe(0);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  },
);
