/** The page with every method and every kind of adapter: what is offered, what is needed, and what is written. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { METHODS } from "../../www/lib/methods.ts";
import { root } from "../../xtask/paths.mjs";
import { kohyaModule, writeKohya, writeSafetensors } from "../cli/kohya.ts";
import { deltasOf, relativeError, tensorsOf } from "../deltas.ts";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveApp } from "./harness/serve.ts";
import {
  chooseMethod,
  drop,
  lacking,
  merge,
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
let images: string;

beforeAll(async () => {
  llama = layOutFamily("llama");
  images = mkdtempSync(join(tmpdir(), "iteris-page-"));
  writeKohya(file("ink"), [1, 2], [3, -1, 2], 0.5);
  writeKohya(file("wool"), [-1, 1], [1, 4, 0], 2);
  [browser, served] = await Promise.all([launchBrowser(), serveApp()]);
});

afterAll(async () => {
  await browser?.close();
  await served?.close();
  for (const folder of [llama?.folder, images]) if (folder) rmSync(folder, { recursive: true });
});

/** Waits for a claim to come true; a second, which is the default, is short on a busy machine. */
const eventually = <T>(look: () => T | Promise<T>) => expect.poll(look, { timeout: 30_000 });

const file = (name: string): string => join(images, `${name}.safetensors`);
const card = (page: Page, name: string) => page.locator(`[data-adapter="${name}"]`);
const methodFields = (page: Page) =>
  page.locator(".method-fields .field > span:first-child").allTextContents();

/** What a merge writes, by the name of the file. */
async function mergedFiles(page: Page): Promise<Map<string, Buffer>> {
  await merge(page);
  return await saved(page);
}

const json = (files: Map<string, Buffer>, name: string) => JSON.parse(files.get(name)?.toString() ?? "null");

describe("the choice of a method", () => {
  test("has all methods, and of each the options that it looks at", async () => {
    const { page, log } = await openPage(browser, served.url);
    const offered = await page
      .getByRole("group", { name: "Method", exact: true })
      .getByRole("radio")
      .evaluateAll((radios) => radios.map((radio) => radio.getAttribute("aria-label")));
    expect(offered.sort()).toEqual(METHODS.map(({ title }) => title).sort());
    const shown: [string, string[]][] = [
      ["IterIS", []],
      ["RegMean++", ["Non-diagonal a"]],
      ["Concatenation", []],
      ["KnOTS", ["Scale", "Density", "Sign by"]],
      ["DARE with TIES, cut by SVD", ["Density", "Sign by", "Numbers of", "Rank of the cut", "Seed"]],
    ];
    for (const [title, fields] of shown) {
      await chooseMethod(page, title);
      expect(await methodFields(page), title).toEqual(fields);
      const { hint } = METHODS.find((method) => method.title === title) ?? {};
      expect(await page.locator(".method-about").textContent()).toContain(hint);
    }
    await page.getByLabel("Density").fill("0");
    expect(await lacking(page)).toContain("Density: give a number above 0, at most 1.");
    // What is wrong with an option that is not shown is nobody's business.
    await chooseMethod(page, "Concatenation");
    expect((await lacking(page)).join()).not.toContain("density");
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("is one group for the keyboard, whose arrows go through all methods", async () => {
    const { page } = await openPage(browser, served.url);
    await page.getByRole("radio", { name: "RegMean++", exact: true }).focus();
    await page.keyboard.press("ArrowRight");
    expect(await page.getByRole("radio", { name: "Linear average", exact: true }).isChecked()).toBe(true);
    expect(await lacking(page)).toEqual(["Drop an adapter or more."]);
    await page.context().close();
  });
});

describe("methods that need no samples", () => {
  test("merge adapters alone, and tell what a cut has taken", async () => {
    const { page, log } = await openPage(browser, served.url);
    await chooseMethod(page, "Sum, cut by SVD");
    await drop(page, zone(page, "adapters"), Object.values(llama.adapters));
    await ready(page);
    expect(await lacking(page)).toEqual([]);
    await page.getByLabel("Rank of the cut").fill("1");
    const files = await mergedFiles(page);
    expect(json(files, "adapter_config.json").r).toBe(1);
    const report = json(files, "merge_report.json");
    expect(report).toMatchObject({ base: null, options: { method: "svd", svd_rank: 1, density: 0.5 } });
    const errors = report.layers.map(({ error }: { error: number }) => error);
    expect(Math.max(...errors)).toBeGreaterThan(0);
    expect(Math.max(...errors)).toBeLessThan(1);

    await page.getByText(/modules[^:]*:\s+rank, energy and error of the cut/).click();
    const numbers = page.getByRole("region", { name: "Numbers of every layer" });
    expect(await numbers.getByRole("columnheader").allTextContents()).toEqual([
      "Module",
      "Rank",
      "Energy kept",
      "Error",
      "Time",
    ]);
    await page.getByText("Single files").click();
    const list = page.locator(".files");
    expect(await list.textContent()).toMatch(/README\.md[\s\S]*model card/);
    expect(await list.textContent()).toMatch(/merge_report\.json[\s\S]*recipe/);
    expect(await violations(page)).toEqual([]);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("take an adapter away, where its weight is below zero", async () => {
    const { page } = await openPage(browser, served.url);
    await drop(page, zone(page, "adapters"), [llama.adapters.a]);
    await card(page, "a").locator(".facts").waitFor();
    await chooseMethod(page, "Linear sum");
    await card(page, "a").getByLabel("Weight").fill("-2");
    const negated = deltasOf((await mergedFiles(page)).get("adapter_model.safetensors") ?? Buffer.alloc(0));
    expect(await resultHeading(page).textContent()).toBe("a, written anew");
    await card(page, "a").getByLabel("Weight").fill("1");
    const plain = deltasOf((await mergedFiles(page)).get("adapter_model.safetensors") ?? Buffer.alloc(0));
    expect(plain.size).toBeGreaterThan(0);
    for (const [module, delta] of plain) {
      const expected = delta.map((value) => -2 * value);
      expect(relativeError(negated.get(module) ?? [], expected), module).toBeLessThan(1e-5);
    }
    await chooseMethod(page, "IterIS");
    await card(page, "a").getByLabel("Weight").fill("-1");
    await drop(page, zone(page, "adapters"), [llama.adapters.b]);
    await eventually(() => lacking(page)).toContain("Give a a weight above zero.");
    await page.context().close();
  });

  test("weigh single layers, as the report says", async () => {
    const { page } = await openPage(browser, served.url);
    await drop(page, zone(page, "adapters"), Object.values(llama.adapters));
    await chooseMethod(page, "Linear average");
    await page.getByText("More options").click();
    const field = page.getByLabel("Weights of single layers");
    await field.fill("layers.0.*: [1]");
    await eventually(() => lacking(page)).toEqual([
      "Weights of layers, line 1: layers.0.* has 1 weights for 2 adapters; give one for each, in their order.",
    ]);
    expect(await violations(page)).toEqual([]);
    await field.fill("model.layers.0.*: [1, 3]");
    const report = json(await mergedFiles(page), "merge_report.json");
    expect(report.options.layer_weights).toEqual({ "model.layers.0.*": [1, 3] });
    await page.context().close();
  });

  test("write less where only a share is to be kept, and each layer as much as it needs", async () => {
    const { page } = await openPage(browser, served.url);
    await drop(page, zone(page, "adapters"), Object.values(llama.adapters));
    await chooseMethod(page, "Linear sum");
    await page.getByLabel("Size").selectOption("energy");
    await page.getByLabel("Share kept").fill("0.7");
    await page.getByLabel("Ranks").selectOption("per-layer");
    const files = await mergedFiles(page);
    const report = json(files, "merge_report.json");
    expect(report.options).toMatchObject({ energy: 0.7, ranks: "per-layer", rank: null });
    for (const { energy_kept } of report.layers) expect(energy_kept).toBeGreaterThanOrEqual(0.7);
    expect(Object.keys(json(files, "adapter_config.json").rank_pattern).length).toBeGreaterThan(0);
    await page.context().close();
  });
});

/** By hand: the change of a kohya file of rank 1 is alpha up down. */
const outer = (up: number[], down: number[], factor: number): number[] =>
  up.flatMap((row) => down.map((column) => factor * row * column));

const plus = (a: number[], b: number[], factor: number): number[] =>
  a.map((value, index) => value + factor * (b[index] ?? 0));

describe("adapters of image models", () => {
  const ink = outer([1, 2], [3, -1, 2], 0.5);
  const wool = outer([-1, 1], [1, 4, 0], 2);

  test("are taken as the one file they are, and written as one", async () => {
    const { page, log } = await openPage(browser, served.url);
    await drop(page, zone(page, "adapters"), [file("ink"), file("wool")]);
    await chooseMethod(page, "Linear sum");
    await eventually(() => card(page, "ink").locator(".tag.format").textContent()).toBe("kohya, ComfyUI");
    // There are no texts for it.
    expect(await card(page, "ink").locator(".slot").count()).toBe(0);
    await card(page, "wool").getByLabel("Weight").fill("-0.5");
    await page.getByLabel("Result").selectOption("kohya");
    const files = await mergedFiles(page);
    const [name = ""] = [...files.keys()].filter((name) => name.endsWith(".safetensors"));
    const tensors = tensorsOf(files.get(name) ?? Buffer.alloc(0));
    const tensor = (end: string) => {
      const found = tensors.get(`${kohyaModule}.${end}`);
      if (!found) throw new Error(`no ${end} among ${[...tensors.keys()].join(", ")}`);
      return found;
    };
    const [rank = 0] = tensor("lora_down.weight").shape;
    const scaling = (tensor("alpha").values[0] ?? 0) / rank;
    const [down, up] = [tensor("lora_down.weight").values, tensor("lora_up.weight").values];
    const product = [0, 1].flatMap((i) =>
      [0, 1, 2].map((j) => {
        const terms = Array.from(
          { length: rank },
          (_, k) => (up[i * rank + k] ?? 0) * (down[k * 3 + j] ?? 0),
        );
        return scaling * terms.reduce((sum, term) => sum + term, 0);
      }),
    );
    expect(relativeError(product, plus(ink, wool, -0.5))).toBeLessThan(1e-5);
    expect(await page.locator(".result").textContent()).toContain("where the base model can be run");
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("are merged into a checkpoint of any name, which serves no method that runs it", async () => {
    const { page } = await openPage(browser, served.url);
    const weights = [1, 2, 3, 4, 5, 6];
    const key = "text_model.encoder.layers.0.self_attn.q_proj.weight";
    writeSafetensors(file("dream"), { [key]: { shape: [2, 3], values: weights } });
    await drop(page, zone(page, "adapters"), [images]);
    await drop(page, zone(page, "base"), [file("dream")]);
    await eventually(() => lacking(page)).toContain(
      "IterIS runs the model on samples, and this base model can only be read. Choose a method that needs no samples.",
    );
    await chooseMethod(page, "Task arithmetic");
    await page.getByLabel("Scale").fill("0.25");
    await page.getByLabel("Result").selectOption("base");
    const files = await mergedFiles(page);
    const [name = ""] = [...files.keys()].filter((name) => name.endsWith(".safetensors"));
    const merged = tensorsOf(files.get(name) ?? Buffer.alloc(0)).get(key);
    const expected = plus(weights, plus(ink, wool, 1), 0.25);
    expect(relativeError([...(merged?.values ?? [])], expected)).toBeLessThan(1e-6);
    rmSync(file("dream"));
    await page.context().close();
  });

  test("of a kind that is no LoRA are refused by name", async () => {
    const { page } = await openPage(browser, served.url);
    const name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj.hada_w1_a";
    writeSafetensors(file("loha"), { [name]: { shape: [1, 1], values: [1] } });
    await drop(page, zone(page, "adapters"), [file("loha")]);
    const problem = card(page, "loha").locator(".card-problem");
    await problem.waitFor();
    expect(await problem.textContent()).toMatch(/LoHa[\s\S]*adapter_unsupported/);
    rmSync(file("loha"));
    await page.context().close();
  });
});

test("an adapter that torch.save wrote is read, and the page says whose files it is", async () => {
  const { page } = await openPage(browser, served.url);
  const config = join(root, "tests/goldens/data/adapters/qv/adapter_config.json");
  await drop(page, zone(page, "adapters"), [config, join(root, "tests/pickle/data/adapter_model.bin")]);
  await eventually(() => page.locator(".card .tag.format").allTextContents()).toEqual(["PEFT"]);
  expect(await page.locator(".card-problem").count()).toBe(0);
  await page.context().close();
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
      await chooseMethod(page, "DARE with TIES, cut by SVD");
      await page.getByLabel("Size").selectOption("rank");
      await page.getByText("More options").click();
      await check();
      await drop(page, zone(page, "adapters"), Object.values(llama.adapters));
      await ready(page);
      await check();
      await merge(page);
      for (const summary of await page.locator(".result summary").all()) await summary.click();
      await check();
      expect(log.complaints).toEqual([]);
      await page.context().close();
    },
  );
});
