/**
 * A worker in this thread with a fake module: messages are cloned as `postMessage` clones them, and nothing is heard
 * of it any more once it was terminated.
 */
import { Engine } from "../../www/lib/engine/engine.ts";
import { Faults } from "../../www/lib/engine/faults.ts";
import { nextTask } from "../../www/lib/engine/next-task.ts";
import { IterisError } from "../../www/lib/errors.ts";
import type { WorkerLike } from "../../www/lib/worker/client.ts";
import { WorkerHost } from "../../www/lib/worker/host.ts";
import type { FromWorker, ToWorker } from "../../www/lib/worker/protocol.ts";
import { type FakeBehaviour, fakeWasm } from "./fake-wasm.ts";

/** For clients of workers that never ask for a helper. */
export function startNoHelper(): never {
  throw new Error("nobody asks for a helper here");
}

/** A worker in this thread. */
export class LocalWorker implements WorkerLike {
  onmessage: WorkerLike["onmessage"] = null;
  onerror: WorkerLike["onerror"] = null;
  onmessageerror: WorkerLike["onmessageerror"] = null;
  terminated = false;
  readonly faults = new Faults();
  readonly #host: WorkerHost;

  constructor(behaviour: FakeBehaviour, lastPanic: () => string | null, gpu?: GPU) {
    const engine = new Engine({
      loadWasm: async () => fakeWasm(behaviour),
      gpu: async () => gpu,
      gpuRemedy: "",
      faults: this.faults,
      nextTask,
      lastPanic,
    });
    const answer = (message: FromWorker) => {
      const data = structuredClone(message);
      setTimeout(() => !this.terminated && this.onmessage?.({ data } as MessageEvent<FromWorker>));
    };
    this.#host = new WorkerHost(engine, answer, {
      loseDevice: () => this.faults.raise(new IterisError("device_lost", "The GPU was lost.")),
      helperFailed: () => {},
    });
  }

  postMessage(message: ToWorker): void {
    const data = structuredClone(message);
    setTimeout(() => !this.terminated && this.#host.receive(data));
  }

  terminate(): void {
    this.terminated = true;
  }
}
