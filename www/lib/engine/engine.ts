/**
 * Runs calls on the wasm module: tokenises, starts the device, passes progress on, collects the output.
 *
 * The same class runs in the browser's worker and in Node; what differs between the two comes in as {@link
 * EngineHost}. After a panic, a lost GPU or a cancelled merge the module's state is not to be trusted again: {@link
 * retires} tells, and the engine's owner replaces it.
 */
import { choose, cpuBecause } from "../device/choose.ts";
import { nameOfAdapter } from "../device/probe.ts";
import { cancelled, IterisError, toIterisError } from "../errors.ts";
import { DEFAULT_METHOD } from "../generated.ts";
import { methodFacts } from "../methods.ts";
import { checkRange, workersRange } from "../options.ts";
import { readRange } from "../sources/open.ts";
import type {
  AdapterFacts,
  BaseFacts,
  CompareReport,
  DeviceChoice,
  DeviceRequest,
  GenerateResult,
  MergeOptions,
  MergePlan,
  MergeReport,
  Progress,
  ReportFile,
  WorkersRequest,
} from "../types.ts";
import type {
  AdapterSource,
  IterisWasm,
  MergedSource,
  MergeSource,
  Observer,
  SourceFile,
  WasmDevice,
} from "../wasm-interface.ts";
import { classesFor, labelledByCaptions, readReport } from "./compare-pictures.ts";
import { explain } from "./explain.ts";
import type { Faults } from "./faults.ts";
import { type GenerateJob, preparePrompts, readTexts } from "./generate.ts";
import { joinReports } from "./join-reports.ts";
import { type JobPlace, usedOf, WITHOUT_SAMPLES } from "./place.ts";
import { availableAt, HelperFault, type HelperHost, Pool, type SharedSource } from "./pool.ts";
import { type JobAdapter, prepareAdapters } from "./prepare.ts";
import type { RunContext } from "./run-context.ts";
import type { JobName } from "./share.ts";
import { BlobSink, type Sink } from "./sink.ts";
import { Throttle } from "./throttle.ts";

/** What an engine needs of the place it runs in. */
export interface EngineHost {
  /** Loads and instantiates the module; called once. */
  loadWasm(): Promise<IterisWasm>;
  /** `navigator.gpu`, or what stands for it; called before the module is loaded. */
  gpu(): Promise<GPU | undefined>;
  /** What a person can do where there is no WebGPU. */
  gpuRemedy: string;
  faults: Faults;
  /** Lets other tasks run. */
  nextTask(): Promise<void>;
  /** The text of the last panic, where the place can hear it. */
  lastPanic?(): string | null;
  /** Other workers, where there can be any. */
  helpers?: HelperHost | undefined;
}

/** A merge, all inputs opened and parsed. */
export interface MergeJob extends JobPlace {
  /** Empty where there is none. */
  base: SourceFile[];
  /** Where it is, from the folder that the report is written to, if there is one. */
  basePath?: string | undefined;
  adapters: JobAdapter[];
  options: Partial<MergeOptions>;
}

/** What is to be planned, all inputs opened. */
export interface PlanJob {
  /** Empty where there is none. */
  base: SourceFile[];
  adapters: Pick<JobAdapter, "name" | "files" | "weight">[];
  options: Partial<MergeOptions>;
  /** Left out: `auto`. */
  workers?: WorkersRequest | undefined;
}

/** A comparison, all inputs opened and parsed. */
export interface CompareJob extends JobPlace {
  base: SourceFile[];
  adapters: JobAdapter[];
  merged: MergedSource[];
  maxLength: number | null;
  /** `null` takes the default. */
  maxNewTokens: number | null;
  /** Classes that a model of pictures and texts chooses from; left out, those of the pictures. */
  labels?: readonly string[] | undefined;
}

/**
 * Whether the engine that threw this must be replaced. A core that refuses what would not fit is in order; a GPU that has
 * refused memory is not.
 */
export function retires(error: IterisError): boolean {
  if (error instanceof HelperFault) return false;
  if (error.code === "out_of_memory") return error.cause instanceof WebAssembly.RuntimeError;
  if (error.code === "device_limit") return typeof GPUError === "function" && error.cause instanceof GPUError;
  return error.code === "internal" || error.code === "device_lost" || error.code === "cancelled";
}

/** @throws IterisError `option_invalid` for what is no number of workers */
function checkWorkers(workers: WorkersRequest): void {
  if (workers !== "auto") checkRange("workers", workers, workersRange);
}

/** What an error says that it happened in. */
const doing: Record<JobName, string> = { merge: "merging", compare: "comparing", generate: "generating" };

/** Which files, as far as one name tells it. */
function filesIn(files: readonly SourceFile[]): string {
  const weights = files.find(({ name }) => name.endsWith(".safetensors")) ?? files[0];
  return weights === undefined ? "" : ` (${weights.name})`;
}

/** One instance of the wasm module with its devices. Calls must not overlap. */
export class Engine {
  readonly #host: EngineHost;
  readonly #devices = new Map<DeviceRequest, WasmDevice>();
  #wasm: Promise<IterisWasm> | null = null;
  /** The same, when it is there. */
  #module: IterisWasm | null = null;
  /** What the running call has told last. */
  #progress: Progress | null = null;

  constructor(host: EngineHost) {
    this.#host = host;
  }

  async version(): Promise<string> {
    return this.#run("asking for the version", async (wasm) => wasm.version());
  }

  async defaultOptions(): Promise<MergeOptions> {
    return this.#run("asking for the options", async (wasm) => wasm.defaultOptions());
  }

  async inspectBase(files: SourceFile[]): Promise<BaseFacts> {
    return this.#run(`reading the base model${filesIn(files)}`, (wasm) => wasm.inspectBase(files));
  }

  async inspectAdapter(files: SourceFile[]): Promise<AdapterFacts> {
    return this.#run(`reading an adapter${filesIn(files)}`, (wasm) => wasm.inspectAdapter(files));
  }

  /** The names of the core's merge methods. */
  async methods(): Promise<string[]> {
    return this.#run("asking for the methods", async (wasm) => wasm.methods());
  }

  /** Size and SHA-256 of every file; they are read from end to end. */
  async digests(files: SourceFile[], context: RunContext): Promise<ReportFile[]> {
    const started = performance.now();
    const total = files.reduce((sum, { size }) => sum + size, 0);
    const throttle = new Throttle((progress) => context.onProgress(progress));
    const found: ReportFile[] = [];
    let before = 0;
    for (const file of files) {
      const told = async (bytes: number) => {
        const seconds = (performance.now() - started) / 1000;
        const done = before + bytes;
        throttle.report({ stage: "load", layer: file.name, done, total, seconds });
        await this.#breathe(context);
      };
      await told(0);
      found.push(await this.#digest(file, told, context));
      before += file.size;
    }
    throttle.flush();
    return found;
  }

  /** @param told - called as bytes are read; throws where the call was cancelled */
  async #digest(
    file: SourceFile,
    told: (bytes: number) => Promise<void>,
    context: RunContext,
  ): Promise<ReportFile> {
    const { name, size } = file;
    const sha256 = await file.sha256?.();
    if (sha256 !== undefined) return { name, bytes: size, sha256 };
    const read = async (start: number, end: number) => {
      await told(start);
      return readRange(file, start, end);
    };
    try {
      const [digest] = await this.#run(`hashing ${name}`, (wasm) => wasm.digests([{ name, size, read }]));
      if (digest === undefined) throw new IterisError("internal", `Internal fault: no digest of ${name}`);
      return digest;
    } catch (error) {
      // The core takes what was thrown in its reading for a file that cannot be read.
      throw context.cancelled() ? cancelled() : error;
    }
  }

  async chooseDevice(request: DeviceRequest): Promise<DeviceChoice<DeviceRequest>> {
    return choose(request, () => this.#host.gpu(), this.#host.gpuRemedy);
  }

  /** Where a job that runs a model may do so. */
  async #placeOf({ device, gaveUp }: JobPlace): Promise<DeviceChoice<DeviceRequest>> {
    if (gaveUp !== undefined) return cpuBecause(`The CPU, because the GPU gave up. ${gaveUp}`);
    const choice = await this.chooseDevice(device);
    if (choice.kind !== "auto") return choice;
    try {
      await this.#run("starting the GPU", (wasm) => this.#device(wasm, choice));
      return choice;
    } catch (thrown) {
      const { code, message } = toIterisError(thrown);
      if (code !== "webgpu_unavailable") throw thrown;
      return cpuBecause(`The CPU: ${message}`, choice.adapter);
    }
  }

  /** What a merge of these will take. Samples are not looked at. */
  async plan({ base, adapters, options, workers = "auto" }: PlanJob): Promise<MergePlan> {
    checkWorkers(workers);
    const { helpers } = this.#host;
    const source: MergeSource = {
      base,
      adapters: adapters.map(({ name, files, weight }) => ({
        name,
        files,
        ...(weight === undefined ? {} : { weight }),
      })),
      options,
    };
    const available = helpers && (await availableAt(helpers, workers));
    return this.#run("planning", (wasm) => wasm.plan({ ...source, workers: available }));
  }

  /** Merges; the output files go to `sink`, which is discarded if there is a failure. */
  async merge(
    job: MergeJob,
    context: RunContext,
    sink: Sink,
  ): Promise<{ report: MergeReport; device: DeviceChoice }> {
    const { workers = "auto" } = job;
    checkWorkers(workers);
    const method = methodFacts(job.options.method ?? DEFAULT_METHOD);
    const choice =
      job.device === "auto" && !method.samples ? cpuBecause(WITHOUT_SAMPLES) : await this.#placeOf(job);
    const { adapters, maxLength } = await prepareAdapters(
      {
        ...job,
        use: method.samples ? "calibrate" : "none",
        maxLength: job.options.maxLength ?? null,
        maxNewTokens: job.options.maxNewTokens ?? null,
      },
      () => this.inspectBase(job.base),
      () => this.#breathe(context),
    );
    const { base, basePath } = job;
    const source: MergeSource = {
      base,
      ...(basePath === undefined ? {} : { basePath }),
      ...(job.device === "auto" ? { deviceWhy: choice.why } : {}),
      adapters,
      options: maxLength === null ? job.options : { ...job.options, maxLength },
    };
    try {
      const report = await this.#shared("merge", { source, workers }, context, sink, async (wasm, observer) =>
        wasm.merge(source, await this.#device(wasm, choice), observer),
      );
      return { report, device: usedOf(choice, { device: report.device, deviceWhy: report.device_why }) };
    } catch (error) {
      // Whatever hinders it, the failure of the merge is what is told.
      await sink.discard().catch(() => {});
      throw error;
    }
  }

  /** Compares base, adapters and merged adapters on the adapters' samples. */
  async compare(
    job: CompareJob,
    context: RunContext,
  ): Promise<{ report: CompareReport; device: DeviceChoice }> {
    const choice = await this.#placeOf(job);
    const { maxNewTokens } = job;
    const { adapters: prepared, reading } = await prepareAdapters(
      { ...job, use: "compare" },
      () => this.inspectBase(job.base),
      () => this.#breathe(context),
    );
    const { base, merged, workers = "auto" } = job;
    checkWorkers(workers);
    const classes = await classesFor(job, reading);
    const adapters = classes?.areCaptions ? labelledByCaptions(prepared, job.adapters) : prepared;
    const options = {
      ...(maxNewTokens === null ? {} : { maxNewTokens }),
      ...(classes === null ? {} : { labels: classes.labels }),
    };
    const samples = new Map(job.adapters.map(({ name, samples }) => [name, samples]));
    const compareOn = async (adapters: AdapterSource[], context: RunContext) => {
      const source = { base, adapters, merged, options };
      const { report, ...chosen } = await this.#shared(
        "compare",
        { source, workers },
        context,
        new BlobSink(),
        async (wasm, observer) => wasm.compare(source, await this.#device(wasm, choice), observer),
      );
      const read = await readReport(report, samples, reading);
      return { ...chosen, report: { ...read, notes: [...(classes?.notes ?? []), ...read.notes] } };
    };
    const { onTask } = context;
    if (onTask === undefined) {
      const { report, ...chosen } = await compareOn(adapters, context);
      return { report, device: usedOf(choice, chosen) };
    }
    const reports: CompareReport[] = [];
    let device = usedOf(choice, { device: "cpu" });
    for (const adapter of adapters) {
      const onProgress = (progress: Progress) => context.onProgress({ ...progress, task: adapter.name });
      const { report, ...chosen } = await compareOn([adapter], { ...context, onProgress });
      device = usedOf(choice, chosen);
      reports.push(report);
      onTask(report);
    }
    return { report: joinReports(reports), device };
  }

  /** Lets each variant write after each prompt. */
  async generate(job: GenerateJob, context: RunContext): Promise<GenerateResult> {
    const choice = await this.#placeOf(job);
    const prepared = await preparePrompts(job, await this.inspectBase(job.base));
    const { base, variants, images, workers = "auto" } = job;
    checkWorkers(workers);
    const source = { base, variants, ...prepared.source };
    const { device, deviceWhy, ...generated } = await this.#shared(
      "generate",
      { source, workers },
      context,
      new BlobSink(),
      async (wasm, observer) => wasm.generate(source, await this.#device(wasm, choice), observer),
    );
    return {
      prompts: prepared.asked.map(({ sample }) => sample),
      ...(images === undefined ? {} : { images: images.map(({ name }) => name) }),
      ...generated,
      notes: [...prepared.notes, ...generated.notes],
      variants: readTexts(generated, prepared),
      device: usedOf(choice, { device, deviceWhy }),
    };
  }

  /** Work that is watched, and shared with helpers where there are any. */
  async #shared<T>(
    name: JobName,
    { source, workers }: { source: SharedSource; workers: WorkersRequest },
    context: RunContext,
    sink: Sink,
    work: (wasm: IterisWasm, observer: Observer) => Promise<T>,
  ): Promise<T> {
    const { helpers } = this.#host;
    const compiled = () => {
      if (this.#module === null) throw new IterisError("internal", "Internal fault: there is no module.");
      return this.#module.compiled();
    };
    const pool = helpers && new Pool(helpers, compiled, () => context.cancelled());
    try {
      return await this.#observed(doing[name], context, sink, async (wasm, observer) =>
        work(wasm, { ...observer, workers: await pool?.team(name, source, workers) }),
      );
    } catch (error) {
      throw pool?.blame(error) ?? error;
    } finally {
      pool?.close();
    }
  }

  /** Lets messages in, and stops if one of them cancelled the call. */
  async #breathe(context: RunContext): Promise<void> {
    await this.#host.nextTask();
    if (context.cancelled()) throw cancelled();
  }

  async #device(wasm: IterisWasm, { kind, adapter }: DeviceChoice<DeviceRequest>): Promise<WasmDevice> {
    const started = this.#devices.get(kind);
    if (started !== undefined) return started;
    const name = adapter === null ? "" : nameOfAdapter(adapter);
    const device =
      kind === "cpu"
        ? wasm.Device.cpu()
        : await (kind === "webgpu" ? wasm.Device.webgpu(name) : wasm.Device.quicker(name));
    this.#devices.set(kind, device);
    return device;
  }

  async #observed<T>(
    doing: string,
    context: RunContext,
    sink: Sink,
    work: (wasm: IterisWasm, observer: Observer) => Promise<T>,
  ): Promise<T> {
    const throttle = new Throttle((progress) => context.onProgress(progress));
    let sinkFailure: IterisError | null = null;
    const output = async <T>(result: Promise<T>): Promise<T> => {
      try {
        return await result;
      } catch (thrown) {
        sinkFailure ??= thrown instanceof IterisError ? thrown : null;
        throw thrown;
      }
    };
    const observer: Observer = {
      progress: async (progress) => {
        this.#progress = progress;
        throttle.report(progress);
        await this.#host.nextTask();
        return !context.cancelled();
      },
      write: (file, bytes) => output(sink.write(file, bytes)),
      read: (file, start, end) => output(sink.read(file, start, end)),
      remove: (file) => output(sink.remove(file)),
      ...(sink.sha256 ? { sha256: sink.sha256.bind(sink) } : {}),
    };
    if (context.cancelled()) throw cancelled();
    const result = await this.#run(doing, (wasm) => work(wasm, observer)).catch((error: IterisError) => {
      // The core tells the sink's failure in its own words, around those that the sink has told it in.
      throw error.code === "write_failed" && sinkFailure !== null ? sinkFailure : error;
    });
    throttle.flush();
    // Asked for in the last step, where the core has nothing left to stop: still not wanted.
    if (context.cancelled()) throw cancelled();
    return result;
  }

  /** @param doing - what an error says that it happened in */
  async #run<T>(doing: string, work: (wasm: IterisWasm) => Promise<T>): Promise<T> {
    this.#progress = null;
    try {
      this.#wasm ??= this.#host.loadWasm();
      this.#module = await this.#wasm;
      return await this.#host.faults.guard(work(this.#module));
    } catch (thrown) {
      throw explain(thrown, {
        doing,
        progress: this.#progress,
        panic: this.#host.lastPanic?.() ?? null,
        module: this.#module,
      });
    }
  }
}
