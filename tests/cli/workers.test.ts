/** Threads that share the layers of a merge: the same bytes, and what becomes of one that dies. Needs dist/. */
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
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
const [out, ...files] = process.argv.slice(2);
const adapters = files.map((path) => ({ name: path, files: path }));
for (let i = 0; i < 2; i += 1) {
  const folder = await OutputFolder.create(out);
  try {
    const { report } = await mergeInto({ adapters, options: { method: "svd" }, workers: 2 }, folder);
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

test.each(["svd", "ties"])("%s writes the same bytes, however many workers there are", async (method) => {
  const alone = await mergedBy("1", method);
  expect([await mergedBy("2", method), await mergedBy("4", method)]).toEqual([alone, alone]);
});

test("a thread that dies fails the merge, which leaves nothing; the next one has new threads", async () => {
  const out = join(folder, "dying");
  const said = await node("--input-type=module", "--eval", dying, join(dist, "node.js"), out, ...inputs);
  const [first, second] = said
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(first).toMatchObject({
    code: "internal",
    message: expect.stringContaining("a thread ended by itself"),
  });
  expect(second).toEqual({ layers: 40 });
  expect(existsSync(out)).toBe(true);
  expect(readdirSync(folder).filter((name) => name.includes("unfinished"))).toEqual([]);
});
