// A model of a published shape with random weights: our sweep, the same core compiled natively, and the
// published algorithm in PyTorch, on the same files and samples.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { peersFolder, root } from "../../xtask/paths.mjs";
import { nativeRust } from "../../xtask/steps/rust.mjs";
import { writeRandomModel } from "./random-model.mjs";
import { shapes } from "./shapes.mjs";
import { gigaflops, lastLine, mebibytes, printTable } from "./table.mjs";

/** Tokens of the generation measurement. */
const NEW_TOKENS = 16;
const phases = ["load", "generate", "forward", "gram", "wait", "solve", "write", "total"];

/**
 * @typedef {{ seconds: Record<string, number>, operations?: Record<string, number>, peak_bytes: number, tokens?: number,
 *   difference?: number, threads?: number }} Measured
 */

/**
 * @param {{ name: string, targets: string, rank?: number | undefined, passes: number, only: Set<string>,
 *   workers: number[], machine: string }} options `rank`: if not the shape's own; `passes`: of the peer; `workers`: how
 *   many, one measurement each
 */
export async function benchShape({ name, targets, rank: asked, passes, only, workers, machine }) {
  const shape = shapes[name];
  if (!shape) throw new Error(`--shape ${name}: one of ${Object.keys(shapes).join(", ")}`);
  const work = mkdtempSync(join(tmpdir(), "iteris-bench-"));
  try {
    const { tasks, samples, tokens, answer } = shape.calibration;
    const rank = asked ?? shape.rank ?? 8;
    const each = shape.picture
      ? `pictures each, which are ${tokens} tokens`
      : `samples each of ${tokens} tokens`;
    console.log(
      `${shape.title}, random weights; ${tasks} adapters (${targets}, rank ${rank}), ${samples} ${each}${answer ? ` and an answer of ${answer}` : ""}\n${machine}\n`,
    );
    checkAgreement(work);
    const folder = join(work, name);
    writeRandomModel(shape, folder, { targets, rank });
    // Every row that is computed for a sample once: its tokens, and what the decoder reads.
    const rows = tasks * samples * (tokens + answer);
    // Neither reads pictures.
    if (shape.picture) for (const part of ["native", "generate"]) only.delete(part);
    if (["sweep", "webgpu", "native", "published"].some((part) => only.has(part))) {
      await benchMerges({ folder, work, rows, passes, only, workers, blocks: shape.blocks });
    }
    if (only.has("generate")) benchGeneration({ folder, prompts: samples, tokens, workers });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/**
 * @param {{ folder: string, work: string, rows: number, passes: number, only: Set<string>, workers: number[],
 *   blocks?: { measured: number, whole: number } | undefined }} options
 */
async function benchMerges({ folder, work, rows, passes, only, workers, blocks }) {
  const heading = ["load s", "answers", "forward", "Gram", "wait", "solve", "write", "total"];
  const table = [
    ["", ...heading, "tokens/s", "rows/s forward", "GFLOP/s forward", "Gram", "peak MiB", "machine load"],
  ];
  /** @param {string} title @param {number} lanes runs of the model over the samples @param {Measured | string} measured */
  const add = (title, lanes, measured) => {
    if (typeof measured === "string") return table.push([title, measured]);
    const { seconds, operations = {}, peak_bytes } = measured;
    return table.push([
      title,
      ...phases.map((phase) => seconds[phase]?.toFixed(2) ?? "0.00"),
      (rows / (seconds.total ?? 0)).toFixed(0),
      ((rows * lanes) / (seconds.forward ?? 0)).toFixed(0),
      gigaflops(operations.forward ?? 0, seconds.forward ?? 0),
      gigaflops(operations.gram ?? 0, seconds.gram ?? 0),
      mebibytes(peak_bytes),
      loadavg()[0]?.toFixed(1) ?? "",
    ]);
  };
  /** @type {{ count: number, measured: Measured }[]} */
  const byBlock = [];
  if (only.has("sweep")) {
    for (const count of workers) {
      const out = join(work, `merged-by-${count}`);
      const measured = wasm(folder, out, {}, "cpu", count);
      add(`sweep, wasm in Node, workers: ${count}`, 2, measured);
      if (blocks && typeof measured !== "string") byBlock.push({ count, measured });
    }
  }
  if (only.has("webgpu")) {
    add("sweep, WebGPU in Node", 2, wasm(folder, join(work, "on-gpu"), {}, "webgpu"));
  }
  if (only.has("native")) add("sweep, native, 1 core", 2, await native(folder));
  if (only.has("published")) {
    const measured = published(folder, ["--passes", String(passes)]);
    const cores = typeof measured === "string" ? "" : `, ${measured.threads} cores`;
    add(`published, PyTorch${cores}, ${passes} ${passes === 1 ? "pass" : "passes"}`, passes, measured);
    // Loading and writing happen once; all else is done again in every pass.
    if (passes !== 10 && typeof measured !== "string") {
      const { load = 0, total = 0, write = 0 } = measured.seconds;
      const ten = load + write + ((total - load - write) * 10) / passes;
      table.push([`published, extrapolated to 10 passes, NOT measured: ${ten.toFixed(0)} s in all`]);
    }
  }
  printTable(table);
  console.log(
    `\ntokens/s: the samples' ${rows} tokens (answers among them, and those of pictures) in the total time; rows/s forward: rows of every lane or pass in the forward time; machine load: the mean of the minute at the end of the row\n`,
  );
  if (blocks) for (const { count, measured } of byBlock) printBlocks(count, measured, blocks);
}

/**
 * A block of a part of a model, and the whole model by multiplication.
 * @param {number} workers
 * @param {Measured} measured
 * @param {{ measured: number, whole: number }} blocks
 */
function printBlocks(workers, { seconds, operations = {}, peak_bytes }, { measured, whole }) {
  console.log(`by stage, workers: ${workers}; at most ${mebibytes(peak_bytes)} MiB`);
  printTable([
    ["", "s", "s a block", "GFLOP/s", `s of ${whole} blocks, by multiplication`],
    ...phases.map((phase) => {
      const all = seconds[phase] ?? 0;
      const times = [all, all / measured, (all * whole) / measured].map((time) => time.toFixed(1));
      const [sum = "", one = "", model = ""] = times;
      return [phase, sum, one, gigaflops(operations[phase] ?? 0, all), model];
    }),
  ]);
  console.log("");
}

/** One worker, and as many as there are cores. */
export function workerCounts() {
  const cores = availableParallelism();
  return cores > 1 ? [1, cores] : [1];
}

/** @param {{ folder: string, prompts: number, tokens: number, workers: number[] }} options */
function benchGeneration({ folder, prompts, tokens, workers }) {
  const table = [
    ["greedy generation", "load and prompts s", "writing s", "new tokens/s writing", "peak MiB"],
  ];
  /** @param {string} title @param {Measured | string} measured */
  const add = (title, measured) => {
    if (typeof measured === "string") return table.push([title, measured]);
    const { prompts: reading = 0, writing = 0 } = measured.seconds;
    // The first token of each answer comes with its prompt.
    const rate = ((measured.tokens ?? 0) - prompts) / writing;
    const numbers = [reading.toFixed(2), writing.toFixed(2), rate.toFixed(1)];
    return table.push([title, ...numbers, mebibytes(measured.peak_bytes)]);
  };
  const args = [join(import.meta.dirname, "token-ids.mjs"), "generate", folder, String(NEW_TOKENS)];
  for (const count of workers) {
    const env = { ...process.env, ITERIS_BENCH_WORKERS: String(count) };
    add(`wasm in Node, workers: ${count}`, child(args, process.execPath, env));
  }
  add("transformers", published(folder, ["--generate", String(NEW_TOKENS)]));
  printTable(table);
  console.log(`\n${prompts} prompts of ${tokens} tokens at once, ${NEW_TOKENS} new tokens each`);
}

/** Both sides must compute the same thing: on tiny shapes, one pass of each. @param {string} work */
function checkAgreement(work) {
  for (const name of ["tiny", "tiny-llama", "tiny-vit", "tiny-blip"]) {
    const [shape, folder, out] = [
      shapes[name],
      join(work, `check-${name}`),
      join(work, `check-${name}-merged`),
    ];
    if (!shape) continue;
    writeRandomModel(shape, folder, { targets: "all-linear", rank: 4 });
    const ours = wasm(folder, out, { schedule: "iterate", maxIter: 1 });
    const theirs = typeof ours === "string" ? ours : published(folder, ["--passes", "1", "--against", out]);
    const found = typeof theirs === "string" ? theirs : theirs.difference?.toExponential(1);
    console.log(`${name}, one pass of both: largest relative difference of a layer's merged delta: ${found}`);
  }
  console.log("");
}

/**
 * @param {string} folder
 * @param {string} out
 * @param {object} options of the merge
 * @param {"cpu" | "webgpu"} [device]
 * @param {number} [workers]
 */
function wasm(folder, out, options, device = "cpu", workers = 1) {
  mkdirSync(out, { recursive: true });
  const args = [join(import.meta.dirname, "token-ids.mjs"), "merge", folder, out, JSON.stringify(options)];
  const env = { ITERIS_BENCH_DEVICE: device, ITERIS_BENCH_WORKERS: String(workers) };
  return child(args, process.execPath, { ...process.env, ...env });
}

/** @param {string} folder */
async function native(folder) {
  const { cargo, env } = await nativeRust();
  const build = ["--quiet", "--locked", "--example", "native_bench"];
  return child(["run", ...build, "--", "model", folder], cargo, { ...process.env, ...env });
}

/** Where `npm run test:peers` has made the environment. @param {string} folder @param {string[]} args */
function published(folder, args) {
  const python = join(peersFolder, "bin/python");
  if (!existsSync(python)) return "npm run test:peers makes its environment";
  return child([join(import.meta.dirname, "published.py"), folder, ...args], python);
}

/**
 * What a command says, or why it failed.
 * @param {string[]} args
 * @param {string} [command]
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {Measured | string}
 */
function child(args, command = process.execPath, env = process.env) {
  const result = spawnSync(command, args, { cwd: root, encoding: "utf8", env, maxBuffer: 2 ** 28 });
  return result.status === 0 ? JSON.parse(result.stdout) : lastLine(result);
}
