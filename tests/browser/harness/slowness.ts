/**
 * How slow a machine is: what bounds in milliseconds must be multiplied by where the machine is another one, or is busy
 * with other programs.
 */
import type { Browser, Page } from "playwright-core";
import { mainThreadTasks } from "./browser.ts";

/** Milliseconds of {@link drawPlainTable} on an idle core of an AMD EPYC, for which the bounds are meant. */
const EPYC_MILLISECONDS = 45;

/** Draws a table of 722 rows in one task, the way that the page does not. */
function drawPlainTable(page: Page): Promise<void> {
  return page.evaluate(() => {
    const table = document.createElement("table");
    for (let row = 0; row < 722; row += 1) {
      const cells = table.insertRow();
      for (let column = 0; column < 6; column += 1) cells.insertCell().textContent = `${row} ${column}`;
    }
    document.body.append(table);
    table.getBoundingClientRect();
    table.remove();
  });
}

/** The longest task of the page's thread while `work` runs, in milliseconds that it computed, and how many there were. */
export async function longestTask(
  browser: Browser,
  page: Page,
  work: () => Promise<unknown>,
): Promise<{ milliseconds: number; tasks: number }> {
  // A try before this one may have left its trace running.
  await browser.stopTracing().catch(() => {});
  await browser.startTracing(page, { categories: ["disabled-by-default-devtools.timeline"] });
  await work();
  const tasks = mainThreadTasks(await browser.stopTracing());
  return { milliseconds: Math.max(...tasks), tasks: tasks.length };
}

/** How many times slower this machine is now than an idle core of an AMD EPYC; 1 where it is faster. */
export async function slowness(browser: Browser, page: Page): Promise<number> {
  // Once before, so that it is not the compiler that is measured.
  await drawPlainTable(page);
  const { milliseconds } = await longestTask(browser, page, () => drawPlainTable(page));
  return Math.max(1, milliseconds / EPYC_MILLISECONDS);
}
