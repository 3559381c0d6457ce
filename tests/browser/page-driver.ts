/**
 * Hands and eyes for the tests of the page: drops real files and folders from disk as a file manager
 * does, and looks for what a person with other senses or a small screen would trip over.
 *
 * A drop that a script makes up has no folders in it. So drops go in through the browser's own input, at a point of
 * the screen.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { AxeResults } from "axe-core";
import { unzipSync } from "fflate";
import type { Browser, BrowserContextOptions, Locator, Page } from "playwright-core";
import { type PageLog, watch } from "./harness/browser.ts";

export interface Opened {
  page: Page;
  log: PageLog;
}

/** A fresh page at `url`, in a context of its own, when the device is known and so the worker is up. */
export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<Opened> {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  const page = await context.newPage();
  const log = watch(page);
  await page.goto(url);
  await page.locator("#device [data-kind]").waitFor();
  return { page, log };
}

/**
 * Drops files and folders from disk on a zone or a slot. The page moves while it reads what was dropped before, so the
 * pointer follows the target until the page marks it as the one under the pointer, as a person's does.
 */
export async function drop(page: Page, target: Locator, paths: string[]): Promise<void> {
  const data = { items: [], files: paths, dragOperationsMask: 1 };
  const session = await page.context().newCDPSession(page);
  const tried = async (): Promise<boolean> => {
    await target.scrollIntoViewIfNeeded();
    const box = await target.boundingBox();
    if (!box) throw new Error("the drop target is not on the screen");
    const point = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    const send = (type: "dragEnter" | "dragOver" | "drop") =>
      session.send("Input.dispatchDragEvent", { type, data, ...point });
    await send("dragEnter");
    await send("dragOver");
    if ((await target.getAttribute("data-over")) === null) return false;
    await send("drop");
    return true;
  };
  const patience = performance.now() + 30_000;
  while (!(await tried())) {
    if (performance.now() > patience) throw new Error("the page does not mark the drop target");
    await page.waitForTimeout(50);
  }
  await session.detach();
}

export const zone = (page: Page, name: "base" | "adapters"): Locator => page.locator(`[data-zone="${name}"]`);

/** What the checklist still wants, in its words. */
export async function lacking(page: Page): Promise<string[]> {
  return await page.locator("#checklist li:not(.done)").evaluateAll((items) =>
    items.map((item) => {
      const seen = item.cloneNode(true) as Element;
      for (const spoken of seen.querySelectorAll(".sr-only")) spoken.remove();
      return seen.textContent?.trim() ?? "";
    }),
  );
}

/** Everything the page is saying, wherever it says it. */
export const messages = async (page: Page): Promise<string> =>
  (await page.locator(".notice").allTextContents()).join("\n");

export const mergeButton = (page: Page): Locator => page.getByRole("button", { name: "Merge", exact: true });

/** Waits until everything dropped has been read and nothing is lacking. */
export async function ready(page: Page): Promise<void> {
  await page.locator('#merge[aria-disabled="false"]').waitFor();
}

export const resultHeading = (page: Page): Locator => page.locator("#result-heading");

/**
 * Presses the button and waits for the result; what the page says instead of one is the failure.
 *
 * @param timeout - in milliseconds
 */
export async function merge(page: Page, timeout = 60_000): Promise<void> {
  await ready(page);
  // A result that is shown is taken away as the merge begins, which may be over before anyone looks.
  const shown = "#result-heading, .ready .notice.error";
  await page.evaluate((shown) => {
    for (const element of document.querySelectorAll(shown)) element.setAttribute("data-before", "");
  }, shown);
  await mergeButton(page).click();
  const refusal = page.locator(".ready .notice.error:not([data-before])");
  const result = page.locator("#result-heading:not([data-before])");
  await result.or(refusal).first().waitFor({ timeout });
  if ((await refusal.count()) > 0) throw new Error((await refusal.textContent()) ?? "");
}

/** Waits until the comparison is through, too. */
export async function compared(page: Page): Promise<void> {
  await page.locator(".tile", { hasText: "Answers kept" }).waitFor({ timeout: 110_000 });
}

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Accessibility violations, each with the elements at fault; axe-core's rules for WCAG 2.2 A and AA and its advice. */
export async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axeSource);
  const results = await page.evaluate<AxeResults>("axe.run(document)");
  return results.violations.map(
    ({ id, nodes }) =>
      `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("\n")}`,
  );
}

/** How many pixels the page is wider than the screen. */
export const overflow = (page: Page): Promise<number> =>
  page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);

/** Requests that go to a server; a saved blob is none. */
export const network = (log: PageLog): string[] => log.requests.filter((request) => / https?:/.test(request));

/** Presses Tab until the focus is on `target`; fails after `limit` presses. */
export async function tabTo(page: Page, target: Locator, limit = 60): Promise<void> {
  const handle = await target.elementHandle();
  for (let presses = 0; presses < limit; presses += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((element) => document.activeElement === element, handle)) return;
  }
  throw new Error(`the keyboard does not reach ${String(target)} within ${limit} presses of Tab`);
}

/** Chooses the one method to merge with. */
export const chooseMethod = (page: Page, title: string): Promise<void> =>
  page.getByRole("radio", { name: title, exact: true }).check();

/** Goes on to comparing methods, with these ticked and no other. */
export async function tickMethods(page: Page, titles: readonly string[]): Promise<void> {
  await page.getByRole("radio", { name: "Compare several" }).check();
  const boxes = page.getByRole("group", { name: "Methods to compare" }).getByRole("checkbox");
  for (const box of await boxes.all()) await box.uncheck();
  for (const title of titles) await page.getByRole("checkbox", { name: title, exact: true }).check();
}

/** Presses a button that saves a zip, and unpacks it: the bytes of each file, by its name inside the folder. */
export async function unzipped(page: Page, button: Locator): Promise<Map<string, Buffer>> {
  const [download] = await Promise.all([page.waitForEvent("download"), button.click()]);
  const files = unzipSync(readFileSync(await download.path()));
  return new Map(
    Object.entries(files).map(([path, bytes]) => [path.slice(path.indexOf("/") + 1), Buffer.from(bytes)]),
  );
}

/** The same of the button that saves the one result. */
export const saved = (page: Page): Promise<Map<string, Buffer>> =>
  unzipped(page, page.getByRole("button", { name: /^Download (adapter|model)/ }));
