/** The thread that helps at a merge: the processor's other cores. The engine starts it. */
import { parentPort } from "node:worker_threads";
import { Faults } from "../lib/engine/faults.ts";
import { listenForPanics } from "../lib/engine/panics.ts";
import { type FromHelper, failedOutside, Share, type ToHelper } from "../lib/engine/share.ts";
import { toIterisError } from "../lib/errors.ts";
import type { IterisWasm } from "../lib/wasm-interface.ts";
import * as glue from "../wasm/iteris_web.js";
import { OpenFiles } from "./files.ts";

const files = new OpenFiles();
const faults = new Faults();

function post(message: FromHelper, handedOver: ArrayBuffer[]): void {
  parentPort?.postMessage(message, handedOver);
}

const share = new Share({
  wasm: glue as unknown as IterisWasm,
  open: (wired) => files.reopen(wired),
  post,
  faults,
  lastPanic: listenForPanics(console),
});

// A panic in a task that wasm spawned reaches nobody's `catch`.
function fail(thrown: unknown): void {
  if (faults.watched) faults.raise(toIterisError(thrown));
  else post(failedOutside(thrown), []);
}
process.on("uncaughtException", fail);
process.on("unhandledRejection", fail);

parentPort?.on("message", (message: ToHelper) => {
  void share.receive(message);
});
