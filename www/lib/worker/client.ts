/**
 * The page's side: starts the worker when it is needed, and those that help it when it asks for them, queues calls,
 * cancels, and replaces all of them after a fault.
 *
 * No call depends on the worker's good will, since one may no longer answer: after {@link patienceMilliseconds}
 * without a reaction to `cancel` it is terminated, which frees its memory too.
 */
import { readPrompts, readVariants } from "../engine/generate-request.ts";
import { readMethods } from "../engine/methods-request.ts";
import { onCpuInstead } from "../engine/place.ts";
import { cancelled, IterisError, toIterisError } from "../errors.ts";
import { collectImages } from "../samples/images.ts";
import { isSelf, readSelf } from "../samples/self.ts";
import { readSampling } from "../sampling.ts";
import { collectFiles, collectSamples } from "../sources/collect.ts";
import { ofNames } from "../sources/names.ts";
import type {
  AdapterFacts,
  AdapterInput,
  BaseFacts,
  CompareMethodsRequest,
  CompareMethodsResult,
  CompareRequest,
  CompareResult,
  ComparisonControl,
  DeviceChoice,
  DeviceRequest,
  DigestControl,
  FilesInput,
  GenerateRequest,
  GenerateResult,
  MergeOptions,
  MergePlan,
  MergeRequest,
  MergeResult,
  PlanRequest,
  ReportFile,
  RunControl,
  SamplesFacts,
  SamplesInput,
} from "../types.ts";
import { takePageDisk } from "./page-disk.ts";
import { type HelperWorker, PageHelpers } from "./page-helpers.ts";
import type {
  Call,
  CallEvent,
  CallName,
  Calls,
  FromWorker,
  ToWorker,
  WireAdapter,
  WireComparison,
  WirePlace,
} from "./protocol.ts";

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

/** Who watches a call, and can stop it. */
type Control = Pick<RunControl, "onProgress" | "signal"> &
  Pick<CompareMethodsRequest, "onVariant" | "onTask" | "onFailure">;

/** A call that waits or runs. */
interface Pending {
  id: number;
  call: Call;
  /** Whether its caller has been told of something that it made, which must not be made twice. */
  told: boolean;
  control: Control;
  onAbort: () => void;
  /** Runs from the abort of a running call to its end. */
  patience: ReturnType<typeof setTimeout> | undefined;
  resolve(answer: Calls[CallName]["answer"]): void;
  reject(error: IterisError): void;
}

function wireSamples(samples: SamplesInput | undefined) {
  return samples === undefined ? Promise.resolve(null) : collectSamples(samples);
}

async function wireAdapter(adapter: AdapterInput): Promise<WireAdapter> {
  const [files, samples, heldOut] = await Promise.all([
    collectFiles(adapter.files),
    isSelf(adapter.samples) ? readSelf(adapter.samples) : wireSamples(adapter.samples),
    wireSamples(adapter.heldOut),
  ]);
  return { name: adapter.name, weight: adapter.weight, files, samples, heldOut };
}

function wireNamed(list: readonly { name: string; files: FilesInput }[]) {
  return Promise.all(list.map(async ({ name, files }) => ({ name, files: await collectFiles(files) })));
}

function wireComparison({ tasks, labels, onTask }: ComparisonControl): WireComparison {
  return { tasks, labels, taskByTask: onTask !== undefined };
}

/** Where the work is done. */
function wirePlace({ device = "auto", workers }: RunControl): WirePlace {
  return { device, workers };
}

/** Tells the caller of a call what its worker tells. */
function tell({ onProgress, onVariant, onFailure, onTask }: Control, event: CallEvent): void {
  switch (event.name) {
    case "progress":
      onProgress?.(event.value);
      break;
    case "variant":
      onVariant?.(event.value);
      break;
    case "failure":
      onFailure?.(event.value);
      break;
    case "task":
      onTask?.(event.value);
  }
}

/** Calls the engine in a worker. */
export class WorkerClient {
  readonly #start: () => WorkerLike;
  readonly #startHelper: () => HelperWorker;
  readonly #queue: Pending[] = [];
  #worker: WorkerLike | null = null;
  #helpers: PageHelpers | null = null;
  #running: Pending | null = null;
  #ids = 0;
  #pageDisk: Promise<string | null> | null = null;

  /**
   * @param start - starts the worker
   * @param startHelper - starts a worker that helps it
   */
  constructor(start: () => WorkerLike, startHelper: () => HelperWorker) {
    this.#start = start;
    this.#startHelper = startHelper;
  }

  async merge(request: MergeRequest): Promise<MergeResult> {
    const [base, adapters, disk] = await Promise.all([
      collectFiles(request.base ?? []),
      Promise.all(request.adapters.map(wireAdapter)),
      this.#disk(),
    ]);
    const { options = {}, average } = request;
    const ask = { base, adapters, options, average, disk, ...wirePlace(request), ...wireComparison(request) };
    return this.#call("merge", ask, request);
  }

  async planMerge({ base = [], adapters, options = {}, workers }: PlanRequest): Promise<MergePlan> {
    const [baseFiles, wired] = await Promise.all([
      collectFiles(base),
      Promise.all(
        adapters.map(async ({ name, files, weight }) => ({ name, weight, files: await collectFiles(files) })),
      ),
    ]);
    return this.#call("planMerge", { base: baseFiles, adapters: wired, options, workers });
  }

  async compare(request: CompareRequest): Promise<CompareResult> {
    const [base, adapters, merged] = await Promise.all([
      collectFiles(request.base),
      Promise.all(request.adapters.map(wireAdapter)),
      wireNamed(request.merged),
    ]);
    const { labels } = request;
    const { maxLength = null, maxNewTokens = null } = request.options ?? {};
    const ask = { base, adapters, merged, maxLength, maxNewTokens, labels, ...wirePlace(request) };
    return this.#call("compare", ask, request);
  }

  async compareMethods(request: CompareMethodsRequest): Promise<CompareMethodsResult> {
    const variants = readMethods(request);
    const [base, adapters, merged, disk] = await Promise.all([
      collectFiles(request.base),
      Promise.all(request.adapters.map(wireAdapter)),
      wireNamed(request.merged ?? []),
      this.#disk(),
    ]);
    const { options = {}, failures } = request;
    const inputs = { base, adapters, variants, merged };
    const ask = { ...inputs, options, failures, disk, ...wirePlace(request), ...wireComparison(request) };
    return this.#call("compareMethods", ask, request);
  }

  async generate(request: GenerateRequest): Promise<GenerateResult> {
    const prompts = readPrompts(request);
    const options = readSampling(request);
    const [base, samples, images, variants] = await Promise.all([
      collectFiles(request.base),
      wireSamples(request.samples),
      request.image === undefined ? null : collectImages(request.image),
      Promise.all(
        readVariants(request).map(async ({ name, files }) => ({
          name,
          files: files === null ? null : await collectFiles(files),
        })),
      ),
    ]);
    const ask = { base, variants, prompts, samples, images, options, ...wirePlace(request) };
    return this.#call("generate", ask, request);
  }

  async inspectBase(files: FilesInput): Promise<BaseFacts> {
    return this.#call("inspectBase", await collectFiles(files));
  }

  async inspectAdapter(files: FilesInput): Promise<AdapterFacts> {
    return this.#call("inspectAdapter", await collectFiles(files));
  }

  async digestFiles(files: FilesInput, control: DigestControl): Promise<ReportFile[]> {
    const wanted = ofNames(await collectFiles(files), control.names);
    return this.#call("digestFiles", wanted, control);
  }

  async inspectSamples(samples: SamplesInput): Promise<SamplesFacts> {
    return this.#call("inspectSamples", await collectSamples(samples));
  }

  chooseDevice(request: DeviceRequest): Promise<DeviceChoice<DeviceRequest>> {
    return this.#call("chooseDevice", request);
  }

  defaultOptions(): Promise<MergeOptions> {
    return this.#call("defaultOptions", null);
  }

  version(): Promise<string> {
    return this.#call("version", null);
  }

  /** Terminates the worker and its helpers; the running call and those behind it reject with `cancelled`. */
  release(): void {
    for (const pending of this.#queue.splice(0)) this.#settle(pending, cancelled());
    this.#retire(cancelled());
  }

  /** Makes the GPU go away, as a driver's reset would. For the package's own tests. */
  loseDevice(): void {
    this.#worker?.postMessage({ type: "lose-device" });
  }

  #call<Name extends CallName>(
    name: Name,
    ask: Calls[Name]["ask"],
    control: Control = {},
  ): Promise<Calls[Name]["answer"]> {
    return new Promise((resolve, reject) => {
      if (control.signal?.aborted) {
        reject(cancelled());
        return;
      }
      this.#ids += 1;
      const pending: Pending = {
        id: this.#ids,
        call: { name, ask } as Call,
        told: false,
        control,
        onAbort: () => this.#abort(pending),
        patience: undefined,
        resolve: resolve as Pending["resolve"],
        reject,
      };
      control.signal?.addEventListener("abort", pending.onAbort, { once: true });
      this.#queue.push(pending);
      this.#next();
    });
  }

  /** Starts the first waiting call, unless one runs. */
  #next(): void {
    if (this.#running !== null) return;
    const pending = this.#queue.shift();
    if (pending === undefined) return;
    this.#running = pending;
    try {
      this.#worker ??= this.#started();
      this.#worker.postMessage({ type: "call", id: pending.id, call: pending.call });
    } catch (thrown) {
      // No worker could be made, or the call holds something that cannot be posted.
      this.#retire(toIterisError(thrown));
    }
  }

  #abort(pending: Pending): void {
    if (pending === this.#running) {
      this.#worker?.postMessage({ type: "cancel", id: pending.id });
      pending.patience = setTimeout(() => this.#retire(cancelled()), patienceMilliseconds);
      return;
    }
    const at = this.#queue.indexOf(pending);
    if (at !== -1) this.#queue.splice(at, 1);
    this.#settle(pending, cancelled());
  }

  #disk(): Promise<string | null> {
    this.#pageDisk ??= takePageDisk();
    return this.#pageDisk;
  }

  #started(): WorkerLike {
    // With the first worker already, so that what closed pages have left is gone before it is needed.
    void this.#disk();
    const worker = this.#start();
    this.#helpers = new PageHelpers(this.#startHelper, (message) => worker.postMessage(message));
    worker.onmessage = ({ data }) => {
      // A message that was on its way while the worker was terminated is not heard any more.
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
    if ("helper" in message) {
      this.#helpers?.receive(message);
      return;
    }
    const running = this.#running;
    if (running === null || message.id !== running.id) return;
    switch (message.type) {
      case "event":
        running.told ||= message.event.name !== "progress";
        tell(running.control, message.event);
        return;
      case "done":
        this.#settle(running, message.answer);
        this.#next();
        return;
      case "failed": {
        const error = toIterisError(message.error);
        this.#again(running, error);
        if (message.retire) {
          this.#retire(error);
        } else {
          if (running === this.#running) this.#settle(running, error);
          this.#next();
        }
      }
    }
  }

  /** Puts a call that was left to a GPU which has failed in front of those that wait, to be made on the CPU. */
  #again(running: Pending, error: IterisError): void {
    const { call, control, told, patience } = running;
    if (told || patience !== undefined || control.signal?.aborted || call.ask === null) return;
    const ask = typeof call.ask === "object" && "device" in call.ask ? onCpuInstead(call.ask, error) : null;
    if (ask === null) return;
    this.#ids += 1;
    running.id = this.#ids;
    running.call = { name: call.name, ask } as Call;
    this.#queue.unshift(running);
    this.#running = null;
  }

  #settle(pending: Pending, outcome: IterisError | Calls[CallName]["answer"]): void {
    clearTimeout(pending.patience);
    pending.control.signal?.removeEventListener("abort", pending.onAbort);
    if (pending === this.#running) this.#running = null;
    if (outcome instanceof IterisError) pending.reject(outcome);
    else pending.resolve(outcome);
  }

  /** Terminates the worker, its helpers and the running call with it; the calls behind it get a new one. */
  #retire(error: IterisError): void {
    this.#worker?.terminate();
    this.#worker = null;
    this.#helpers?.end();
    this.#helpers = null;
    if (this.#running !== null) this.#settle(this.#running, error);
    this.#next();
  }
}
