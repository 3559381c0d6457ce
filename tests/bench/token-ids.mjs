// The wasm module on the token ids of `random-model.mjs`, in a process of its own; models with random weights have no
// tokenizer. Prints JSON.
//
//     node token-ids.mjs merge FOLDER OUT OPTIONS        OUT: where the merged adapter goes; OPTIONS: as JSON
//     node token-ids.mjs generate FOLDER TOKENS          greedy answers of the base to the samples of the first task
//
// On the CPU; with ITERIS_BENCH_DEVICE=webgpu on the GPU, through the npm package `webgpu`.
import { appendFileSync, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import init, { Device, generate, merge } from "../../www/wasm/iteris_web.js";

const [command, folder = "", ...rest] = process.argv.slice(2);
await init({ module_or_path: readFileSync(new URL("../../www/wasm/iteris_web_bg.wasm", import.meta.url)) });
const device = process.env.ITERIS_BENCH_DEVICE === "webgpu" ? await webgpu() : Device.cpu();
const { tasks } = JSON.parse(readFileSync(join(folder, "samples.json"), "utf8"));
const said = command === "merge" ? await mergeTasks() : await answerFirst();
process.stdout.write(JSON.stringify({ ...said, peak_bytes: process.resourceUsage().maxRSS * 1024 }));

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
  console.error(`GPU: ${adapter.info.description || adapter.info.device || adapter.info.vendor}`);
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  return Device.webgpu(Math.min(maxBufferSize, maxStorageBufferBindingSize));
}

async function mergeTasks() {
  const [out = "", options = "{}"] = rest;
  const adapters = tasks.map((/** @type {any} */ { name, ids, answers }) => ({
    name,
    files: filesOf(join(folder, name)),
    samples: { ...ragged(ids), truncated: 0, ...(answers && answersOf(answers)) },
  }));
  const request = { base: filesOf(join(folder, "base")), adapters, options: JSON.parse(options) };
  return merge(request, device, {
    progress: async () => true,
    async write(/** @type {string} */ file, /** @type {Uint8Array} */ bytes) {
      appendFileSync(join(out, file), bytes);
    },
  });
}

async function answerFirst() {
  const request = {
    base: filesOf(join(folder, "base")),
    variants: [{ name: "base" }],
    prompts: ragged(tasks[0].ids),
    options: { maxNewTokens: Number(rest[0]), temperature: 0, topP: 1, seed: 0 },
  };
  const seconds = { prompts: 0, writing: 0 };
  let last = performance.now();
  const { tokens } = await generate(request, device, {
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
  return { tokens, seconds };
}

/** @param {string} path */
function filesOf(path) {
  return readdirSync(path).map((name) => {
    const file = openSync(join(path, name), "r");
    return {
      name,
      size: statSync(join(path, name)).size,
      async read(/** @type {number} */ start, /** @type {number} */ end) {
        const bytes = new Uint8Array(end - start);
        for (let done = 0; done < bytes.length; )
          done += readSync(file, bytes, done, bytes.length - done, start + done);
        return bytes;
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
