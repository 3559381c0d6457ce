/** Threads that share the work: the same bytes or numbers come of it, and what becomes of one that dies. Needs dist/. */
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { CompareReport, MergeReport } from "../../www/lib/types.ts";
import { sha256 } from "../../xtask/paths.mjs";
import { writeRandomAdapter } from "../random-adapter.ts";

const dist = join(import.meta.dirname, "../../dist");

/** Merges with two workers, the second of which ends as soon as it is asked for a layer; then again, with none ending. */
const dying = `
import { Worker } from "node:worker_threads";
const post = Worker.prototype.postMessage;
let deaths = 1;
Worker.prototype.postMessage = function (message, ...rest) {
  if (message.type === "ask" && deaths-- > 0) void this.terminate();
  return post.call(this, message, ...rest);
};
const { mergeInto, OutputFolder } = await import(process.argv[1]);
const [out, request] = process.argv.slice(2);
for (let i = 0; i < 2; i += 1) {
  const folder = await OutputFolder.create(out, { force: true });
  try {
    const { report } = await mergeInto({ ...JSON.parse(request), workers: 2 }, folder);
    await folder.finish();
    console.log(JSON.stringify({ layers: report.layers.length }));
  } catch ({ code, message }) {
    await folder.discard();
    console.log(JSON.stringify({ code, message }));
  }
}
`;

let folder: string;
let inputs: string[];
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-workers-"));
  const size = { modules: 40, width: 96, rank: 8 };
  inputs = ["a", "b"].map((name, at) => writeRandomAdapter(join(folder, name), { ...size, seed: 1000 * at }));
});
afterAll(() => rmSync(folder, { recursive: true }));

async function node(...line: string[]): Promise<string> {
  return (await promisify(execFile)(process.execPath, line)).stdout;
}

async function mergedBy(workers: string, method: string): Promise<string> {
  const out = join(folder, `${method}-${workers}`);
  const adapters = inputs.flatMap((path) => ["--adapter", path]);
  const how = ["--method", method, "--rank", "4", "--workers", workers];
  await node(join(dist, "cli.js"), "merge", ...adapters, ...how, "--out", out);
  return sha256(readFileSync(join(out, "adapter_model.safetensors")));
}

test("captions of base, adapters and merged ones are the same, however many workers write them", async () => {
  const blip = join(import.meta.dirname, "../goldens/data/blip");
  const said = async (workers: string): Promise<CompareReport["tasks"]> => {
    const adapters = ["a", "b"].flatMap((name) => {
      const pictures = join(blip, `${name}.samples`);
      return ["--adapter", join(blip, name), "--samples", pictures, "--compare", pictures];
    });
    const how = [
      "--device",
      "cpu",
      "--workers",
      workers,
      "--json",
      "--out",
      join(folder, `captions-${workers}`),
    ];
    const printed = await node(
      join(dist, "cli.js"),
      "merge",
      "--base",
      join(blip, "base"),
      ...adapters,
      ...how,
    );
    return (JSON.parse(printed) as { comparison: CompareReport }).comparison.tasks;
  };
  const alone = await said("1");
  expect(alone.map((task) => task.said?.length)).toEqual([4, 4]);
  expect(alone[0]?.said?.[0]?.variants.map(({ variant }) => variant)).toContain("average");
  expect((await said("2")).map((task) => task.said)).toEqual(alone.map((task) => task.said));
});

test.each(["svd", "ties"])("%s writes the same bytes, however many workers there are", async (method) => {
  const alone = await mergedBy("1", method);
  expect([await mergedBy("2", method), await mergedBy("4", method)]).toEqual([alone, alone]);
});

const example = join(import.meta.dirname, "../../www/example");
const tasks = ["notes", "requests", "reviews"];
const calibrated = {
  base: join(example, "base"),
  adapters: tasks.map((name) => ({
    name,
    files: join(example, "adapters", name),
    samples: join(example, "samples", `${name}.txt`),
  })),
};

test("a merge with samples gives the same numbers, however many workers there are", async () => {
  const reportOf = async (workers: string): Promise<MergeReport> => {
    const adapters = calibrated.adapters.flatMap(({ files, samples }) => [
      ...["--adapter", files],
      ...["--samples", samples],
    ]);
    const out = join(folder, `iteris-${workers}`);
    const how = ["--base", calibrated.base, "--workers", workers, "--out", out];
    await node(join(dist, "cli.js"), "merge", ...adapters, ...how);
    return JSON.parse(readFileSync(join(out, "merge_report.json"), "utf8"));
  };
  const alone = await reportOf("1");
  for (const workers of ["2", "4"]) {
    const shared = await reportOf(workers);
    expect(shared.workers).toBeGreaterThan(1);
    const numbers = ({ layers }: MergeReport) =>
      layers.flatMap(({ rank, tasks }) => [
        rank,
        ...tasks.flatMap(({ lambda, residual }) => [lambda ?? 0, residual ?? 0]),
      ]);
    const [found, wanted] = [numbers(shared), numbers(alone)];
    expect(found).toHaveLength(wanted.length);
    // Sums in another order; what rounding makes of that comes back in the residuals.
    const apart = found.map((number, i) => Math.abs(number / (wanted[i] ?? 0) - 1));
    expect(Math.max(...apart)).toBeLessThan(1e-4);
    expect(shared.operations.forward).toBeCloseTo(alone.operations.forward, -3);
  }
});

test("answers and comparisons are the same, however many workers there are", async () => {
  const writing = join(example, "generative");
  const adapters = ["past", "question"].flatMap((name) => ["--adapter", join(writing, "adapters", name)]);
  const said = async (command: string, ...more: string[]) => {
    const line = [command, "--base", join(writing, "base"), ...adapters, ...more, "--json"];
    return JSON.parse(await node(join(dist, "cli.js"), ...line));
  };
  const prompts = ["--prompts", join(writing, "held-out/past.jsonl"), "--max-new-tokens", "8"];
  const written = async (workers: string) =>
    (await said("generate", ...prompts, "--workers", workers)).variants;
  const alone = await written("1");
  expect(alone[1].texts).not.toEqual(alone[0].texts);
  expect([await written("2"), await written("5")]).toEqual([alone, alone]);

  const held = ["past", "question"].flatMap((name) => [
    "--compare",
    join(writing, "held-out", `${name}.jsonl`),
  ]);
  const compared = async (workers: string) => {
    const { report } = await said("compare", "--methods", "average", ...held, "--workers", workers);
    return report.tasks.flatMap(({ variants }: CompareReport["tasks"][number]) =>
      variants.map(({ variant, agreement, accuracy }) => [variant, agreement, accuracy]),
    );
  };
  expect(await compared("3")).toEqual(await compared("1"));
});

const dies: [string, object, number][] = [
  ["solving layers", { options: { method: "svd" } }, 40],
  ["running the model", calibrated, 0],
];
test.each(dies)(
  "a thread that dies while %s fails the merge, and the next has new ones",
  async (_, given, count) => {
    const out = join(folder, "dying");
    const random = { adapters: inputs.map((path) => ({ name: path, files: path })) };
    const request = JSON.stringify({ ...random, ...given });
    const said = await node("--input-type=module", "--eval", dying, join(dist, "node.js"), out, request);
    const [first, second] = said
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(first).toMatchObject({
      code: "internal",
      message: expect.stringContaining("a thread ended by itself"),
    });
    expect(second.layers).toBeGreaterThanOrEqual(count);
    expect(existsSync(out)).toBe(true);
    expect(readdirSync(folder).filter((name) => name.includes("unfinished"))).toEqual([]);
  },
);
