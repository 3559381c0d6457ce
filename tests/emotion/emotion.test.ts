/**
 * Real MiniLM and real PEFT adapters through the command line in Node and through the package in Chromium,
 * on the CPU device: the oracle's deltas and lambdas. The fixtures are shared, not part of the
 * project; their README says what each is.
 */
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { MergeReport } from "../../www/lib/types.ts";
import { distFolder, root } from "../../xtask/paths.mjs";
import { launchBrowser, watch } from "../browser/harness/browser.ts";
import { type Served, serveLibrary } from "../browser/harness/serve.ts";
import { deltasOf, productsOf, relativeError } from "../deltas.ts";
import { findMiniLm } from "../minilm.mjs";

const cli = join(distFolder, "cli.js");
const fixtures = join(root, "../shared/fixtures/emotion");
const minilm = findMiniLm();
const present = minilm !== null && existsSync(join(fixtures, "expected.json"));
if (!present) {
  const missing = `${minilm === null ? "MiniLM (node tests/minilm.mjs fetches it)" : fixtures} is not here`;
  if (process.env.ITERIS_REQUIRE_FIXTURES) throw new Error(missing);
  console.warn(`skipped: ${missing}`);
}

/** The oracle's numbers for one group of tasks. */
interface Expected {
  tasks: string[];
  lambda: Record<string, number[]>;
}

/** The oracle's schedules, by the key of its file, as options of the package. */
const schedules = {
  sweep: { schedule: "sweep", maxIter: 1 },
  iterate1: { schedule: "iterate", maxIter: 1 },
  iterate3: { schedule: "iterate", maxIter: 3 },
} as const;

function expected(tasks: readonly string[]): Expected {
  const { groups }: { groups: Expected[] } = JSON.parse(
    readFileSync(join(fixtures, "expected.json"), "utf8"),
  );
  const found = groups.find((group) => group.tasks.join() === tasks.join());
  if (found === undefined) throw new Error(`the oracle has not merged ${tasks.join()}`);
  return found;
}

/** Every layer within 1e-3 of the oracle's delta, every lambda within 1e-4. */
function agrees(tasks: readonly string[], key: string, weights: Buffer, report: MergeReport) {
  const file = readFileSync(join(fixtures, `expected.${tasks.join("-")}.safetensors`));
  const oracle = productsOf(file, `${key}/`, "");
  const deltas = deltasOf(weights);
  expect(deltas.size).toBe(12);
  for (const [module, delta] of deltas) {
    const wanted = oracle.get(module.replace("base_model.model.", ""));
    expect(relativeError(delta, wanted ?? []), `${key} ${module}`).toBeLessThan(1e-3);
  }
  const { lambda } = expected(tasks);
  for (const layer of report.layers) {
    for (const [index, task] of layer.tasks.entries()) {
      const wanted = lambda[`bert.${layer.module}`]?.[index] ?? Number.NaN;
      expect(Math.abs((task.lambda ?? 0) / wanted - 1), `${key} ${layer.module}`).toBeLessThan(1e-4);
    }
  }
}

describe.skipIf(!present)("in Node", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "iteris-emotion-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  /** The built command line's merge: its threads are files of dist/. */
  async function merge(tasks: readonly string[], out: string, ...more: string[]) {
    const adapters = tasks.flatMap((task) => [
      ["--adapter", join(fixtures, task)],
      ["--samples", join(fixtures, `${task}.samples.txt`)],
    ]);
    const argv = ["merge", "--base", minilm ?? "", ...adapters.flat(), "--out", join(folder, out)];
    const limits = ["--max-length", "64", "--device", "cpu", "--json"];
    const { stdout } = await promisify(execFile)(process.execPath, [cli, ...argv, ...limits, ...more]);
    const printed: { report: MergeReport } = JSON.parse(stdout);
    return { ...printed, weights: readFileSync(join(folder, out, "adapter_model.safetensors")) };
  }

  test.each(["iterate1", "iterate3"] as const)("%s of two adapters equals the oracle", async (key) => {
    const { schedule, maxIter } = schedules[key];
    const tasks = ["emoint", "isear"];
    const made = await merge(tasks, key, "--schedule", schedule, "--max-iter", String(maxIter));
    agrees(tasks, key, made.weights, made.report);
  });

  // The accuracies are held against the oracle's in tests/peers, beside PEFT's own.
  test("a sweep over three adapters equals the oracle", async () => {
    const tasks = ["emoint", "emotion-cause", "isear"];
    const made = await merge(tasks, "sweep");
    agrees(tasks, "sweep", made.weights, made.report);
  });
});

describe.skipIf(!present)("in Chromium", () => {
  let browser: Browser;
  let served: Served;
  let page: Page;
  beforeAll(async () => {
    [browser, served] = await Promise.all([launchBrowser(), serveLibrary()]);
    page = await (await browser.newContext()).newPage();
    watch(page);
    await page.goto(served.url);
    await page.waitForFunction(() => globalThis.iteris !== undefined);
    const names = ["base", "emoint", "emotion-cause", "isear"];
    await page.evaluate((names) => {
      for (const name of [...names, "samples"]) {
        const input = Object.assign(document.createElement("input"), { type: "file", name, multiple: true });
        input.webkitdirectory = name !== "samples";
        document.body.append(input);
      }
    }, names);
    for (const name of names) {
      await page.setInputFiles(
        `input[name=${name}]`,
        name === "base" ? (minilm ?? "") : join(fixtures, name),
      );
    }
    const samples = names.slice(1).map((task) => join(fixtures, `${task}.samples.txt`));
    await page.setInputFiles("input[name=samples]", samples);
  });
  afterAll(async () => {
    await browser?.close();
    await served?.close();
  });

  test.each([
    ["sweep", ["emoint", "emotion-cause", "isear"]],
    ["sweep", ["emoint", "isear"]],
    ["iterate1", ["emoint", "isear"]],
    ["iterate3", ["emoint", "isear"]],
  ] as const)("%s of %s equals the oracle", async (key, tasks) => {
    const made = await page.evaluate(
      async ({ tasks, options }) => {
        const files = (name: string) => [
          ...(document.querySelector<HTMLInputElement>(`input[name=${name}]`)?.files ?? []),
        ];
        const { files: written, report } = await globalThis.iteris.merge({
          base: files("base"),
          adapters: tasks.map((name) => {
            const samples = files("samples").find((file) => file.name === `${name}.samples.txt`);
            return { name, files: files(name), samples };
          }),
          options,
          device: "cpu",
        });
        const blob = written.find(({ name }) => name === "adapter_model.safetensors")?.blob;
        const bytes = new Uint8Array((await blob?.arrayBuffer()) ?? []);
        return { report, weights: Array.from(bytes, (byte) => String.fromCharCode(byte)).join("") };
      },
      { tasks: [...tasks], options: { ...schedules[key], maxLength: 64 } },
    );
    agrees(tasks, key, Buffer.from(made.weights, "latin1"), made.report);
  });
});
