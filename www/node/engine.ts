/**
 * The engine in this process. Node has no page to keep responsive, so there is no worker; calls queue here.
 *
 * The wasm module exists once in a process. After a panic or a lost GPU it is not to be trusted again, and unlike a
 * browser's worker it cannot be replaced: later calls are refused.
 */
import { readFile } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { DeviceWatch } from "../lib/device/watch.ts";
import { Engine, retires } from "../lib/engine/engine.ts";
import { Faults } from "../lib/engine/faults.ts";
import { listenForPanics } from "../lib/engine/panics.ts";
import { cancelled, IterisError, toIterisError } from "../lib/errors.ts";
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

const engine = new Engine({
  async loadWasm() {
    // Loaded with the module itself, so that what only reads a command line or a recipe needs neither.
    const wasm = (await import("../wasm/iteris_web.js")) as unknown as IterisWasm;
    const bytes = await readFile(new URL("../wasm/iteris_web_bg.wasm", import.meta.url));
    await wasm.default({ module_or_path: bytes });
    return wasm;
  },
  gpu,
  gpuRemedy: nodeGpuRemedy,
  faults,
  // Unlike a promise, this lets the process see signals and timers.
  nextTask: () => setImmediate(),
  lastPanic: listenForPanics(console),
  helpers: helperHost,
});

let broken: IterisError | null = null;
let last: Promise<unknown> = Promise.resolve();

/** How long a cancelled call may take to stop by itself. */
const patienceMilliseconds = 10_000;

/** Ends a call that was cancelled and does not stop; the result stops watching. */
function endIfStuck(signal: AbortSignal | undefined): () => void {
  let patience: NodeJS.Timeout | undefined;
  const abort = () => {
    patience = setTimeout(() => {
      broken = new IterisError("internal", "Internal fault: a cancelled call did not stop.");
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
  if (broken !== null) {
    throw new IterisError(broken.code, `${broken.message} This process cannot go on; start a new one.`);
  }
  const stopListening = listenForTraps((trap) => {
    faults.raise(toIterisError(trap));
  });
  const stopWatching = endIfStuck(signal);
  try {
    return await work(engine);
  } catch (thrown) {
    const error = toIterisError(thrown);
    // A cancelled call has left the module in order.
    if (retires(error) && error.code !== "cancelled") broken = error;
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
