// The wasm module on the samples of `random-model.mjs`, in a process of its own; models with random weights have no
// tokenizer. Prints JSON.
//
//     node token-ids.mjs merge FOLDER OUT OPTIONS        OUT: where the merged adapter goes; OPTIONS: as JSON
//     node token-ids.mjs generate FOLDER TOKENS          greedy answers of the base to the samples of the first task
//
// On the CPU, shared out to ITERIS_BENCH_WORKERS threads (1); with ITERIS_BENCH_DEVICE=webgpu on the GPU, through the npm
// package `webgpu`.
import { appendFileSync, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import init, { Device, generate, merge, solveShare } from "../../www/wasm/iteris_web.js";

const [command = "", folder = "", ...rest] = process.argv.slice(2);
const workerCount = Number(process.env.ITERIS_BENCH_WORKERS ?? 1);
await init({ module_or_path: readFileSync(new URL("../../www/wasm/iteris_web_bg.wasm", import.meta.url)) });
const { tasks } = JSON.parse(readFileSync(join(folder, "samples.json"), "utf8"));
if (isMainThread) {
  const device = process.env.ITERIS_BENCH_DEVICE === "webgpu" ? await webgpu() : Device.cpu();
  const said = command === "merge" ? await mergeTasks(device) : await answerFirst(device);
  process.stdout.write(JSON.stringify({ ...said, peak_bytes: process.resourceUsage().maxRSS * 1024 }));
} else {
  await help();
}

/** As `www/node/gpu.ts` starts it. */
async function webgpu() {
  const name = "webgpu";
  const { create, globals } = await import(name);
  Object.assign(globalThis, globals);
  const gpu = create([]);
  const place = /** @type {any} */ (globalThis);
  if (place.navigator === undefined) Object.defineProperty(place, "navigator", { value: {} });
  Object.defineProperty(place.navigator, "gpu", { value: gpu });
  place.WorkerGlobalScope ??= class {};
  const adapter = await gpu.requestAdapter();
  if (adapter === null) throw new Error("there is no GPU that WebGPU can use");
  const { description, device, vendor } = adapter.info;
  const called = description || device || vendor;
  console.error(`GPU: ${called}`);
  return Device.webgpu(called);
}

function mergeRequest() {
  const [, options = "{}"] = rest;
  const adapters = tasks.map((/** @type {any} */ { name, ids, answers }) => ({
    name,
    files: filesOf(join(folder, name)),
    samples: {
      ...(ids === null
        ? { pictures: filesOf(join(folder, `${name}.samples`)) }
        : { ...ragged(ids), truncated: 0 }),
      ...(answers && answersOf(answers)),
    },
  }));
  return { base: filesOf(join(folder, "base")), adapters, options: JSON.parse(options) };
}

/** @param {Device} device */
async function mergeTasks(device) {
  const [out = ""] = rest;
  const workers = team(workerCount);
  const report = await merge(mergeRequest(), device, {
    progress: async () => true,
    async write(/** @type {string} */ file, /** @type {Uint8Array} */ bytes) {
      appendFileSync(join(out, file), bytes);
    },
    workers,
  });
  workers.end();
  return report;
}

/**
 * Threads that run this file. One asks another in the order of its answers.
 * @param {number} count this one among them
 */
function team(count) {
  /** @type {{ thread: Worker, answers: ((answer: Uint8Array) => void)[] }[]} */
  const members = [];
  return {
    exactly: count - 1,
    start(/** @type {number} */ started) {
      for (let at = 0; at < started; at += 1) {
        const thread = new Worker(new URL(import.meta.url), { argv: process.argv.slice(2) });
        const member = { thread, answers: /** @type {((answer: Uint8Array) => void)[]} */ ([]) };
        thread.on("message", (answer) => member.answers.shift()?.(answer));
        members.push(member);
      }
    },
    ask(/** @type {number} */ worker, /** @type {Uint8Array} */ question) {
      const member = members[worker];
      if (member === undefined) throw new Error("there is no such worker");
      member.thread.postMessage(question);
      return new Promise((resolve) => member.answers.push(resolve));
    },
    end: () => Promise.all(members.map(({ thread }) => thread.terminate())),
  };
}

/** What such a thread does. */
async function help() {
  /** @type {Uint8Array[]} */
  const asked = [];
  let wake = () => {};
  parentPort?.on("message", (question) => {
    asked.push(question);
    wake();
  });
  await solveShare(command, command === "merge" ? mergeRequest() : generateRequest(), {
    async next() {
      while (asked.length === 0) {
        await new Promise((/** @type {(_: void) => void} */ resolve) => {
          wake = resolve;
        });
      }
      return asked.shift();
    },
    answer: async (/** @type {Uint8Array} */ answer) =>
      parentPort?.postMessage(answer, [/** @type {ArrayBuffer} */ (answer.buffer)]),
  });
}

function generateRequest() {
  return {
    base: filesOf(join(folder, "base")),
    variants: [{ name: "base" }],
    prompts: ragged(tasks[0].ids),
    options: { maxNewTokens: Number(rest[0]), temperature: 0, topP: 1, seed: 0 },
  };
}

/** @param {Device} device */
async function answerFirst(device) {
  const seconds = { prompts: 0, writing: 0 };
  let last = performance.now();
  const workers = team(workerCount);
  const { tokens } = await generate(generateRequest(), device, {
    workers,
    async progress(/** @type {{ stage: string, layer: string }} */ { stage, layer }) {
      const now = performance.now();
      // What ends with an answer's first token is loading and reading of prompts, which go in several batches.
      const first = stage !== "generate" || Number(layer.match(/\d+/)?.[0]) === 1;
      seconds[first ? "prompts" : "writing"] += (now - last) / 1e3;
      last = now;
      return true;
    },
    write: async () => {},
  });
  seconds.writing += (performance.now() - last) / 1e3;
  workers.end();
  return { tokens, seconds };
}

/** @param {string} path */
function filesOf(path) {
  return readdirSync(path).map((name) => {
    const file = openSync(join(path, name), "r");
    return {
      name,
      size: statSync(join(path, name)).size,
      // As `www/node/files.ts` reads.
      readInto(
        /** @type {number} */ start,
        /** @type {number} */ end,
        /** @type {WebAssembly.Memory} */ { buffer },
        /** @type {number} */ address,
      ) {
        const bytes = new Uint8Array(buffer, address, end - start);
        for (let done = 0; done < bytes.length; )
          done += readSync(file, bytes, done, bytes.length - done, start + done);
      },
    };
  });
}

/** @param {number[][]} rows */
function ragged(rows) {
  return { ids: Uint32Array.from(rows.flat()), lengths: Uint32Array.from(rows, (row) => row.length) };
}

/** @param {number[][]} rows */
function answersOf(rows) {
  const { ids, lengths } = ragged(rows);
  return { answers: ids, answerLengths: lengths };
}
