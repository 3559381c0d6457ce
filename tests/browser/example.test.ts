/** The built-in examples: with the keyboard alone, from the first Tab to the saved adapter, and what they show. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readManifest } from "./example-files.ts";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveApp } from "./harness/serve.ts";
import { compared, network, openPage, resultHeading, tabTo, violations } from "./page-driver.ts";

let browser: Browser;
let served: Served;

beforeAll(async () => {
  [browser, served] = await Promise.all([launchBrowser(), serveApp()]);
});

afterAll(async () => {
  await browser?.close();
  await served?.close();
});

test("merges with the keyboard alone, and speaks of it", async () => {
  const { page, log } = await openPage(browser, served.url);
  await page.evaluate(() => {
    const spoken: string[] = [];
    const region = document.getElementById("spoken");
    if (!region) throw new Error("no live region");
    new MutationObserver(() => spoken.push(region.textContent ?? "")).observe(region, {
      childList: true,
      characterData: true,
      subtree: true,
    });
    Object.assign(globalThis, { spoken });
  });
  await tabTo(page, page.getByRole("button", { name: "Example: a text classifier" }));
  await page.keyboard.press("Enter");
  await resultHeading(page).waitFor({ timeout: 110_000 });
  expect(await page.evaluate(() => document.activeElement?.id)).toBe("result-heading");
  await compared(page);

  const spoken = await page.evaluate(() => (globalThis as unknown as { spoken: string[] }).spoken);
  expect(spoken.some((text) => text.startsWith("Merging"))).toBe(true);
  expect(spoken.length).toBeLessThan(60);

  const download = page.getByRole("button", { name: "Download adapter" });
  await tabTo(page, download, 10);
  const [saved] = await Promise.all([page.waitForEvent("download"), page.keyboard.press("Enter")]);
  expect(saved.suggestedFilename()).toBe("merged-adapter.zip");
  expect(log.complaints).toEqual([]);
  expect(network(log).every((request) => request.startsWith(`GET ${served.url}`))).toBe(true);
  await page.context().close();
});

test("shows that IterIS keeps more than the linear average does", async () => {
  const { page } = await openPage(browser, served.url);
  const { adapters } = readManifest();
  await page.getByRole("button", { name: "Example: a text classifier" }).click();
  await compared(page);

  const headers = await page.locator(".comparison thead th").allInnerTexts();
  expect(headers).toEqual(["Task", "Base", "Own adapter", "Linear average", "IterIS"]);
  const means = await page.locator(".comparison .mean").allInnerTexts();
  expect(means.length).toBeGreaterThan(0);
  for (const row of means) {
    const [linear, iteris] = (row.match(/\d+\.\d/g) ?? []).map(Number).slice(-2);
    expect(iteris).toBeGreaterThan((linear ?? Number.NaN) + 2);
  }
  const best = await page.locator(".comparison .mean .best").allInnerTexts();
  expect(best).toHaveLength(means.length);

  // A chart a task, with a dot of each method in every column, and the same numbers as a table.
  expect(await page.locator(".chart").count()).toBe(adapters.length);
  const modules = await page.locator(".chart").first().locator(".column").count();
  expect(modules).toBeGreaterThan(0);
  expect(await page.locator(".chart").first().locator(".dot").count()).toBe(2 * modules);
  await page.getByText("The same numbers as a table").click();
  expect(await page.locator(".charts + details tbody tr").count()).toBe(modules);
  expect(await violations(page)).toEqual([]);

  await page.getByText("The same numbers as a table").click();
  await picture(page, "screenshot.png", ".result", ".charts");
  await page.context().close();
});

test("lets base, adapters, linear average and merged adapter write side by side, and the merged one does every task", async () => {
  const { page, log } = await openPage(browser, served.url);
  const { adapters } = readManifest("writers");
  await page.getByRole("button", { name: "Example: a language model" }).click();
  await compared(page);
  const means = await page.locator(".comparison .mean").allTextContents();
  // Exactly the label, and exactly what the own adapter writes.
  expect(means).toHaveLength(2);
  for (const row of means) {
    const [linear, iteris] = (row.match(/\d+\.\d/g) ?? []).map(Number).slice(-2);
    expect(iteris).toBeGreaterThan((linear ?? Number.NaN) + 2);
  }

  const panel = page.getByRole("region", { name: "Try it" });
  const answer = async (name: string) => {
    await panel.locator('[aria-busy="false"] .output').first().waitFor();
    return panel.getByRole("region", { name }).locator(".output-text").textContent();
  };
  const prompts = panel.getByRole("list", { name: "Prompts to try" }).getByRole("button");
  const kept: boolean[] = [];
  for (const [index, { name }] of adapters.entries()) {
    await prompts.nth(index).click();
    await panel.getByRole("button", { name: "Write" }).click();
    const own = await answer(`${name} adapter`);
    expect(own).not.toBe(await answer("Base"));
    kept.push(own === (await answer("IterIS")));
  }
  expect(kept).toEqual(adapters.map(() => true));
  expect(await violations(page)).toEqual([]);
  expect(log.complaints).toEqual([]);
  await picture(page, "side-by-side.png", ".playground", ".playground");
  await page.context().close();
});

test("says what is on drawings in each adapter's manner, and the merged one in both", async () => {
  const { page, log } = await openPage(browser, served.url);
  const { adapters } = readManifest("pictures");
  await page.getByRole("button", { name: "Example: pictures" }).click();
  await compared(page);
  const agreement = await page
    .locator(".comparison tbody", { hasText: "exactly what" })
    .locator(".mean")
    .textContent();
  const [linear, iteris] = (agreement?.match(/\d+\.\d/g) ?? []).map(Number).slice(-2);
  expect(iteris).toBeGreaterThan((linear ?? Number.NaN) + 2);

  const said = page.getByRole("region", { name: "What they say of the pictures" });
  const tasks = await said.locator(".said-task").all();
  expect(tasks).toHaveLength(adapters.length);
  const own = await Promise.all(
    tasks.map((task) =>
      task.locator(".said-card dl > div", { hasText: "Own adapter" }).locator("dd").allTextContents(),
    ),
  );
  // Another manner each: no caption of one is one of the other's.
  const [first = [], second = []] = own.map((captions) => captions.map((text) => text.trim()));
  expect(first.length).toBeGreaterThan(0);
  expect(first.filter((text) => second.includes(text))).toEqual([]);
  expect(await said.locator(".merged .echo").count()).toBeGreaterThan(0);
  expect(await violations(page)).toEqual([]);
  expect(log.complaints).toEqual([]);
  expect(network(log).every((request) => request.startsWith(`GET ${served.url}`))).toBe(true);
  await said.scrollIntoViewIfNeeded();
  await picture(page, "pictures.png", ".said-task", ".said-task");
  await page.context().close();
});

/** `ITERIS_SCREENSHOT=.github` makes the pictures of the read-me anew: from the top of one element to the end of another's panel. */
async function picture(page: Page, name: string, from: string, to: string): Promise<void> {
  const folder = process.env.ITERIS_SCREENSHOT;
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  await page.mouse.move(0, 0);
  const clip = await page.evaluate(
    ([from, to]) => {
      const top = document.querySelector(from)?.getBoundingClientRect().top ?? 0;
      const end = document.querySelector(to)?.closest("section");
      const bottom = end?.getBoundingClientRect().bottom ?? 0;
      const margin = 16;
      return { x: 0, y: scrollY + top - margin, width: innerWidth, height: bottom - top + 2 * margin };
    },
    [from, to] as const,
  );
  await page.screenshot({ path: join(folder, name), fullPage: true, clip });
}
