/** The page with models that read pictures: dropped with their captions, merged, compared picture by picture, tried, saved. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { deltasOf, productsOf, relativeError } from "../deltas.ts";
import { layOutExample } from "./example-files.ts";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveApp } from "./harness/serve.ts";
import {
  compared,
  drop,
  lacking,
  merge,
  messages,
  network,
  openPage,
  overflow,
  ready,
  resultHeading,
  saved,
  tickMethods,
  violations,
  zone,
} from "./page-driver.ts";

const fixtures = join(import.meta.dirname, "../../../shared/fixtures/images");
const present = existsSync(fixtures);
if (!present) console.warn("skipped: ../shared/fixtures/images is not here");

/** Of merged deltas, relative Frobenius error: f32 features move them by 1e-5. */
const TOLERANCE = 2e-4;

let browser: Browser;
let served: Served;
let folder: string;

beforeAll(async () => {
  [browser, served] = await Promise.all([launchBrowser(), serveApp()]);
});
afterAll(async () => {
  await browser?.close();
  await served?.close();
});
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-page-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** `base/`, an adapter each in `a/` and `b/`, and their pictures in `a.samples/` and `b.samples/`. */
function layOut(model: "blip" | "clip" | "vit"): void {
  for (const part of ["base", "a", "b", "a.samples", "b.samples"]) {
    mkdirSync(join(folder, part));
    cpSync(join(fixtures, model, part), join(folder, part), { recursive: true });
  }
}

/** Captions or labels of the pictures of an adapter. */
function describePictures(samples: string, lines: readonly object[]): void {
  const named = lines.map((line, i) => ({ file_name: `${String(i).padStart(3, "0")}.png`, ...line }));
  writeFileSync(
    join(folder, samples, "metadata.jsonl"),
    named.map((line) => JSON.stringify(line)).join("\n"),
  );
}

async function open(options: Parameters<typeof openPage>[2] = {}) {
  const opened = await openPage(browser, served.url, options);
  await drop(opened.page, zone(opened.page, "adapters"), [folder]);
  return opened;
}

const slot = (page: Page, adapter: string): Locator =>
  page.locator(`[data-adapter="${adapter}"] [data-role="samples"]`);

const said = (page: Page): Locator => page.getByRole("region", { name: "What they say of the pictures" });

/** What each says of a picture, by the name that the page gives it, and whether it is marked as the adapter's. */
const variantsOf = (card: Locator): Promise<[string, string, boolean][]> =>
  card
    .locator("dl > div")
    .evaluateAll((rows) =>
      rows.map((row) => [
        row.querySelector(".said-who")?.textContent?.trim() ?? "",
        row.querySelector("dd")?.textContent?.trim() ?? "",
        row.querySelector(".echo") !== null,
      ]),
    );

/** Whether every picture that is in view has been decoded. */
const decoded = (within: Locator): Promise<boolean> =>
  within.locator("img.thumb").evaluateAll(async (images) => {
    const all = images as HTMLImageElement[];
    await Promise.all(
      all.map((image) => {
        image.loading = "eager";
        return image.decode().catch(() => {});
      }),
    );
    return all.length > 0 && all.every(({ naturalWidth }) => naturalWidth > 0);
  });

describe.skipIf(!present)("a model that writes captions", () => {
  beforeEach(() => layOut("blip"));

  test("takes folders of pictures, merges, compares picture by picture and saves", async () => {
    const { page, log } = await open();
    await ready(page);
    expect(await slot(page, "a").textContent()).toContain("8 pictures · no captions");
    expect(await slot(page, "b").textContent()).toContain("8 pictures · all with captions");
    expect(await slot(page, "b").locator("figcaption").first().textContent()).toBe(
      "stripes blue dog square square large near dog blue small the",
    );
    expect(await decoded(slot(page, "a"))).toBe(true);
    expect(await page.locator("#checklist").textContent()).toContain(
      "16 pictures; 8 of them without captions: the adapter writes them",
    );
    await merge(page);
    await compared(page);
    expect(await page.locator(".comparison").textContent()).toContain(
      "Writes exactly what the task’s own adapter",
    );

    // Each adapter's captions are those that the oracle's model writes.
    const { captions } = JSON.parse(readFileSync(join(fixtures, "blip/facts.json"), "utf8"));
    await said(page).getByText("2 more pictures").first().click();
    const cards = said(page).locator(".said-task").first().locator(".said-card");
    expect(await cards.count()).toBe(8);
    expect(await decoded(said(page))).toBe(true);
    let same = 0;
    for (const [i, card] of (await cards.all()).entries()) {
      const [base, own, average, iteris] = await variantsOf(card);
      expect([base, own, average, iteris].map((variant) => variant?.[0])).toEqual([
        "Base",
        "Own adapter",
        "Linear average",
        "IterIS",
      ]);
      const written = captions[0][i].replace(/\[[A-Z]+\]/g, "").replace(/\s+/g, "");
      // The oracle's are what the decoder reads, which is all but the last token.
      expect(own?.[1].replace(/\s+/g, "").startsWith(written)).toBe(true);
      expect(own?.[2]).toBe(false);
      for (const other of [base, average, iteris]) expect(other?.[2]).toBe(other?.[1] === own?.[1]);
      if (iteris?.[2]) same += 1;
    }
    expect(await said(page).textContent()).toContain(
      `agrees with the task’s own adapter on ${same} of 8 pictures`,
    );

    const files = await saved(page);
    const written = deltasOf(files.get("adapter_model.safetensors") ?? Buffer.alloc(0));
    const oracle = productsOf(readFileSync(join(fixtures, "blip/expected.a-b.safetensors")), "sweep/", "");
    expect(written.size).toBe(oracle.size);
    for (const [module, expected] of oracle) {
      const delta = [...written].find(([name]) => name.endsWith(module))?.[1] ?? [];
      expect(relativeError(delta, expected), module).toBeLessThan(TOLERANCE);
    }
    expect(await violations(page)).toEqual([]);
    expect(log.complaints).toEqual([]);
    expect(network(log).every((request) => request.startsWith(`GET ${served.url}`))).toBe(true);
    await page.context().close();
  });

  test("writes of a picture that is dropped on “Try it”, or of one that is at hand", async () => {
    const { page, log } = await open();
    await ready(page);
    const panel = page.getByRole("region", { name: "Try it" });
    const write = async (): Promise<string[]> => {
      await panel.getByRole("button", { name: "Write" }).click();
      await panel.locator('[aria-busy="false"] .output').first().waitFor();
      return panel.locator(".output-text").allTextContents();
    };
    await panel.getByLabel("Longest answer, in tokens").fill("8");
    const first = await write();
    expect(first).toHaveLength(3);
    expect(await panel.locator(".outputs").textContent()).toContain("000.png");
    await panel.getByRole("list", { name: "Pictures to try" }).getByRole("button").nth(4).click();
    expect(await write()).not.toEqual(first);
    await drop(page, panel.locator('[data-zone="picture"]'), [join(folder, "a.samples/000.png")]);
    await panel.locator(".picture-chosen", { hasText: "000.png" }).waitFor();
    expect(await write()).toEqual(first);
    await panel.getByLabel("The caption begins with").fill("red square");
    for (const text of await write()) expect(text).not.toBe("");
    expect(await violations(page)).toEqual([]);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("fits a small screen, in the dark too", async () => {
    const { page } = await open({ viewport: { width: 390, height: 800 }, colorScheme: "dark" });
    await merge(page);
    await compared(page);
    expect(await overflow(page)).toBe(0);
    expect(await violations(page)).toEqual([]);
    await page.context().close();
  });

  test("refuses a picture that is none, by name, and keeps the rest", async () => {
    writeFileSync(join(folder, "a.samples/009.png"), "no picture");
    const { page } = await open();
    await expect(merge(page)).rejects.toThrow("009.png");
    expect(await slot(page, "b").textContent()).toContain("8 pictures");
    await page.context().close();
  });

  test("compares methods, each on its pictures", async () => {
    const { page } = await open();
    await ready(page);
    await tickMethods(page, ["IterIS", "Linear average"]);
    await page.getByRole("button", { name: "Compare methods" }).click();
    await said(page).waitFor({ timeout: 110_000 });
    const [first] = await said(page).locator(".said-card").all();
    if (!first) throw new Error("no card");
    expect((await variantsOf(first)).map(([name]) => name).sort()).toEqual([
      "Base",
      "IterIS",
      "Linear average",
      "Own adapter",
    ]);
    await page.context().close();
  });
});

describe.skipIf(!present)("a model with classes of its own", () => {
  test("shows them with their shares, and which are the adapter’s", async () => {
    layOut("vit");
    describePictures("a.samples", [{ label: 2 }, { label: 2 }, { label: 0 }]);
    const { page, log } = await open();
    await ready(page);
    expect(await slot(page, "a").textContent()).toContain("8 pictures · no captions · 3 labelled");
    expect(await page.locator("#checklist").textContent()).toContain("16 pictures");
    await merge(page);
    await compared(page);
    const card = said(page).locator(".said-card").first();
    const shares = await card.locator(".shares").first().locator("li").allTextContents();
    expect(shares).toHaveLength(3);
    const percents = shares.map((text) => Number(/([\d.]+) %/.exec(text)?.[1]));
    expect(percents.reduce((sum, share) => sum + share, 0)).toBeCloseTo(100, 0);
    expect(percents).toEqual(percents.toSorted((a, b) => b - a));
    expect(await violations(page)).toEqual([]);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });
});

describe.skipIf(!present)("a model of pictures and texts", () => {
  test("chooses among the classes that are typed", async () => {
    layOut("clip");
    const { page } = await open();
    await ready(page);
    await page.getByLabel("Classes to choose from").fill("a red cat");
    expect(await lacking(page)).toEqual(["Classes to choose from: give two or more, one a line."]);
    await page.getByLabel("Classes to choose from").fill("a red cat\na blue river\nthree green dogs");
    await merge(page);
    await compared(page);
    const labels = await said(page).locator(".said-card").first().locator(".share-label").allTextContents();
    expect([...new Set(labels)].sort()).toEqual(["a blue river", "a red cat", "three green dogs"]);
    expect(await violations(page)).toEqual([]);
    await page.context().close();
  });
});

describe.skipIf(!present)("pictures where they do not belong", () => {
  test("are told of at once: pictures for a model of texts", async () => {
    const example = layOutExample();
    const { page } = await openPage(browser, served.url);
    await drop(page, zone(page, "adapters"), [example.folder]);
    await ready(page);
    const [first] = example.adapters;
    await drop(page, slot(page, first?.name ?? ""), [join(fixtures, "vit/a.samples")]);
    await slot(page, first?.name ?? "")
      .getByText("8 pictures")
      .waitFor();
    expect(await lacking(page)).toEqual([
      `This base model reads texts, and the samples of ${first?.name} are pictures. Drop a file of texts for each instead.`,
    ]);
    expect(await resultHeading(page).count()).toBe(0);
    expect(await messages(page)).toBe("");
    rmSync(example.folder, { recursive: true });
    await page.context().close();
  });
});
