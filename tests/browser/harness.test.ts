/** That the other browser tests can be believed: the log they read would show what must not happen. */
import { createServer } from "node:http";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launchBrowser, watch } from "./harness/browser.ts";
import { type Served, serveLibrary } from "./harness/serve.ts";

let browser: Browser;
let served: Served;

beforeAll(async () => {
  [browser, served] = await Promise.all([launchBrowser(), serveLibrary()]);
});

afterAll(async () => {
  await browser?.close();
  await served?.close();
});

test("the library loads under the policy without a complaint", async () => {
  const page = await browser.newPage();
  const log = watch(page);
  await page.goto(served.url);
  await page.waitForFunction(() => globalThis.iteris !== undefined);
  expect(log.complaints).toEqual([]);
  await page.close();
});

test("a request to another server is refused by the policy, and the log says so", async () => {
  let visits = 0;
  const other = createServer((_, response) => {
    visits += 1;
    response.writeHead(200, { "Access-Control-Allow-Origin": "*" }).end();
  });
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  const address = other.address();
  if (address === null || typeof address === "string") throw new Error("no port");

  const page = await browser.newPage();
  const log = watch(page);
  await page.goto(served.url);
  const refused = await page.evaluate(
    (url) =>
      fetch(url).then(
        () => false,
        () => true,
      ),
    `http://127.0.0.1:${address.port}/`,
  );
  expect(refused).toBe(true);
  expect(visits).toBe(0);
  expect(log.complaints.join("\n")).toContain("Content Security Policy");
  await page.close();
  await new Promise((resolve) => other.close(resolve));
});

test("requests of a worker are in the log too", async () => {
  const page = await browser.newPage();
  const log = watch(page);
  await page.goto(served.url);
  await page.waitForFunction(() => globalThis.iteris !== undefined);
  // Reading a base model that is none starts the worker, which fetches the wasm module before it says so.
  const code = await page.evaluate(() =>
    globalThis.iteris.inspectBase([new File(["{}"], "config.json")]).then(
      () => "none",
      (error: { code?: string }) => error.code ?? "untyped",
    ),
  );
  expect(code).not.toBe("untyped");
  expect(log.requests.some((request) => request.endsWith(".wasm"))).toBe(true);
  expect(log.requests.every((request) => request.startsWith(`GET ${served.url}`))).toBe(true);
  await page.close();
});

test("the browser has WebGPU, on a software adapter", async () => {
  const page = await browser.newPage();
  await page.goto(served.url);
  const fallback = await page.evaluate(async () => {
    const gpu = (navigator as Navigator & { gpu?: { requestAdapter(): Promise<unknown> } }).gpu;
    const adapter = (await gpu?.requestAdapter()) as
      | { info?: { isFallbackAdapter?: boolean } }
      | null
      | undefined;
    return adapter?.info?.isFallbackAdapter;
  });
  expect(fallback).toBe(true);
  await page.close();
});
