/**
 * The module worker: owns the wasm module and the GPU, so that the page's thread never waits for either.
 *
 * A panic in a task that wasm spawned reaches nobody's `catch`; it arrives here as an `error` or `unhandledrejection`
 * event and must end the running call, which would wait for ever.
 */
import * as glue from "../../wasm/iteris_web.js";
import { DeviceWatch } from "../device/watch.ts";
import { Engine } from "../engine/engine.ts";
import { Faults } from "../engine/faults.ts";
import { nextTask } from "../engine/next-task.ts";
import { listenForPanics } from "../engine/panics.ts";
import { type IterisError, toIterisError } from "../errors.ts";
import type { IterisWasm } from "../wasm-interface.ts";
import { HelpersOfPage } from "./ask-page.ts";
import { WorkerHost } from "./host.ts";
import type { FromWorker, ToWorker } from "./protocol.ts";
import { mostResting, RestingHelpers } from "./resting-helpers.ts";

const scope = globalThis as unknown as {
  postMessage(message: FromWorker, handedOver: Transferable[]): void;
  addEventListener(type: string, listener: (event: never) => void): void;
  GPUAdapter?: { prototype: GPUAdapter };
};

const faults = new Faults();
function fail(error: IterisError): void {
  if (faults.watched) faults.raise(error);
  else scope.postMessage({ type: "broken" }, []);
}

const watch = new DeviceWatch(scope.GPUAdapter?.prototype);
watch.onFault(fail);

const { deviceMemory, hardwareConcurrency } = navigator as Navigator & { deviceMemory?: number };
const helpersOfPage = new HelpersOfPage((message, handedOver) => scope.postMessage(message, handedOver));
const helpers = new RestingHelpers(
  helpersOfPage.start,
  mostResting(hardwareConcurrency, deviceMemory),
  deviceMemory === undefined ? undefined : deviceMemory * 2 ** 30,
);

const engine = new Engine({
  async loadWasm() {
    const wasm = glue as unknown as IterisWasm;
    await wasm.default({ module_or_path: new URL("../../wasm/iteris_web_bg.wasm", import.meta.url) });
    return wasm;
  },
  gpu: async () => navigator.gpu,
  gpuRemedy: "Use the CPU device, or a browser and a driver with WebGPU.",
  faults,
  nextTask,
  lastPanic: listenForPanics(console),
  helpers,
});

const host = new WorkerHost(engine, (message) => scope.postMessage(message, []), {
  loseDevice: () => watch.destroyDevices(),
  helperFailed: (message) => helpersOfPage.failed(message),
});

scope.addEventListener("error", (event: ErrorEvent) => {
  event.preventDefault();
  fail(toIterisError(event.error ?? event.message));
});
scope.addEventListener("unhandledrejection", (event: PromiseRejectionEvent) => {
  event.preventDefault();
  fail(toIterisError(event.reason));
});
scope.addEventListener("message", (event: MessageEvent<ToWorker>) => {
  void host.receive(event.data);
});
