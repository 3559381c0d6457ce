/** What a plan says of a merge, against what the merge then takes. Needs dist/. */
import { execFile } from "node:child_process";
import { createWriteStream, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { root } from "../../xtask/paths.mjs";
import { randomAdapter } from "../bench/random-adapter.mjs";
import { writeRandomAdapter } from "../random-adapter.ts";

const library = join(import.meta.dirname, "../../dist/node.js");

/**
 * Plans, merges into a folder and plans once more, in a process of its own: the module's memory never shrinks, so its
 * peak would be that of whatever ran before.
 */
const script = `
const { mergeInto, OutputFolder, planMerge } = await import(process.argv[1]);
const request = JSON.parse(process.argv[2]);
const before = await planMerge(request);
const folder = await OutputFolder.create(process.argv[3]);
const start = performance.now();
const { report } = await mergeInto({ ...request, device: "cpu" }, folder);
await folder.finish();
const seconds = (performance.now() - start) / 1000;
const after = await planMerge(request);
console.log(JSON.stringify({ before, after, seconds, peak: report.peak_bytes, files: report.output }));
`;

let folder: string;
let sdxl: string[];
let square: string[];
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "iteris-plan-"));
  const table = JSON.parse(readFileSync(join(root, "tests/bench/data/sdxl.json"), "utf8"));
  sdxl = ["one", "two"].map((name) => join(folder, `${name}.safetensors`));
  for (const [index, path] of sdxl.entries()) {
    await pipeline(
      Readable.from(randomAdapter(table, { rank: 16, seed: index + 1 })),
      createWriteStream(path),
    );
  }
  // Enough of them that starting a worker is no large part of it.
  square = ["three", "four"].map((name, index) =>
    writeRandomAdapter(join(folder, name), { modules: 16, width: 2048, rank: 16, seed: index + 1 }),
  );
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Between half and twice as much, as a plan is to be read. */
function expectNear(what: string, planned: number, happened: number): void {
  expect(planned / happened, `${what}: planned ${planned}, was ${happened}`).toBeGreaterThan(0.5);
  expect(planned / happened, `${what}: planned ${planned}, was ${happened}`).toBeLessThan(2);
}

// Bytes and memory are the same in every run. Seconds are not: a machine that is busy with other programs has other
// rates from one moment to the next. So the plan is made right before and right after, in the same process, and their
// mean, which is what the machine could do around the merge, is held against it; where all that is not enough, once more.
test.each([
  ["linear", () => sdxl, { method: "linear" }],
  ["svd", () => sdxl, { method: "svd", rank: 16 }],
  ["ties", () => square, { method: "ties" }],
])(
  "bytes, memory and seconds of %s are within a factor of 2 of the plan",
  {
    retry: 1,
    timeout: 300_000,
  },
  async (name, paths, options) => {
    const adapters = paths().map((files, index) => ({ name: `adapter ${index}`, files }));
    const out = join(folder, `${name} ${performance.now()}`);
    const line = ["--input-type=module", "--eval", script, library];
    const request = JSON.stringify({ adapters, options });
    const { stdout } = await promisify(execFile)(process.execPath, [...line, request, out]);
    const { before, after, seconds, peak, files } = JSON.parse(stdout);
    const weights = files.find(({ name }: { name: string }) => name.endsWith(".safetensors"));
    expectNear("bytes written", before.bytesWritten, weights.bytes);
    expectNear("peak memory", before.peakBytes, peak);
    expect(before.peakBytes).toBe(after.peakBytes);
    expectNear("seconds", (before.seconds + after.seconds) / 2, seconds);
  },
);
