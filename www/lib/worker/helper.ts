/** The module worker that helps at a merge: the processor's other cores. The worker of the page starts it. */
import * as glue from "../../wasm/iteris_web.js";
import { Faults } from "../engine/faults.ts";
import { listenForPanics } from "../engine/panics.ts";
import { type FromHelper, failedOutside, Share, type ToHelper } from "../engine/share.ts";
import { toIterisError } from "../errors.ts";
import { openFiles } from "../sources/open.ts";
import type { IterisWasm } from "../wasm-interface.ts";

const scope = globalThis as unknown as {
  postMessage(message: FromHelper, handedOver: ArrayBuffer[]): void;
  addEventListener(type: string, listener: (event: never) => void): void;
};

const faults = new Faults();
const share = new Share({
  wasm: glue as unknown as IterisWasm,
  open: openFiles,
  post: (message, handedOver) => scope.postMessage(message, handedOver),
  faults,
  lastPanic: listenForPanics(console),
});

// A panic in a task that wasm spawned reaches nobody's `catch`.
function fail(thrown: unknown): void {
  if (faults.watched) faults.raise(toIterisError(thrown));
  else scope.postMessage(failedOutside(thrown), []);
}

scope.addEventListener("error", (event: ErrorEvent) => {
  event.preventDefault();
  fail(event.error ?? event.message);
});
scope.addEventListener("unhandledrejection", (event: PromiseRejectionEvent) => {
  event.preventDefault();
  fail(event.reason);
});
scope.addEventListener("message", (event: MessageEvent<ToHelper>) => {
  void share.receive(event.data);
});
