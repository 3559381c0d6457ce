/** The page as a person uses it: files from disk, dropped and picked; merged, cancelled, saved. */
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { unzipSync } from "fflate";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DEFAULTS, mergeOptions } from "../../www/page/settings.ts";
import { root } from "../../xtask/paths.mjs";
import { type ExampleFolder, layOutExample } from "./example-files.ts";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveApp, serveLibrary } from "./harness/serve.ts";
import { longestTask, slowness } from "./harness/slowness.ts";
import {
  compared,
  drop,
  lacking,
  mergeButton,
  messages,
  network,
  openPage,
  overflow,
  ready,
  resultHeading,
  violations,
  zone,
} from "./page-driver.ts";

let browser: Browser;
let served: Served;
let example: ExampleFolder;

beforeAll(async () => {
  example = layOutExample();
  [browser, served] = await Promise.all([launchBrowser(), serveApp()]);
});

afterAll(async () => {
  await browser?.close();
  await served?.close();
  if (example) rmSync(example.folder, { recursive: true });
});

/** Waits for a claim to come true; a second, which is the default, is short on a busy machine. */
const eventually = <T>(look: () => T | Promise<T>) => expect.poll(look, { timeout: 30_000 });

const goldens = join(root, "tests/goldens/data");

/** Everything the example has, in one drop. */
async function dropEverything(page: Page): Promise<void> {
  await drop(page, zone(page, "adapters"), [example.folder]);
  await ready(page);
}

const errors = (page: Page) => page.locator(".notice.error");
const first = () => {
  const [adapter] = example.adapters;
  if (!adapter) throw new Error("the example has no adapter");
  return adapter;
};

describe("what was dropped", () => {
  test("a folder that holds everything is sorted, and its facts are shown before merging", async () => {
    const { page, log } = await openPage(browser, served.url);
    const before = network(log).length;
    expect(await lacking(page)).toHaveLength(3);
    await dropEverything(page);

    const base = page.locator("section", { has: page.locator("#base-heading") });
    await eventually(() => base.locator(".facts").textContent()).toMatch(/Architecture\s*Bert/);
    const cards = page.locator(".cards > li");
    expect(await cards.count()).toBe(example.adapters.length);
    for (const adapter of example.adapters) {
      const card = page.locator(`[data-adapter="${adapter.name}"]`);
      const config = JSON.parse(readFileSync(join(adapter.folder, "adapter_config.json"), "utf8"));
      const facts = await card.locator(".facts").textContent();
      expect(facts).toMatch(new RegExp(`Rank\\s*${config.r}`));
      expect(facts).toMatch(new RegExp(`Alpha\\s*${config.lora_alpha}`));
      const lines = readFileSync(adapter.samples, "utf8").trim().split("\n").length;
      expect(await card.locator('[data-role="samples"]').textContent()).toContain(`${lines} texts`);
    }
    expect(network(log)).toHaveLength(before);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("what is missing is said at once, piece by piece", async () => {
    const { page } = await openPage(browser, served.url);
    const { adapters } = example;
    await drop(page, zone(page, "adapters"), [first().folder]);
    await eventually(() => lacking(page)).toContain("Drop at least one more adapter.");
    await drop(
      page,
      zone(page, "adapters"),
      adapters.slice(1).map(({ folder }) => folder),
    );
    await eventually(async () => (await lacking(page)).join("\n")).toMatch(
      new RegExp(`Samples are missing for ${first().name}`),
    );

    // A folder of a base model without its tokenizer, which is then dropped by itself.
    const bare = join(example.folder, "bare");
    mkdirSync(bare);
    for (const name of ["config.json", "model.safetensors"])
      copyFileSync(join(example.base, name), join(bare, name));
    await drop(page, zone(page, "base"), [bare]);
    await eventually(async () => (await lacking(page)).join("\n")).toContain("tokenizer.json");
    await drop(page, zone(page, "base"), [join(example.base, "tokenizer.json")]);
    await eventually(async () => (await lacking(page)).join("\n")).not.toContain("tokenizer.json");

    await drop(
      page,
      zone(page, "adapters"),
      adapters.map(({ samples }) => samples),
    );
    await ready(page);
    expect(await lacking(page)).toEqual([]);
    await mergeButton(page).click();
    await resultHeading(page).waitFor();
    rmSync(bare, { recursive: true });
    await page.context().close();
  });

  test("the Merge button says why it is not ready, and then does nothing", async () => {
    const { page } = await openPage(browser, served.url);
    const button = mergeButton(page);
    expect(await button.getAttribute("aria-disabled")).toBe("true");
    const reason = await button.evaluate(
      (element) => document.getElementById(element.getAttribute("aria-describedby") ?? "")?.textContent,
    );
    expect(reason).toContain("Drop the base model");
    await button.click({ force: true });
    expect(await page.locator("progress").count()).toBe(0);
    await page.context().close();
  });

  test("pickers do what drops do", async () => {
    const { page } = await openPage(browser, served.url);
    const choose = async (name: string, files: string | string[]): Promise<void> => {
      const [chooser] = await Promise.all([
        page.waitForEvent("filechooser"),
        page.getByRole("button", { name }).click(),
      ]);
      await chooser.setFiles(files);
    };
    await choose("Choose folder for base model", example.base);
    await choose("Choose folder for adapters", first().folder);
    await page.locator(`[data-adapter="${first().name}"] .facts`).waitFor();
    await choose(`Choose file for the samples of ${first().name}`, first().samples);
    await eventually(() => page.locator('[data-role="samples"]').textContent()).toContain("texts");
    expect(await lacking(page)).toEqual(["Drop at least one more adapter."]);
    await page.context().close();
  });

  test("the same file dropped twice is told, and not added again", async () => {
    const { page } = await openPage(browser, served.url);
    await dropEverything(page);
    await drop(page, zone(page, "adapters"), [first().folder]);
    await eventually(() => messages(page)).toContain(
      `has the same weights as “${first().name}”, which is here already`,
    );
    await drop(page, zone(page, "adapters"), [first().samples]);
    await eventually(() => messages(page)).toContain("has the same content as");
    await drop(page, zone(page, "base"), [example.base]);
    await eventually(() => messages(page)).toContain("is here already");
    expect(await page.locator(".cards > li").count()).toBe(example.adapters.length);
    await page.context().close();
  });

  test("a text file that could be anybody's waits for an answer", async () => {
    const { page } = await openPage(browser, served.url);
    await drop(
      page,
      zone(page, "adapters"),
      example.adapters.map(({ folder }) => folder),
    );
    const anybody = join(example.folder, "anybody.txt");
    writeFileSync(anybody, "A text.\nAnother text.\n");
    await drop(page, zone(page, "adapters"), [anybody]);
    const select = page.getByLabel("Adapter that anybody.txt belongs to");
    await select.selectOption({ label: first().name });
    const card = page.locator(`[data-adapter="${first().name}"]`);
    await eventually(() => card.locator('[data-role="samples"]').textContent()).toContain("anybody.txt");
    // Not before it has been read; and other tests drop the whole folder.
    rmSync(anybody);
    await page.context().close();
  });

  test("adapters can be renamed, weighted and removed", async () => {
    const { page } = await openPage(browser, served.url);
    await dropEverything(page);
    const card = page.locator(".cards > li").first();
    const name = await card.getByLabel("Name of the adapter").inputValue();
    await card.getByLabel("Weight").fill("");
    expect(await lacking(page)).toEqual([`Give ${name} a weight above zero.`]);
    await card.getByLabel("Weight").fill("0.5");
    await card.getByLabel("Name of the adapter").fill("renamed");
    expect(await lacking(page)).toEqual([]);
    await card.getByRole("button", { name: "Remove the adapter renamed" }).click();
    expect(await page.locator(".cards > li").count()).toBe(example.adapters.length - 1);
    await page.context().close();
  });

  test("an adapter that cannot be used says so on its card", async () => {
    const { page } = await openPage(browser, served.url);
    const pickle = join(first().folder, "adapter_model.bin");
    writeFileSync(pickle, "not read");
    await drop(page, zone(page, "adapters"), [join(first().folder, "adapter_config.json"), pickle]);
    const problem = page.locator(".card-problem");
    await problem.waitFor();
    rmSync(pickle);
    expect(await problem.textContent()).toContain("pickle_refused");
    expect(await problem.textContent()).toContain("safe_serialization=True");
    expect(await violations(page)).toEqual([]);
    await page.context().close();
  });

  test("what is of no use is told, not swallowed", async () => {
    const { page } = await openPage(browser, served.url);
    await drop(page, zone(page, "adapters"), [join(root, "LICENSE")]);
    await errors(page).waitFor();
    expect(await errors(page).textContent()).toContain("Nothing here looks like a base model");
    await errors(page).getByRole("button", { name: "Dismiss this message" }).click();
    expect(await errors(page).count()).toBe(0);
    await page.context().close();
  });
});

describe("merging", () => {
  test("from disk to disk without one request", async () => {
    const { page, log } = await openPage(browser, served.url);
    // What the worker needs to start is fetched once, before anything is dropped or on the first look at a file.
    await drop(page, zone(page, "base"), [example.base]);
    await page.locator(".card .facts").first().waitFor();
    const before = network(log).length;
    await dropEverything(page);
    await mergeButton(page).click();
    await compared(page);
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Download adapter" }).click(),
    ]);
    const files = unzipSync(readFileSync(await download.path()));

    expect(network(log).slice(before)).toEqual([]);
    expect(network(log).every((request) => request.startsWith(`GET ${served.url}`))).toBe(true);
    expect(log.complaints).toEqual([]);
    expect(download.suggestedFilename()).toBe("merged-adapter.zip");
    expect(Object.keys(files)).toEqual(
      expect.arrayContaining(
        ["adapter_config.json", "adapter_model.safetensors", "merge_report.json"].map(
          (name) => `merged-adapter/${name}`,
        ),
      ),
    );
    const json = (name: string) => JSON.parse(new TextDecoder().decode(files[`merged-adapter/${name}`]));
    const ranks = example.adapters.map(
      ({ folder }) => JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")).r as number,
    );
    expect(json("adapter_config.json").r).toBe(ranks.reduce((sum, rank) => sum + rank, 0));
    expect(
      json("merge_report.json")
        .adapters.map(({ name }: { name: string }) => name)
        .sort(),
    ).toEqual(example.adapters.map(({ name }) => name).sort());
    await page.context().close();
  });

  test("saves into a folder that is picked", async () => {
    const { page } = await openPage(browser, served.url);
    // The picker itself is the browser's; the page's own private folder stands for the one picked.
    await page.evaluate(() => {
      Object.assign(globalThis, { showDirectoryPicker: () => navigator.storage.getDirectory() });
    });
    await dropEverything(page);
    await page.getByLabel("Linear average").check();
    await mergeButton(page).click();
    await resultHeading(page).waitFor();
    await page.getByRole("button", { name: "Save to a folder" }).click();
    await eventually(() => messages(page)).toContain("Saved as merged-adapter");
    const saved = await page.evaluate(async () => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("merged-adapter");
      const file = await (await folder.getFileHandle("adapter_config.json")).getFile();
      return JSON.parse(await file.text()) as { peft_type: string };
    });
    expect(saved.peft_type).toBe("LORA");
    await page.context().close();
  });

  test("can be cancelled, keeps what was dropped, and then works", async () => {
    const { page } = await openPage(browser, served.url);
    await dropEverything(page);
    await page.getByText("More options").click();
    await page.getByLabel("Schedule").selectOption("iterate");
    await page.getByLabel("Passes", { exact: true }).fill("500");
    await mergeButton(page).click();
    const cancel = page.getByRole("button", { name: "Cancel" });
    await eventually(() => cancel.evaluate((element) => element === document.activeElement)).toBe(true);
    await eventually(() => page.locator(".progress-detail").textContent()).toContain("layer");
    expect(await violations(page)).toEqual([]);
    await cancel.click();
    await eventually(() => messages(page)).toContain("The merge was cancelled");
    expect(await resultHeading(page).count()).toBe(0);
    expect(await mergeButton(page).evaluate((element) => element === document.activeElement)).toBe(true);

    await page.getByLabel("Schedule").selectOption("sweep");
    await mergeButton(page).click();
    await compared(page);
    await page.context().close();
  });

  test("a comparison that is cancelled leaves the merged adapter", async () => {
    const { page } = await openPage(browser, served.url);
    await dropEverything(page);
    await mergeButton(page).click();
    await resultHeading(page).waitFor();
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByText("The comparison was cancelled.").waitFor();
    expect(await page.getByRole("button", { name: "Download adapter" }).count()).toBe(1);
    await page.context().close();
  });

  test("a failure is told with code and remedy, and what was dropped stays", async () => {
    const { page } = await openPage(browser, served.url);
    await dropEverything(page);
    // An adapter of another base model: 36 wide, where the example is not.
    await drop(page, zone(page, "adapters"), [join(goldens, "adapters/qv")]);
    await page.locator('[data-adapter="qv"] .facts').waitFor();
    await page.getByLabel("Linear average").check();
    await ready(page);
    await mergeButton(page).click();
    await errors(page).waitFor();
    const text = await errors(page).textContent();
    expect(text).toContain("shape_mismatch");
    expect(text).toContain("trained for another base model");
    expect(await page.locator(".cards > li").count()).toBe(example.adapters.length + 1);
    expect(await page.evaluate(() => document.activeElement?.closest(".notice.error") !== null)).toBe(true);
    expect(await violations(page)).toEqual([]);
    await page.getByRole("button", { name: "Remove the adapter qv" }).click();
    await mergeButton(page).click();
    await resultHeading(page).waitFor();
    await page.context().close();
  });

  test("the example gives back what it took the place of", async () => {
    const { page } = await openPage(browser, served.url);
    await drop(page, zone(page, "adapters"), [first().folder]);
    await page.locator(".cards .facts").waitFor();
    await page.getByRole("button", { name: "Example: a text classifier" }).click();
    await page.getByRole("button", { name: "Cancel" }).click();
    await mergeButton(page).waitFor();
    expect(await page.locator(".cards > li").count()).toBe(example.adapters.length);
    await page.getByRole("button", { name: "Put mine back" }).click();
    await eventually(() => page.locator(".cards > li").count()).toBe(1);
    await page.context().close();
  });

  test("the page's thread works for less than 50 ms at a time while the worker merges", async () => {
    const { page } = await openPage(browser, served.url);
    await dropEverything(page);
    const slower = await slowness(browser, page);
    const { milliseconds, tasks } = await longestTask(browser, page, async () => {
      await mergeButton(page).click();
      await compared(page);
    });
    expect(tasks).toBeGreaterThan(100);
    expect(milliseconds).toBeLessThan(50 * slower);
    await page.context().close();
  });
});

describe("for everybody", () => {
  test.each(["light", "dark"] as const)(
    "has no accessibility violation in any state, %s",
    async (colorScheme) => {
      const { page, log } = await openPage(browser, served.url, { colorScheme });
      expect(await violations(page)).toEqual([]);
      await dropEverything(page);
      await page.getByText("More options").click();
      expect(await violations(page)).toEqual([]);
      await mergeButton(page).click();
      await compared(page);
      for (const summary of await page.locator(".result summary").all()) await summary.click();
      expect(await violations(page)).toEqual([]);
      expect(log.complaints).toEqual([]);
      await page.context().close();
    },
  );

  test("fits a screen of 360 pixels in every state", async () => {
    const { page } = await openPage(browser, served.url, { viewport: { width: 360, height: 740 } });
    expect(await overflow(page)).toBe(0);
    await dropEverything(page);
    await page.getByText("More options").click();
    expect(await overflow(page)).toBe(0);
    await mergeButton(page).click();
    await compared(page);
    for (const summary of await page.locator(".result summary").all()) await summary.click();
    expect(await overflow(page)).toBe(0);
    expect(await violations(page)).toEqual([]);
    await page.context().close();
  });
});

test("the form's defaults are the core's", async () => {
  const library = await serveLibrary();
  try {
    const page = await browser.newPage();
    await page.goto(library.url);
    await page.waitForFunction(() => globalThis.iteris !== undefined);
    expect(await page.evaluate(() => globalThis.iteris.defaultOptions())).toEqual(mergeOptions(DEFAULTS));
    await page.close();
  } finally {
    await library.close();
  }
});
