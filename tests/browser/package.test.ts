/**
 * The package in a browser: what a page may rely on, whatever it merges.
 *
 * The models are the goldens' tiny ones, so that a merge takes milliseconds; where a merge must last, it is
 * repeated samples that make it last.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page, Worker } from "playwright-core";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { MergeRequest } from "../../www/lib/index.ts";
import { deltasOf, relativeError } from "../deltas.ts";
import { type Tiny, writeTiny } from "../tiny.ts";
import { launchBrowser, type PageLog, watch } from "./harness/browser.ts";
import { type Served, serveLibrary } from "./harness/serve.ts";

declare global {
  /** Put there by `open`: the files that were chosen on the page, by the name of their input. */
  var chosen: Record<string, File[]>;
  /** A merge of the chosen files. */
  var request: (more?: Partial<MergeRequest>) => MergeRequest;
  /** The bytes of a merge as text, to be compared. */
  var contents: (files: { name: string; blob: Blob }[]) => Promise<Record<string, string>>;
  /** As `request`, of so many samples a task. */
  var long: (samples: number, more?: Partial<MergeRequest>) => Promise<MergeRequest>;
  /** Put into a worker that helps: its instances of the module, as long as anything refers to them. */
  var instances: WeakRef<WebAssembly.Instance>[];
  /** A merge that goes on, and what to call when it does. */
  var running: Promise<string>;
  var begun: () => void;
  /** How a promise was rejected: `code: message`. */
  var failure: (promise: Promise<unknown>) => Promise<string>;
}

let folder: string;
let tiny: Tiny;
let browser: Browser;
let served: Served;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "iteris-browser-"));
  tiny = writeTiny(folder);
  // Minutes of work for whoever does not stop when asked.
  const long = readFileSync(tiny.adapters[0]?.samples ?? "", "utf8").trim();
  writeFileSync(join(folder, "long.txt"), `${long}\n`.repeat(4000));
  [browser, served] = await Promise.all([launchBrowser(), serveLibrary()]);
});

afterAll(async () => {
  await browser?.close();
  await served?.close();
  rmSync(folder, { recursive: true });
});

/** A page with the library and with files from disk chosen in inputs, as a person chooses them. */
async function open(from: Browser = browser): Promise<{ page: Page; log: PageLog }> {
  const page = await (await from.newContext()).newPage();
  const log = watch(page);
  await page.goto(served.url);
  await page.waitForFunction(() => globalThis.iteris !== undefined);
  const [one, two] = tiny.adapters;
  const inputs = {
    base: tiny.base,
    one: one?.files ?? "",
    two: two?.files ?? "",
    samples: [one?.samples ?? "", two?.samples ?? "", join(folder, "long.txt")],
  };
  for (const [name, paths] of Object.entries(inputs)) {
    await page.evaluate((name) => {
      const input = Object.assign(document.createElement("input"), { type: "file", name, multiple: true });
      input.webkitdirectory = name !== "samples";
      document.body.append(input);
    }, name);
    await page.setInputFiles(`input[name=${name}]`, paths);
  }
  await page.evaluate(() => {
    globalThis.chosen = {};
    for (const input of document.querySelectorAll("input")) chosen[input.name] = [...(input.files ?? [])];
    const samples = (name: string) => chosen.samples?.find((file) => file.name === name);
    globalThis.request = (more = {}) => ({
      base: chosen.base ?? [],
      adapters: [
        { name: "qv", files: chosen.one ?? [], samples: samples("qv.txt") },
        { name: "all", files: chosen.two ?? [], samples: samples("all.txt") },
      ],
      device: "cpu",
      ...more,
    });
    globalThis.long = async (count, more) => {
      const lines = ((await samples("long.txt")?.text()) ?? "").split("\n").slice(0, count).join("\n");
      const text = new File([lines], "long.txt");
      return request({ ...more, adapters: request().adapters.map((one) => ({ ...one, samples: text })) });
    };
    globalThis.contents = async (files) => {
      const entries = files.map(async ({ name, blob }) => {
        const bytes = new Uint8Array(await blob.arrayBuffer());
        return [name, Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")] as const;
      });
      return Object.fromEntries(await Promise.all(entries));
    };
    globalThis.failure = (promise) =>
      promise.then(
        () => "it did not fail",
        (error) => `${error.code}: ${error.message}`,
      );
  });
  return { page, log };
}

/** Has `code` run in the page's worker before the library's own. */
async function beforeTheWorker(page: Page, code: () => void): Promise<void> {
  await page.route(/\/worker-[^/]*\.js$/, async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: `(${code})();\n${await response.text()}` });
  });
}

function helpersOf(page: Page): Worker[] {
  return page.workers().filter((worker) => worker.url().includes("/helper-"));
}

describe("a merge of files from disk", () => {
  let page: Page;
  let log: PageLog;
  beforeAll(async () => {
    ({ page, log } = await open());
  });

  test("gives an adapter of rank sum(r_i), the heads of the tasks, and a report", async () => {
    const { files, report, device, config } = await page.evaluate(async () => {
      const { files, report, device } = await iteris.merge(request());
      const config = JSON.parse((await contents(files))["adapter_config.json"] ?? "");
      return { files: files.map(({ name }) => name).sort(), report, device, config };
    });
    expect(files).toEqual([
      "README.md",
      "adapter_config.json",
      "adapter_model.safetensors",
      "heads/all.safetensors",
      "heads/qv.safetensors",
      "merge_report.json",
    ]);
    expect(config.r).toBe(Math.max(...report.layers.map(({ rank }) => rank)));
    expect(report.adapters.map(({ name, samples }) => [name, samples?.source, samples?.count])).toEqual([
      ["qv", "qv.txt", 12],
      ["all", "all.txt", 12],
    ]);
    expect(report.options).toMatchObject({ method: "iteris", schedule: "sweep", max_length: 32 });
    expect(device).toEqual({ kind: "cpu", why: "The CPU was asked for.", adapter: null });
  });

  test("gives the same bytes again", async () => {
    const [first, second] = await page.evaluate(async () => [
      await contents((await iteris.merge(request())).files),
      await contents((await iteris.merge(request())).files),
    ]);
    expect(Object.keys(first ?? {}).length).toBe(6);
    for (const name of Object.keys(first ?? {}).filter((name) => name !== "merge_report.json")) {
      expect(second?.[name] === first?.[name], name).toBe(true);
    }
  });

  test("sends no request but for the package's own files", async () => {
    const before = log.requests.length;
    await page.evaluate(() => iteris.merge(request()));
    expect(log.requests.slice(before)).toEqual([]);
    const own = new RegExp(`^GET ${served.url}($|assets/(library|lib|worker|helper|iteris_web_bg)-[^/]+$)`);
    expect(log.requests.filter((line) => !own.test(line))).toEqual([]);
    expect(log.requests.filter((line) => line.endsWith(".wasm"))).toHaveLength(1);
    expect(log.complaints).toEqual([]);
  });

  test("shares it with workers that are loaded already, call after call", async () => {
    const before = log.requests.length;
    const merges = await page.evaluate(async () => {
      const workers = Math.min(navigator.hardwareConcurrency, 8);
      const merge = async () => {
        const { report, files } = await iteris.merge(request({ workers }));
        return { asked: workers, shared: report.workers, contents: await contents(files) };
      };
      return [await merge(), await merge()] as const;
    });
    expect(merges[0].asked).toBeGreaterThan(1);
    expect(merges.map(({ shared }) => shared)).toEqual(merges.map(({ asked }) => asked));
    const weights = merges.map(({ contents }) => contents["adapter_model.safetensors"]);
    expect(weights[0] === weights[1]).toBe(true);
    expect(log.requests.slice(before)).toEqual([]);
  });

  test("takes other cores by itself where it is worth them, without a network, and merges the same", async () => {
    // Loads what there is to load.
    await page.evaluate(() => iteris.merge(request({ workers: 2 })));
    const before = log.requests.length;
    await page.context().setOffline(true);
    const [alone, shared] = await page.evaluate(async () => {
      const merge = async (more?: Partial<MergeRequest>) => {
        const { report, files } = await iteris.merge(await long(48_000, more));
        return {
          workers: report.workers,
          weights: (await contents(files))["adapter_model.safetensors"] ?? "",
        };
      };
      return [await merge({ workers: 1 }), await merge()] as const;
    });
    await page.context().setOffline(false);
    expect(alone.workers).toBe(1);
    expect(shared.workers).toBeGreaterThan(1);
    const [one, other] = [alone, shared].map(({ weights }) => deltasOf(Buffer.from(weights, "latin1")));
    expect(one?.size).toBeGreaterThan(0);
    // Sums in another order, 1e-15 apart. Twelve texts over and over leave most directions to the ridge, whose solution
    // is by its inverse as sensitive; 7e-6 was seen.
    for (const [module, delta] of one ?? []) {
      expect(relativeError(other?.get(module) ?? [], delta), module).toBeLessThan(1e-4);
    }
    expect(log.requests.slice(before)).toEqual([]);
  });

  test("leaves those without the memory that they worked in", async () => {
    const { page } = await open();
    // A plan says how many workers there are, and so waits until they are loaded.
    await page.evaluate(() => iteris.planMerge(request()));
    const helpers = helpersOf(page);
    const sum = (numbers: number[]) => numbers.reduce((one, other) => one + other, 0);
    const made = () => Promise.all(helpers.map((helper) => helper.evaluate(() => instances.length)));
    // An instance that nothing refers to is gone at the next collection of garbage, of which this makes enough.
    const left = () =>
      Promise.all(
        helpers.map((helper) =>
          helper.evaluate(() => {
            for (let i = 0; i < 100; i += 1) {
              Object.assign(globalThis, { garbage: new Array(100_000).fill(i) });
            }
            return instances.filter((instance) => instance.deref() !== undefined).length;
          }),
        ),
      );
    for (const helper of helpers) {
      await helper.evaluate(() => {
        globalThis.instances = [];
        WebAssembly.Instance = new Proxy(WebAssembly.Instance, {
          construct(target, given) {
            const instance: WebAssembly.Instance = Reflect.construct(target, given);
            instances.push(new WeakRef(instance));
            return instance;
          },
        });
      });
    }
    for (let merge = 0; merge < 2; merge += 1) {
      await page.evaluate(() => iteris.merge(request({ workers: 2 })));
    }
    // The first, and one after each call.
    expect(sum(await made())).toBe(3);
    await expect.poll(async () => sum(await left()), { timeout: 10_000 }).toBe(1);
  });

  test("compares with held-out samples where there are any", async () => {
    const comparison = await page.evaluate(async () => {
      const { adapters } = request();
      const heldOut = [{ text: "w41 w78", label: 0 }, { text: "w13 w60 w22" }];
      const result = await iteris.merge(request({ adapters: adapters.map((a) => ({ ...a, heldOut })) }));
      return result.comparison;
    });
    expect(comparison?.tasks.map(({ task, samples, labelled }) => [task, samples, labelled])).toEqual([
      ["qv", 2, 1],
      ["all", 2, 1],
    ]);
    for (const { variants } of comparison?.tasks ?? []) {
      expect(variants.map(({ variant }) => variant)).toEqual(["base", "adapter", "iteris", "average"]);
      expect(variants[1]).toMatchObject({ agreement: 1 });
    }
  });

  test("reads files at addresses by range", async () => {
    const ranges: string[] = [];
    await page.route("**/files/*", (route) => {
      const name = decodeURIComponent(new URL(route.request().url()).pathname.split("/").pop() ?? "");
      const bytes = readFileSync(join(tiny.base, name));
      const range = /bytes=(\d+)-(\d+)/.exec(route.request().headers().range ?? "");
      ranges.push(range?.[0] ?? "none");
      const [start, end] = [Number(range?.[1] ?? 0), Number(range?.[2] ?? bytes.length - 1) + 1];
      return route.fulfill({
        status: range ? 206 : 200,
        headers: { "content-range": `bytes ${start}-${end - 1}/${bytes.length}` },
        body: bytes.subarray(start, end),
      });
    });
    const same = await page.evaluate(async () => {
      const base = (chosen.base ?? []).map(({ name }) => ({ url: `files/${name}` }));
      const [remote, local] = [await iteris.merge(request({ base })), await iteris.merge(request())];
      const bytes = async ({ files }: typeof remote) => (await contents(files))["adapter_model.safetensors"];
      return (await bytes(remote)) === (await bytes(local));
    });
    expect(same).toBe(true);
    expect(ranges.length).toBeGreaterThan(10);
    expect(ranges).not.toContain("none");
  });
});

describe("bad input is refused by code and keeps the worker:", () => {
  let page: Page;
  beforeAll(async () => {
    ({ page } = await open());
  });

  test("zero adapters", async () => {
    const refused = await page.evaluate(() => failure(iteris.merge(request({ adapters: [] }))));
    expect(refused).toMatch(/^no_adapters: /);
  });

  test("one file dropped twice", async () => {
    const refused = await page.evaluate(() => {
      const base = chosen.base ?? [];
      return failure(iteris.merge(request({ base: [...base, ...base.slice(0, 1)] })));
    });
    expect(refused).toMatch(/^duplicate: /);
  });

  test("an empty file of samples, and none at all", async () => {
    const refused = await page.evaluate(async () => {
      const [one] = request().adapters;
      const withSamples = (samples: File | undefined) =>
        failure(iteris.merge(request({ adapters: one ? [{ ...one, samples }] : [] })));
      return [await withSamples(new File(["\n \n"], "empty.txt")), await withSamples(undefined)];
    });
    expect(refused[0]).toMatch(/^samples_invalid: empty\.txt: /);
    expect(refused[1]).toMatch(/^samples_invalid: .*qv$/);
  });

  test("a file that ends early", async () => {
    const refused = await page.evaluate(() => {
      const base = (chosen.base ?? []).map((file) =>
        file.name.endsWith(".safetensors") ? new File([file.slice(0, -8)], file.name) : file,
      );
      return failure(iteris.merge(request({ base })));
    });
    expect(refused).toMatch(/^(file_truncated|header_invalid): /);
  });

  test("and the worker goes on", async () => {
    const { layers } = await page.evaluate(async () => (await iteris.merge(request())).report);
    expect(layers.length).toBeGreaterThan(0);
    expect(page.workers().filter((worker) => worker.url().includes("/worker-"))).toHaveLength(1);
  });
});

describe("cancelling", () => {
  test("stops within a layer, frees the worker, and a second merge gives what it gave before", async () => {
    const { page } = await open();
    const before = await page.evaluate(async () => contents((await iteris.merge(request())).files));
    const { refused, seconds } = await page.evaluate(async () => {
      const stop = new AbortController();
      let aborted = 0;
      const long = chosen.samples?.find((file) => file.name === "long.txt");
      const refused = await failure(
        iteris.merge(
          request({
            adapters: request().adapters.map((adapter) => ({ ...adapter, samples: long })),
            signal: stop.signal,
            onProgress: ({ stage }) => {
              if (aborted || stage === "load") return;
              aborted = performance.now();
              stop.abort();
            },
          }),
        ),
      );
      return { refused, seconds: (performance.now() - aborted) / 1000 };
    });
    expect(refused).toMatch(/^cancelled: /);
    // Less than the patience after which the page would have ended the worker by force.
    expect(seconds).toBeLessThan(9);
    await expect.poll(() => page.workers()).toHaveLength(0);
    const after = await page.evaluate(async () => contents((await iteris.merge(request())).files));
    expect(after["adapter_model.safetensors"] === before["adapter_model.safetensors"]).toBe(true);
  });
});

// Tried again if it fails: a machine that is busy with other programs interrupts the page too.
describe("the page's thread", { retry: 2 }, () => {
  test("is never blocked for 50 ms while a merge runs", async () => {
    const { page } = await open();
    const { control, during, ticks } = await page.evaluate(async () => {
      const tasks: number[] = [];
      new PerformanceObserver((list) => {
        for (const { duration } of list.getEntries()) tasks.push(duration);
      }).observe({ type: "longtask" });
      const settled = () => new Promise((resolve) => setTimeout(resolve, 200));
      // A task that is too long on purpose, to know that the observer would tell.
      await new Promise<void>((resolve) =>
        setTimeout(() => {
          for (const end = performance.now() + 80; performance.now() < end; );
          resolve();
        }),
      );
      await settled();
      const control = tasks.splice(0).length;

      let ticks = 0;
      const timer = setInterval(() => {
        ticks += 1;
      }, 10);
      await iteris.merge(await long(2400, { onProgress: () => {} }));
      clearInterval(timer);
      await settled();
      return { control, during: tasks, ticks };
    });
    expect(control).toBe(1);
    expect(during).toEqual([]);
    // The merge lasted long enough to have been seen.
    expect(ticks).toBeGreaterThan(20);
  });
});

describe("a fault", () => {
  test("in loading the wasm module is told, and the next call tries again", async () => {
    const { page } = await open();
    await page.route("**/*.wasm", (route) =>
      route.fulfill({ contentType: "application/wasm", body: "no module" }),
    );
    expect(await page.evaluate(() => failure(iteris.merge(request())))).toMatch(/^internal: /);
    await page.unroute("**/*.wasm");
    const { layers } = await page.evaluate(async () => (await iteris.merge(request())).report);
    expect(layers.length).toBeGreaterThan(0);
  });

  test("of a worker that helps ends the merge, and the next has another", async () => {
    const { page, log } = await open();
    await page.evaluate(async () => {
      const onProgress = ({ stage }: { stage: string }) => stage === "forward" && begun();
      globalThis.running = failure(iteris.merge(await long(12_000, { workers: 2, onProgress })));
      await new Promise<void>((resolve) => {
        globalThis.begun = resolve;
      });
    });
    const before = log.requests.length;
    for (const helper of helpersOf(page)) {
      await helper.evaluate(() => {
        setTimeout(() => {
          throw new Error("boom");
        });
      });
    }
    const refused = await page.evaluate(() => globalThis.running);
    expect(refused).toMatch(/^internal: .*boom/);
    const workers = await page.evaluate(
      async () => (await iteris.merge(request({ workers: 2 }))).report.workers,
    );
    expect(workers).toBe(2);
    const asked = log.requests.slice(before);
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.filter((line) => !line.includes("/assets/helper-"))).toEqual([]);
    expect(page.workers().filter((worker) => worker.url().includes("/worker-"))).toHaveLength(1);
  });

  test("in loading the workers that help leaves a merge alone, unless it asks for them", async () => {
    const { page } = await open();
    await page.route("**/helper-*", (route) => route.abort());
    const [alone, refused] = await page.evaluate(async () => [
      (await iteris.merge(await long(48_000))).report.workers,
      await failure(iteris.merge(request({ workers: 2 }))),
    ]);
    expect(alone).toBe(1);
    expect(refused).toMatch(/^internal: .*a worker failed, its script cannot be loaded/);
    await page.unroute("**/helper-*");
    const workers = await page.evaluate(
      async () => (await iteris.merge(request({ workers: 2 }))).report.workers,
    );
    expect(workers).toBe(2);
  });
});

// Its shaders are compiled on the processor, which takes a minute where other work runs too.
describe("WebGPU on the software adapter", { timeout: 300_000 }, () => {
  let page: Page;
  beforeEach(async () => {
    ({ page } = await open());
  });

  test("is not what auto takes, and auto says why", async () => {
    const choice = await page.evaluate(() => iteris.chooseDevice("auto"));
    expect(choice).toMatchObject({ kind: "cpu", adapter: { software: true } });
    expect(choice.why).toContain("is a software adapter");
    const { report } = await page.evaluate(() => iteris.merge(request({ device: "auto" })));
    expect([report.device, report.device_why]).toEqual(["cpu", choice.why]);
  });

  test("is measured by auto where it does not tell that it is one, and found slow", async () => {
    await beforeTheWorker(page, () => {
      const info = {
        vendor: "acme",
        architecture: "",
        device: "",
        description: "",
        isFallbackAdapter: false,
      };
      Object.defineProperty(GPUAdapter.prototype, "info", { get: () => info });
    });
    const { choice, device, report, layers } = await page.evaluate(async () => {
      const choice = await iteris.chooseDevice("auto");
      const layers: string[] = [];
      const onProgress = ({ layer }: { layer: string }) => layers.push(layer);
      const { device, report } = await iteris.merge(request({ device: "auto", onProgress }));
      return { choice, device, report, layers };
    });
    expect(choice).toMatchObject({ kind: "auto", adapter: { vendor: "acme", software: false } });
    expect(layers).toContain("speed of the CPU and the GPU");
    expect(report.device_why).toMatch(
      /^The CPU: about [\d.]+ s for this on .*, about [\d.]+ s on the GPU \(acme; measured: \d+ GFLOP\/s in products on a core, \d+ GFLOP\/s on the GPU, [\d.]+ ms to read back from it\)\.$/,
    );
    expect(device).toMatchObject({ kind: "cpu", why: report.device_why, adapter: { vendor: "acme" } });
  });

  test("is taken when it is asked for, has it timestamps or not, and merges what the CPU merges within 1e-3", async () => {
    await beforeTheWorker(page, () => {
      const { prototype } = GPUAdapter;
      const features = Object.getOwnPropertyDescriptor(prototype, "features")?.get;
      const without = (names: Iterable<string>) => [...names].filter((name) => name !== "timestamp-query");
      Object.defineProperty(prototype, "features", {
        configurable: true,
        get() {
          return new Set(without(features?.call(this)));
        },
      });
      const { requestDevice } = prototype;
      prototype.requestDevice = function (descriptor) {
        const asked = [...(descriptor?.requiredFeatures ?? [])];
        if (asked.length > without(asked).length) throw new TypeError("timestamp-query is not there");
        return requestDevice.call(this, descriptor);
      };
    });
    const { device, report, gpu, cpu, layers } = await page.evaluate(async () => {
      const weights = async (files: { name: string; blob: Blob }[]) =>
        (await contents(files))["adapter_model.safetensors"] ?? "";
      const layers: string[] = [];
      const onProgress = ({ layer }: { layer: string }) => layers.push(layer);
      const { device, report, files } = await iteris.merge(request({ device: "webgpu", onProgress }));
      return {
        device,
        report,
        layers,
        gpu: await weights(files),
        cpu: await weights((await iteris.merge(request())).files),
      };
    });
    expect([device.kind, report.device]).toEqual(["webgpu", "webgpu"]);
    expect(layers).toContain("kernels of the GPU");
    const [onGpu, onCpu] = [gpu, cpu].map((bytes) => deltasOf(Buffer.from(bytes, "latin1")));
    expect([...(onCpu?.keys() ?? [])]).toHaveLength(report.layers.length);
    for (const [module, expected] of onCpu ?? []) {
      expect(relativeError(onGpu?.get(module) ?? [], expected), module).toBeLessThan(1e-3);
    }
  });

  test("lost in the middle ends the merge with device_lost; the next merge works", async () => {
    const { refused, again, layers } = await page.evaluate(async () => {
      const client = newClient();
      let lost = false;
      const onProgress = ({ stage }: { stage: string }) => {
        if (lost || stage === "load") return;
        lost = true;
        client.loseDevice();
      };
      const long = chosen.samples?.find((file) => file.name === "long.txt");
      const adapters = request().adapters.map((adapter) => ({ ...adapter, samples: long }));
      const refused = await failure(client.merge(request({ adapters, device: "webgpu", onProgress })));
      // The GPU is there again in the new worker; a merge on it would only compile its shaders once more.
      const again = await client.chooseDevice("webgpu");
      const { report } = await client.merge(request());
      return { refused, again: again.kind, layers: report.layers.length };
    });
    expect(refused).toMatch(/^device_lost: /);
    expect(again).toBe("webgpu");
    expect(layers).toBeGreaterThan(0);
  });

  test("without memory left ends the merge with device_limit; the next merge works", async () => {
    const started = page.waitForEvent("worker");
    await page.evaluate(() => iteris.version());
    const worker = await started;
    await worker.evaluate(() => {
      const original = GPUAdapter.prototype.requestDevice;
      GPUAdapter.prototype.requestDevice = async function (descriptor) {
        const device = await original.call(this, descriptor);
        return Object.assign(globalThis, { device }).device;
      };
    });
    const refused = page.evaluate(() => {
      const samples = chosen.samples?.find((file) => file.name === "long.txt");
      const adapters = request().adapters.map((adapter) => ({ ...adapter, samples }));
      return failure(iteris.merge(request({ adapters, device: "webgpu" })));
    });
    await expect.poll(() => worker.evaluate(() => "device" in globalThis)).toBe(true);
    // As Chromium tells of a buffer that it cannot have: no adapter here can be filled.
    await worker.evaluate(() => {
      const error = new GPUOutOfMemoryError("asked for too much");
      const event = new GPUUncapturedErrorEvent("uncapturederror", { error });
      (globalThis as unknown as { device: GPUDevice }).device.dispatchEvent(event);
    });
    expect(await refused).toMatch(/^device_limit: The GPU has no memory left/);
    const layers = await page.evaluate(async () => (await iteris.merge(request())).report.layers.length);
    expect(layers).toBeGreaterThan(0);
  });
});

test("without WebGPU it is refused with what lacks", async () => {
  const without = await launchBrowser({ webgpu: false });
  const { page } = await open(without);
  const refused = await page.evaluate(() => failure(iteris.merge(request({ device: "webgpu" }))));
  expect(refused).toMatch(/^webgpu_unavailable: /);
  await without.close();
});

test("release ends what runs and gives the workers back", async () => {
  const { page } = await open();
  const refused = await page.evaluate(() =>
    failure(iteris.merge(request({ onProgress: () => iteris.release() }))),
  );
  expect(refused).toMatch(/^cancelled: /);
  await expect.poll(() => page.workers()).toHaveLength(0);
  await page.evaluate(() => iteris.merge(request({ workers: 3 })));
  expect(page.workers().length).toBeGreaterThan(1);
  await page.evaluate(() => iteris.release());
  await expect.poll(() => page.workers()).toHaveLength(0);
});
