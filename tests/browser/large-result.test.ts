/**
 * Results that are too large for memory, in Chromium: they lie in the origin private file system as long as somebody may
 * save them, and no longer.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import type { MergeRequest, Progress } from "../../www/lib/index.ts";
import { writeRandomAdapter } from "../random-adapter.ts";
import { launchBrowser } from "./harness/browser.ts";
import { type Served, serveLibrary } from "./harness/serve.ts";

declare global {
  /** Put there by `open`: a merge of both adapters, whose result has 67 MB, or of one of them. */
  var large: (more?: Partial<MergeRequest>) => MergeRequest;
  /** Every file in the origin private file system, `folder/file` with its size. */
  var onDisk: () => Promise<string[]>;
  /** What a merge gave, for a later look. */
  var kept: { name: string; blob: Blob }[];
}

let folder: string;
let browser: Browser;
let served: Served;
let context: BrowserContext;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "iteris-large-"));
  // Two of 33.6 MB; merged without a cut their ranks add up.
  for (const [index, name] of ["one", "two"].entries()) {
    writeRandomAdapter(join(folder, name), { modules: 16, width: 1024, rank: 256, seed: index + 1 });
  }
  [browser, served] = await Promise.all([launchBrowser(), serveLibrary()]);
});
afterAll(async () => {
  await browser?.close();
  await served?.close();
  rmSync(folder, { recursive: true });
});
beforeEach(async () => {
  context = await browser.newContext();
});
afterEach(() => context.close());

async function open(): Promise<Page> {
  const page = await context.newPage();
  await page.goto(served.url);
  await page.waitForFunction(() => globalThis.iteris !== undefined);
  for (const name of ["one", "two"]) {
    await page.evaluate((name) => {
      const input = Object.assign(document.createElement("input"), { type: "file", name, multiple: true });
      input.webkitdirectory = true;
      document.body.append(input);
    }, name);
    await page.setInputFiles(`input[name=${name}]`, join(folder, name));
  }
  await page.evaluate(() => {
    const adapters = [...document.querySelectorAll("input")].map((input) => ({
      name: input.name,
      files: [...(input.files ?? [])],
    }));
    globalThis.large = (more = {}) => ({ adapters, options: { method: "linear" }, device: "cpu", ...more });
    const walk = async (folder: FileSystemDirectoryHandle, path: string): Promise<string[]> => {
      const found: string[] = [];
      for await (const [name, handle] of folder.entries()) {
        if (handle.kind === "directory") found.push(...(await walk(handle as never, `${path}${name}/`)));
        else found.push(`${path}${name}`);
      }
      return found;
    };
    globalThis.onDisk = async () => walk(await navigator.storage.getDirectory(), "");
  });
  return page;
}

test("a large result lies on disk, is what the report says, and goes when it is discarded", async () => {
  const page = await open();
  const { files, expected, found, before, after } = await page.evaluate(async () => {
    const { files, report } = await iteris.merge(large());
    const weights = files.find(({ name }) => name === "adapter_model.safetensors");
    const bytes = (await weights?.blob.arrayBuffer()) ?? new ArrayBuffer(0);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const before = await onDisk();
    await iteris.discard(files);
    return {
      files: files.map(({ name, onDisk }) => [name, onDisk !== undefined]),
      expected: report.output.find(({ name }) => name === "adapter_model.safetensors"),
      found: {
        name: "adapter_model.safetensors",
        bytes: bytes.byteLength,
        sha256: [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
      },
      before,
      after: await onDisk(),
    };
  });
  expect(found.bytes).toBeGreaterThan(64 << 20);
  expect(found).toEqual(expected);
  expect(Object.fromEntries(files)).toMatchObject({
    "adapter_model.safetensors": true,
    "merge_report.json": false,
  });
  expect(before).toEqual([expect.stringMatching(/^iteris-web\/[^/]+\/[^/]+\/adapter_model\.safetensors$/)]);
  expect(after).toEqual([]);
});

test("a small result never touches the disk", async () => {
  const page = await open();
  const { kept, found } = await page.evaluate(async () => {
    const { files } = await iteris.merge(large({ adapters: large().adapters.slice(0, 1) }));
    return { kept: files.flatMap(({ onDisk }) => onDisk ?? []), found: await onDisk() };
  });
  expect([kept, found]).toEqual([[], []]);
});

test("a result outlives the worker and other pages, and goes with its own page", async () => {
  const [page, other] = [await open(), await open()];
  const merge = (on: Page) =>
    on.evaluate(async () => {
      globalThis.kept = (await iteris.merge(large())).files;
    });
  await merge(page);
  // A new worker, and the start of another page's.
  await page.evaluate(() => iteris.release());
  await merge(other);
  expect(await page.evaluate(() => onDisk())).toHaveLength(2);
  const size = await page.evaluate(async () => {
    const weights = kept.find(({ name }) => name === "adapter_model.safetensors");
    return (await weights?.blob.arrayBuffer())?.byteLength;
  });
  expect(size).toBeGreaterThan(64 << 20);

  await page.close();
  const next = await open();
  await next.evaluate(() => iteris.version());
  await expect.poll(() => other.evaluate(() => onDisk())).toHaveLength(1);
  const still = await other.evaluate(async () => {
    const weights = kept.find(({ name }) => name === "adapter_model.safetensors");
    return (await weights?.blob.slice(0, 8).arrayBuffer())?.byteLength;
  });
  expect(still).toBe(8);
});

test("a merge that is cancelled in the middle leaves nothing", async () => {
  const page = await open();
  const { code, found } = await page.evaluate(async () => {
    const stop = new AbortController();
    const onProgress = ({ stage, done, total }: Progress) => {
      if (stage === "write" || (stage === "merge" && done >= total / 2)) stop.abort();
    };
    const code = await iteris.merge(large({ signal: stop.signal, onProgress })).then(
      () => "it did not stop",
      (error) => error.code,
    );
    return { code, found: await onDisk() };
  });
  expect({ code, found }).toEqual({ code: "cancelled", found: [] });
});

test("a disk that is full is told, with how much there was, and nothing is left", async () => {
  const page = await open();
  const session = await context.newCDPSession(page);
  await session.send("Storage.overrideQuotaForOrigin", {
    origin: new URL(served.url).origin,
    quotaSize: 40 << 20,
  });
  const { told, found } = await page.evaluate(async () => {
    const told = await iteris.merge(large()).then(
      () => "it did not fail",
      (error) => `${error.code}: ${error.message}`,
    );
    return { told, found: await onDisk() };
  });
  expect(told).toMatch(
    /^write_failed: The browser's storage for this page is full at \d+ MiB; .*adapter_model\.safetensors$/,
  );
  expect(found).toEqual([]);
});

test("without such a disk the result is in memory", async () => {
  await context.addInitScript(() => Reflect.deleteProperty(StorageManager.prototype, "getDirectory"));
  const page = await open();
  const files = await page.evaluate(async () => {
    const { files } = await iteris.merge(large());
    return files.map(({ name, blob, onDisk }) => ({ name, size: blob.size, onDisk }));
  });
  const weights = files.find(({ name }) => name === "adapter_model.safetensors");
  expect(weights?.size).toBeGreaterThan(64 << 20);
  expect(weights?.onDisk).toBeUndefined();
});
