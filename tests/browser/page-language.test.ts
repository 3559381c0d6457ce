/** The page with models that write: recognised, merged on what adapters write, and asked side by side. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { unzipSync } from "fflate";
import type { Browser, Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type ExampleFolder, layOutExample } from "./example-files.ts";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveApp } from "./harness/serve.ts";
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
  tabTo,
  violations,
  zone,
} from "./page-driver.ts";
import { type FamilyFolder, layOutFamily } from "./page-family.ts";

let browser: Browser;
let served: Served;
let llama: FamilyFolder;
let t5: FamilyFolder;

beforeAll(async () => {
  [browser, served] = await Promise.all([launchBrowser(), serveApp()]);
});

afterAll(async () => {
  await browser?.close();
  await served?.close();
});

beforeEach(() => {
  llama = layOutFamily("llama");
  t5 = layOutFamily("t5");
});

afterEach(() => {
  for (const { folder } of [llama, t5]) rmSync(folder, { recursive: true });
});

/** Waits for a claim to come true; a second, which is the default, is short on a busy machine. */
const eventually = <T>(look: () => T | Promise<T>) => expect.poll(look, { timeout: 30_000 });

const slot = (page: Page, adapter: string) =>
  page.locator(`[data-adapter="${adapter}"] [data-role="samples"]`);
const letWrite = (page: Page, adapter: string) =>
  page.getByRole("button", { name: `Let the adapter write them for ${adapter}` });
const panel = (page: Page) => page.getByRole("region", { name: "Try it" });
const prompt = (page: Page) => panel(page).getByLabel("Prompt", { exact: true });
const writeButton = (page: Page) => page.getByRole("button", { name: "Write", exact: true });

/** A text as the page shows it. */
const shown = (text: string | undefined) => text || "(nothing)";

/** What stands in each answer's region, by its name, once it is there. */
async function written(page: Page): Promise<Record<string, string>> {
  await panel(page).locator('[aria-busy="false"] .output').first().waitFor();
  const regions = await panel(page).locator(".output").all();
  const entries = regions.map(async (region): Promise<[string, string]> => {
    const name = await region.locator(".output-name").textContent();
    return [name ?? "", (await region.locator(".output-text").textContent()) ?? ""];
  });
  return Object.fromEntries(await Promise.all(entries));
}

async function dropAll(page: Page, { folder }: { folder: string }): Promise<void> {
  await drop(page, zone(page, "adapters"), [folder]);
  await ready(page);
}

/** Opens what is folded away. */
async function unfold(within: Locator, summary: string): Promise<void> {
  await within.locator("summary", { hasText: summary }).click();
}

describe("what was dropped", () => {
  test("a decoder-only model is recognised, and offers what is for its kind", async () => {
    const { page, log } = await openPage(browser, served.url);
    await dropAll(page, llama);
    const facts = page.locator("section", { has: page.locator("#base-heading") }).locator(".facts");
    await eventually(() => facts.textContent()).toMatch(/Kind\s*decoder-only, writes text/);
    expect(await slot(page, "a").textContent()).toContain(`${llama.samples.a.length} prompts · no answers`);
    await unfold(page.locator(".options"), "More options");
    expect(await page.getByLabel("Tokens that count").count()).toBe(1);
    expect(await page.getByLabel("The decoder reads").count()).toBe(0);
    await page.locator(".options").getByLabel("Longest answer").fill("0");
    expect(await lacking(page)).toEqual([
      "Longest answer, in tokens: give a whole number above 0, at most 16384, or leave it empty for 16, captions 12.",
    ]);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("so is an encoder-decoder", async () => {
    const { page } = await openPage(browser, served.url);
    await dropAll(page, t5);
    const facts = page.locator("section", { has: page.locator("#base-heading") }).locator(".facts");
    await eventually(() => facts.textContent()).toMatch(/Kind\s*encoder-decoder, writes text/);
    await unfold(page.locator(".options"), "More options");
    expect(await page.getByLabel("Tokens that count").count()).toBe(0);
    await page.getByLabel("The decoder reads").selectOption("start");
    await mergeButton(page).click();
    await compared(page);
    const answers = page.getByRole("region", { name: "Calibration samples by task" });
    expect(await answers.textContent()).toContain("start token alone");
    expect(await page.locator(".chart").first().textContent()).toContain("encoder (e)");
    await page.context().close();
  });

  test("an encoder has nothing to write with", async () => {
    const { page } = await openPage(browser, served.url);
    const example = layOutExample();
    await drop(page, zone(page, "adapters"), [example.folder]);
    await ready(page);
    rmSync(example.folder, { recursive: true });
    await unfold(page.locator(".options"), "More options");
    expect(await page.locator(".options").getByLabel("Longest answer").count()).toBe(0);
    expect(await panel(page).count()).toBe(0);
    await page.locator('[data-role="samples"]').first().getByRole("button", { name: "Remove" }).click();
    expect(await page.getByRole("button", { name: "Let the adapter write them" }).count()).toBe(0);
    await page.context().close();
  });

  test("a missing tokenizer and a missing chat template are said at once", async () => {
    const { page } = await openPage(browser, served.url);
    const tokenizer = join(llama.base, "tokenizer.json");
    const kept = join(llama.folder, "tokenizer.json");
    writeFileSync(kept, readFileSync(tokenizer));
    rmSync(tokenizer);
    const chat = { messages: [{ role: "user", content: llama.prompts[0] }] };
    writeFileSync(llama.sampleFiles.a, JSON.stringify(chat));
    const { base, adapters, sampleFiles } = llama;
    await drop(page, zone(page, "adapters"), [
      base,
      ...Object.values(adapters),
      ...Object.values(sampleFiles),
    ]);
    await eventually(async () => (await lacking(page)).join("\n")).toContain("tokenizer.json");
    await eventually(async () => (await lacking(page)).join("\n")).toContain("The texts of a are chats");
    expect(await panel(page).textContent()).toContain("Add the base model’s tokenizer.json first.");
    await drop(page, zone(page, "base"), [kept]);
    const template = join(llama.folder, "chat_template.jinja");
    writeFileSync(template, "{{ messages[0].content }}");
    await drop(page, zone(page, "base"), [template]);
    await ready(page);
    await page.context().close();
  });
});

describe("side by side", () => {
  test("base and adapters write what they write in transformers, before a merge and after it", async () => {
    const { page, log } = await openPage(browser, served.url);
    await dropAll(page, llama);
    const [first = ""] = llama.prompts;
    await eventually(() => prompt(page).inputValue()).toBe(first);
    await panel(page).getByLabel("Longest answer, in tokens").fill(String(llama.maxNewTokens));
    const { base, a, b } = llama.generated;
    const before = { Base: shown(base.texts[0]), a: shown(a.texts[0]), b: shown(b.texts[0]) };
    await writeButton(page).click();
    expect(await written(page)).toEqual(before);

    const requests = network(log).length;
    await mergeButton(page).click();
    await compared(page);
    expect(await page.locator(".comparison").textContent()).toContain(
      "Writes exactly what the task’s own adapter writes",
    );
    expect(await page.locator(".comparison").textContent()).toContain("Writes exactly the label");
    await writeButton(page).click();
    const after = await written(page);
    expect(Object.keys(after)).toEqual(["Base", "a", "b", "Linear average", "IterIS"]);
    expect(after).toMatchObject(before);
    expect(await panel(page).locator(".outputs").textContent()).toMatch(/\d+ tokens? in .* tokens a second/);

    // Another prompt that is at hand, and then one of the person's own.
    const chip = panel(page).getByRole("list", { name: "Prompts to try" }).getByRole("button").nth(2);
    await chip.click();
    expect(await prompt(page).inputValue()).toBe(llama.prompts[1]);
    expect(await chip.getAttribute("aria-pressed")).toBe("true");
    await prompt(page).fill(llama.prompts[3] ?? "");
    await prompt(page).press("Control+Enter");
    await eventually(async () => (await written(page)).a).toBe(shown(a.texts[3]));
    expect(network(log).slice(requests)).toEqual([]);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("an encoder-decoder writes too", async () => {
    const { page } = await openPage(browser, served.url);
    await dropAll(page, t5);
    await panel(page).getByLabel("Longest answer, in tokens").fill(String(t5.maxNewTokens));
    await prompt(page).fill(t5.prompts[0] ?? "");
    await writeButton(page).click();
    const { base, a, b } = t5.generated;
    expect(await written(page)).toEqual({
      Base: shown(base.texts[0]),
      a: shown(a.texts[0]),
      b: shown(b.texts[0]),
    });
    await page.context().close();
  });

  test("a chat goes through the model's own template", async () => {
    const { page } = await openPage(browser, served.url);
    writeFileSync(join(llama.base, "chat_template.jinja"), "{{ bos_token }} {{ messages[0].content }}");
    writeFileSync(join(llama.base, "tokenizer_config.json"), JSON.stringify({ bos_token: "<s>" }));
    await dropAll(page, llama);
    const asChat = panel(page).getByLabel("As a message of a chat");
    // The texts at hand are prompts, and are taken as such.
    expect(await asChat.isChecked()).toBe(false);
    await asChat.check();
    await panel(page).getByLabel("Longest answer, in tokens").fill(String(llama.maxNewTokens));
    await writeButton(page).click();
    expect((await written(page)).a).toBe(llama.generated.a.texts[0]);
    await page.context().close();
  });

  test("what a model writes is text, whatever it is", async () => {
    const { page, log } = await openPage(browser, served.url);
    const path = join(llama.base, "tokenizer.json");
    const tokenizer = JSON.parse(readFileSync(path, "utf8"));
    const markup = `<img src="x" onerror="globalThis.harmed=1">`;
    const word = llama.generated.a.texts[0]?.split(" ")[0] ?? "";
    tokenizer.model.vocab[markup] = tokenizer.model.vocab[word];
    delete tokenizer.model.vocab[word];
    writeFileSync(path, JSON.stringify(tokenizer));
    await dropAll(page, llama);
    await writeButton(page).click();
    expect((await written(page)).a).toContain(markup);
    expect(await page.locator("img").count()).toBe(0);
    expect(await page.evaluate(() => "harmed" in globalThis)).toBe(false);
    expect(log.complaints).toEqual([]);
    await page.context().close();
  });

  test("drawn with a seed is the same again, and another with another seed", async () => {
    const { page } = await openPage(browser, served.url);
    await dropAll(page, llama);
    await panel(page).locator("input[name=temperature]").fill("2");
    await unfold(panel(page), "Top-p and seed");
    const write = async (seed: string) => {
      await panel(page).locator("input[name=seed]").fill(seed);
      await writeButton(page).click();
      return written(page);
    };
    const one = await write("1");
    expect(await write("1")).toEqual(one);
    expect(await write("2")).not.toEqual(one);
    await page.context().close();
  });

  test("can be stopped, and says what is wrong with a prompt", async () => {
    const { page } = await openPage(browser, served.url);
    await dropAll(page, llama);
    await tabTo(page, prompt(page), 80);
    // The tiny model has written everything before a click from outside arrives.
    await page.evaluate(() => {
      const observer = new MutationObserver(() => {
        const stop = [...document.querySelectorAll("button")].find(
          (button) => button.textContent?.trim() === "Stop",
        );
        if (stop === undefined) return;
        observer.disconnect();
        stop.focus();
        stop.click();
      });
      observer.observe(document.body, { childList: true, subtree: true });
    });
    await page.keyboard.press("Control+Enter");
    await panel(page).getByText("Stopped; nothing was kept.").waitFor();
    expect(await writeButton(page).evaluate((element) => element === document.activeElement)).toBe(true);

    await prompt(page).fill("w9 ".repeat(80));
    await writeButton(page).click();
    const problem = panel(page).locator(".card-problem");
    await problem.waitFor();
    expect(await problem.textContent()).toContain("samples_invalid");
    expect(await problem.textContent()).toContain("Change the prompt or ask for fewer tokens");
    expect(await violations(page)).toEqual([]);
    await prompt(page).fill("");
    expect(await writeButton(page).getAttribute("aria-disabled")).toBe("true");
    expect(await panel(page).textContent()).toContain("Write a prompt first.");
    await prompt(page).fill(llama.prompts[0] ?? "");
    await writeButton(page).click();
    expect(Object.keys(await written(page))).toEqual(["Base", "a", "b"]);
    await page.context().close();
  });
});

describe("samples that an adapter writes itself", () => {
  test("take the place of a file, and are marked in result and report", async () => {
    const { page } = await openPage(browser, served.url);
    const { base, adapters, sampleFiles } = llama;
    await drop(page, zone(page, "adapters"), [base, ...Object.values(adapters), sampleFiles.b]);
    await eventually(() => lacking(page)).toEqual([
      "Samples are missing for a. Drop a file, or let the adapter write them.",
    ]);
    await letWrite(page, "a").click();
    await slot(page, "a").getByLabel("Texts", { exact: true }).fill("6");
    await slot(page, "a").getByLabel("Each begins with").fill("w9 w10");
    await unfold(slot(page, "a"), "Seed");
    await slot(page, "a").getByLabel("same seed").fill("7");
    await ready(page);
    await mergeButton(page).click();
    await compared(page);
    const calibration = page.getByRole("region", { name: "Calibration samples by task" });
    expect(await calibration.getByRole("row", { name: /^a/ }).textContent()).toMatch(/Self-written.*seed 7/s);
    expect(await calibration.getByRole("row", { name: /^b/ }).textContent()).toContain("b.samples.jsonl");
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Download adapter" }).click(),
    ]);
    const files = unzipSync(readFileSync(await download.path()));
    const report = JSON.parse(new TextDecoder().decode(files["merged-adapter/merge_report.json"]));
    expect(report.adapters[0].samples.self).toMatchObject({ count: 6, seed: 7, prompt_tokens: 3 });
    expect(report.adapters[1].samples.self).toBeNull();
    await page.context().close();
  });

  test("are taken back by a press, or by a file", async () => {
    const { page } = await openPage(browser, served.url);
    const { base, adapters, sampleFiles } = llama;
    await drop(page, zone(page, "adapters"), [base, ...Object.values(adapters), sampleFiles.b]);
    await letWrite(page, "a").click();
    await ready(page);
    await page.getByRole("button", { name: "Do not let a write its own samples" }).click();
    await letWrite(page, "a").click();
    await drop(page, slot(page, "a"), [sampleFiles.a]);
    await eventually(() => slot(page, "a").textContent()).toContain("a.samples.jsonl");
    await page.getByRole("button", { name: "Remove a.samples.jsonl from a" }).click();
    expect(await letWrite(page, "a").count()).toBe(1);
    await page.context().close();
  });

  test("are shown while they are written, and can be cancelled", async () => {
    const { page } = await openPage(browser, served.url);
    await dropAll(page, llama);
    for (const name of ["a", "b"]) {
      await page.getByRole("button", { name: `Remove ${name}.samples.jsonl from ${name}` }).click();
      await letWrite(page, name).click();
      await slot(page, name).getByLabel("Texts", { exact: true }).fill("20000");
    }
    await mergeButton(page).click();
    const progress = page.locator(".progress");
    await eventually(() => progress.textContent()).toMatch(
      /First, the adapters write[\s\S]*Token \d+ of at most/,
    );
    expect(await violations(page)).toEqual([]);
    await page.getByRole("button", { name: "Cancel" }).click();
    await eventually(() => messages(page)).toContain("The merge was cancelled");
    expect(await resultHeading(page).count()).toBe(0);
    for (const name of ["a", "b"]) await slot(page, name).getByLabel("Texts", { exact: true }).fill("4");
    await mergeButton(page).click();
    await resultHeading(page).waitFor();
    await page.context().close();
  });
});

describe("for everybody", () => {
  test.each([
    ["light", 1200],
    ["dark", 1200],
    ["dark", 360],
  ] as const)(
    "has no accessibility violation and fits the screen in any state, %s, %i pixels",
    async (scheme, width) => {
      const { page, log } = await openPage(browser, served.url, {
        colorScheme: scheme,
        viewport: { width, height: 800 },
      });
      const check = async (): Promise<void> => {
        expect(await violations(page)).toEqual([]);
        expect(await overflow(page)).toBe(0);
      };
      await dropAll(page, llama);
      await unfold(page.locator(".options"), "More options");
      await page.getByRole("button", { name: "Remove a.samples.jsonl from a" }).click();
      await check();
      await letWrite(page, "a").click();
      await unfold(slot(page, "a"), "Seed");
      await slot(page, "a").getByLabel("Texts", { exact: true }).fill("4");
      await writeButton(page).click();
      await written(page);
      await check();
      await mergeButton(page).click();
      await compared(page);
      for (const summary of await page.locator(".result summary").all()) await summary.click();
      await writeButton(page).click();
      await written(page);
      await check();
      expect(log.complaints).toEqual([]);
      await page.context().close();
    },
  );
});

describe("the trained example", () => {
  let example: ExampleFolder;
  beforeAll(() => {
    example = layOutExample("writers");
  });
  afterAll(() => {
    if (example) rmSync(example.folder, { recursive: true });
  });

  test("dropped as a folder, does every task after the merge", async () => {
    const { page } = await openPage(browser, served.url);
    await dropAll(page, example);
    await mergeButton(page).click();
    await compared(page);
    const prompts = panel(page).getByRole("list", { name: "Prompts to try" });
    for (const { name } of example.adapters) {
      await prompts
        .getByRole("button", { name: new RegExp(`^${name} `) })
        .first()
        .click();
      await writeButton(page).click();
      const texts = await written(page);
      expect(texts.IterIS, name).toBe(texts[name]);
      expect(texts.Base, name).not.toBe(texts[name]);
    }
    await page.context().close();
  });
});
