/** The module worker that helps at a merge: the processor's other cores. The page starts it beside its worker. */
import * as glue from "../../wasm/iteris_web.js";
import { Faults } from "../engine/faults.ts";
import { listenForPanics } from "../engine/panics.ts";
import { type FromHelper, failedOutside, Share, type ToHelper } from "../engine/share.ts";
import { IterisError, toIterisError } from "../errors.ts";
import { openFiles } from "../sources/open.ts";
import type { IterisWasm } from "../wasm-interface.ts";
import type { ToHelperWorker } from "./protocol.ts";

const scope = globalThis as unknown as {
  addEventListener(type: string, listener: (event: never) => void): void;
};

/** To the worker that is helped; the page hands it over first of all. */
let port: MessagePort | undefined;

const faults = new Faults();
const share = new Share({
  wasm: glue as unknown as IterisWasm,
  open: openFiles,
  post,
  faults,
  lastPanic: listenForPanics(console),
});

function post(message: FromHelper, handedOver: ArrayBuffer[]): void {
  port?.postMessage(message, handedOver);
}

function connect(to: MessagePort): void {
  port = to;
  to.onmessage = ({ data }: MessageEvent<ToHelper>) => void share.receive(data);
  to.onmessageerror = () => fail(new IterisError("internal", "Internal fault: a question cannot be read."));
  post({ type: "ready" }, []);
}

// A panic in a task that wasm spawned reaches nobody's `catch`.
function fail(thrown: unknown): void {
  if (faults.watched) faults.raise(toIterisError(thrown));
  else post(failedOutside(thrown), []);
}

scope.addEventListener("error", (event: ErrorEvent) => {
  event.preventDefault();
  fail(event.error ?? event.message);
});
scope.addEventListener("unhandledrejection", (event: PromiseRejectionEvent) => {
  event.preventDefault();
  fail(event.reason);
});
scope.addEventListener("message", ({ data }: MessageEvent<ToHelperWorker>) => {
  if (data.type === "connect") connect(data.port);
  else void share.receive(data);
});
scope.addEventListener("messageerror", () => {
  fail(new IterisError("internal", "Internal fault: a job cannot be read."));
});
