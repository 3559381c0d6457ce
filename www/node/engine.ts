/**
 * The engine in this process. Node has no page to keep responsive, so there is no worker; calls queue here.
 *
 * After a panic or a lost GPU an instance of the module is not to be trusted again: the next call gets another.
 */
import { readFile } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { DeviceWatch } from "../lib/device/watch.ts";
import { Engine, retires } from "../lib/engine/engine.ts";
import { Faults } from "../lib/engine/faults.ts";
import { listenForPanics } from "../lib/engine/panics.ts";
import { cancelled, toIterisError } from "../lib/errors.ts";
import type { IterisWasm } from "../lib/wasm-interface.ts";
import { nodeGpu, nodeGpuRemedy } from "./gpu.ts";
import { helperHost } from "./start-helper.ts";
import { listenForTraps } from "./traps.ts";

const faults = new Faults();
let watch: DeviceWatch | null = null;

async function gpu(): Promise<GPU | undefined> {
  const found = await nodeGpu();
  if (found !== undefined && watch === null) {
    const { GPUAdapter } = globalThis as { GPUAdapter?: { prototype: GPUAdapter } };
    watch = new DeviceWatch(GPUAdapter?.prototype);
    watch.onFault((fault) => faults.raise(fault));
  }
  return found;
}

const lastPanic = listenForPanics(console);

/** The module that an engine before this one had. */
let loaded: IterisWasm | null = null;

const newEngine = () =>
  new Engine({
    async loadWasm() {
      if (loaded !== null) {
        loaded.__wbg_reset_state();
        return loaded;
      }
      // Loaded with the module itself, so that what only reads a command line or a recipe needs neither.
      const wasm = (await import("../wasm/iteris_web.js")) as unknown as IterisWasm;
      const bytes = await readFile(new URL("../wasm/iteris_web_bg.wasm", import.meta.url));
      // Not the glue's asynchronous way, which holds its first instance, and so its memory, for ever.
      wasm.initSync({ module: await WebAssembly.compile(bytes) });
      loaded = wasm;
      return wasm;
    },
    gpu,
    gpuRemedy: nodeGpuRemedy,
    faults,
    // Unlike a promise, this lets the process see signals and timers.
    nextTask: () => setImmediate(),
    lastPanic,
    helpers: helperHost,
  });

let engine = newEngine();
let last: Promise<unknown> = Promise.resolve();

/** How long a cancelled call may take to stop by itself. */
const patienceMilliseconds = 10_000;

/** Ends a call that was cancelled and does not stop; the result stops watching. */
function endIfStuck(signal: AbortSignal | undefined): () => void {
  let patience: NodeJS.Timeout | undefined;
  const abort = () => {
    patience = setTimeout(() => {
      engine = newEngine();
      faults.raise(cancelled());
    }, patienceMilliseconds);
  };
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort, { once: true });
  return () => {
    clearTimeout(patience);
    signal?.removeEventListener("abort", abort);
  };
}

async function runAlone<T>(work: (engine: Engine) => Promise<T>, signal?: AbortSignal): Promise<T> {
  const stopListening = listenForTraps((trap) => {
    faults.raise(toIterisError(trap));
  });
  const stopWatching = endIfStuck(signal);
  try {
    return await work(engine);
  } catch (thrown) {
    const error = toIterisError(thrown);
    // A cancelled call has left the module in order.
    if (retires(error) && error.code !== "cancelled") engine = newEngine();
    throw error;
  } finally {
    stopWatching();
    stopListening();
  }
}

/** Runs `work` when the calls before it have ended; `signal` is what `work` itself listens to. */
export function withEngine<T>(work: (engine: Engine) => Promise<T>, signal?: AbortSignal): Promise<T> {
  const queued = last.then(() => runAlone(work, signal));
  last = queued.catch(() => {});
  return queued;
}
