/**
 * The page's side: starts the worker when it is needed, queues calls, cancels, and replaces the worker after
 * a fault.
 *
 * What can go wrong: a worker that no longer answers. A call never depends on its good will: after
 * {@link patienceMilliseconds} without a reaction to `cancel` it is terminated, which frees its memory too.
 */
import { cancelled, IterisError, toIterisError } from "../errors.ts";
import { collectFiles, collectSamples } from "../sources/collect.ts";
import type {
  AdapterFacts,
  AdapterInput,
  BaseFacts,
  CompareRequest,
  CompareResult,
  DeviceChoice,
  DeviceRequest,
  FilesInput,
  MergeOptions,
  MergeRequest,
  MergeResult,
  Progress,
  RunControl,
  SamplesFacts,
  SamplesInput,
} from "../types.ts";
import type { Call, CallName, Calls, FromWorker, ToWorker, WireAdapter } from "./protocol.ts";

/** How long a cancelled call may take to stop by itself. */
const patienceMilliseconds = 10_000;

/** As much of a `Worker` as the client uses. */
export interface WorkerLike {
  postMessage(message: ToWorker): void;
  terminate(): void;
  onmessage: ((event: MessageEvent<FromWorker>) => void) | null;
  onerror: ((event: ErrorEvent) => void) | null;
  onmessageerror: ((event: MessageEvent) => void) | null;
}

interface Pending {
  id: number;
  onProgress: ((progress: Progress) => void) | undefined;
  resolve(answer: Calls[CallName]["answer"]): void;
  reject(error: IterisError): void;
}

function wireSamples(samples: SamplesInput | undefined) {
  return samples === undefined ? Promise.resolve(null) : collectSamples(samples);
}

async function wireAdapter(adapter: AdapterInput): Promise<WireAdapter> {
  const [files, samples, heldOut] = await Promise.all([
    collectFiles(adapter.files),
    wireSamples(adapter.samples),
    wireSamples(adapter.heldOut),
  ]);
  return { name: adapter.name, weight: adapter.weight, files, samples, heldOut };
}

/** Calls the engine in a worker. */
export class WorkerClient {
  readonly #start: () => WorkerLike;
  #worker: WorkerLike | null = null;
  #running: Pending | null = null;
  /** Settles when the last queued call has. */
  #last: Promise<unknown> = Promise.resolve();
  #ids = 0;

  constructor(start: () => WorkerLike) {
    this.#start = start;
  }

  async merge(request: MergeRequest): Promise<MergeResult> {
    const [base, adapters] = await Promise.all([
      collectFiles(request.base),
      Promise.all(request.adapters.map(wireAdapter)),
    ]);
    const ask = { base, adapters, options: request.options ?? {}, device: request.device ?? "auto" };
    return this.#call("merge", ask, request);
  }

  async compare(request: CompareRequest): Promise<CompareResult> {
    const [base, adapters, merged] = await Promise.all([
      collectFiles(request.base),
      Promise.all(request.adapters.map(wireAdapter)),
      Promise.all(
        request.merged.map(async ({ name, files }) => ({ name, files: await collectFiles(files) })),
      ),
    ]);
    const maxLength = request.options?.maxLength ?? null;
    const ask = { base, adapters, merged, maxLength, device: request.device ?? "auto" };
    return this.#call("compare", ask, request);
  }

  async inspectBase(files: FilesInput): Promise<BaseFacts> {
    return this.#call("inspectBase", await collectFiles(files));
  }

  async inspectAdapter(files: FilesInput): Promise<AdapterFacts> {
    return this.#call("inspectAdapter", await collectFiles(files));
  }

  async inspectSamples(samples: SamplesInput): Promise<SamplesFacts> {
    return this.#call("inspectSamples", await collectSamples(samples));
  }

  chooseDevice(request: DeviceRequest): Promise<DeviceChoice> {
    return this.#call("chooseDevice", request);
  }

  defaultOptions(): Promise<MergeOptions> {
    return this.#call("defaultOptions", null);
  }

  /** Terminates the worker; a running call rejects with `cancelled`. */
  release(): void {
    this.#retire(cancelled());
  }

  /** Makes the GPU go away, as a driver's reset would. For the package's own tests. */
  loseDevice(): void {
    this.#worker?.postMessage({ type: "lose-device" });
  }

  #call<Name extends CallName>(
    name: Name,
    ask: Calls[Name]["ask"],
    { onProgress, signal }: Pick<RunControl, "onProgress" | "signal"> = {},
  ): Promise<Calls[Name]["answer"]> {
    const queued = this.#last.then(() => this.#runNow({ name, ask } as Call, onProgress, signal));
    this.#last = queued.catch(() => {});
    return queued as Promise<Calls[Name]["answer"]>;
  }

  #runNow(
    call: Call,
    onProgress: Pending["onProgress"],
    signal: AbortSignal | undefined,
  ): Promise<Calls[CallName]["answer"]> {
    if (signal?.aborted) return Promise.reject(cancelled());
    this.#ids += 1;
    const id = this.#ids;
    const answered = new Promise<Calls[CallName]["answer"]>((resolve, reject) => {
      this.#running = { id, onProgress, resolve, reject };
    });
    let timer: ReturnType<typeof setTimeout> | undefined;
    const abort = () => {
      this.#worker?.postMessage({ type: "cancel", id });
      timer = setTimeout(() => this.#retire(cancelled()), patienceMilliseconds);
    };
    signal?.addEventListener("abort", abort, { once: true });
    try {
      this.#worker ??= this.#started();
      this.#worker.postMessage({ type: "call", id, call });
    } catch (thrown) {
      this.#retire(toIterisError(thrown));
    }
    return answered.finally(() => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    });
  }

  #started(): WorkerLike {
    const worker = this.#start();
    worker.onmessage = ({ data }) => {
      // A message that was on its way while the worker was terminated.
      if (worker === this.#worker) this.#receive(data);
    };
    worker.onerror = (event) => {
      const what = event.message || "its script or the wasm module cannot be loaded";
      this.#retire(new IterisError("internal", `Internal fault: the worker failed, ${what}`));
    };
    worker.onmessageerror = () => {
      this.#retire(new IterisError("internal", "Internal fault: the worker's answer cannot be read."));
    };
    return worker;
  }

  #receive(message: FromWorker): void {
    if (message.type === "broken") {
      this.#retire(new IterisError("internal", "Internal fault: the worker broke."));
      return;
    }
    const running = this.#running;
    if (running === null || message.id !== running.id) return;
    switch (message.type) {
      case "progress":
        running.onProgress?.(message.progress);
        return;
      case "done":
        this.#running = null;
        running.resolve(message.answer);
        return;
      case "failed":
        if (message.retire) {
          this.#retire(toIterisError(message.error));
        } else {
          this.#running = null;
          running.reject(toIterisError(message.error));
        }
    }
  }

  /** Terminates the worker, and the running call with it. */
  #retire(error: IterisError): void {
    this.#worker?.terminate();
    this.#worker = null;
    const running = this.#running;
    this.#running = null;
    running?.reject(error);
  }
}
