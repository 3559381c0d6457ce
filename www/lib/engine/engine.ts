/**
 * Runs calls on the wasm module: tokenises, starts the device, passes progress on, collects the output.
 *
 * The same class runs in the browser's worker and in Node; what differs between the two comes in as
 * {@link EngineHost}. What can go wrong: after a panic, a lost GPU or a cancelled merge the module's state is
 * not to be trusted again. The engine does not hide that: {@link retires} tells, and its owner replaces it.
 */
import { choose } from "../device/choose.ts";
import { cancelled, IterisError, toIterisError } from "../errors.ts";
import type { SampleSet } from "../samples/read.ts";
import { resolveMaxLength, tokenise } from "../tokens/tokenise.ts";
import { loadTokenizer, type Tokenizer } from "../tokens/tokenizer.ts";
import type {
  AdapterFacts,
  BaseFacts,
  CompareReport,
  DeviceChoice,
  DeviceKind,
  DeviceRequest,
  MergeOptions,
  MergeReport,
  Progress,
} from "../types.ts";
import type {
  AdapterSource,
  IterisWasm,
  MergedSource,
  Observer,
  SourceFile,
  WasmDevice,
} from "../wasm-interface.ts";
import type { Faults } from "./faults.ts";
import type { Sink } from "./sink.ts";
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
}

/** One adapter of a job. */
export interface JobAdapter {
  name: string;
  files: SourceFile[];
  samples: SampleSet | null;
  weight?: number | undefined;
}

/** A merge, all inputs opened and parsed. */
export interface MergeJob {
  base: SourceFile[];
  adapters: JobAdapter[];
  options: Partial<MergeOptions>;
  device: DeviceRequest;
}

/** A comparison, all inputs opened and parsed. */
export interface CompareJob {
  base: SourceFile[];
  adapters: JobAdapter[];
  merged: MergedSource[];
  maxLength: number | null;
  device: DeviceRequest;
}

/** How a running call is watched and stopped. */
export interface RunContext {
  onProgress(progress: Progress): void;
  cancelled(): boolean;
}

/** Whether the engine that threw this must be replaced. */
export function retires(error: IterisError): boolean {
  return error.code === "internal" || error.code === "device_lost" || error.code === "cancelled";
}

/** One instance of the wasm module with its devices. Calls must not overlap. */
export class Engine {
  readonly #host: EngineHost;
  readonly #devices = new Map<DeviceKind, WasmDevice>();
  #wasm: Promise<IterisWasm> | null = null;

  constructor(host: EngineHost) {
    this.#host = host;
  }

  async version(): Promise<string> {
    return this.#run((wasm) => Promise.resolve(wasm.version()));
  }

  async defaultOptions(): Promise<MergeOptions> {
    return this.#run((wasm) => Promise.resolve(wasm.defaultOptions()));
  }

  async inspectBase(files: SourceFile[]): Promise<BaseFacts> {
    return this.#run((wasm) => wasm.inspectBase(files));
  }

  async inspectAdapter(files: SourceFile[]): Promise<AdapterFacts> {
    return this.#run((wasm) => wasm.inspectAdapter(files));
  }

  async chooseDevice(request: DeviceRequest): Promise<DeviceChoice> {
    return choose(request, request === "cpu" ? undefined : await this.#host.gpu(), this.#host.gpuRemedy);
  }

  /** Merges; the output files go to `sink`. */
  async merge(
    job: MergeJob,
    context: RunContext,
    sink: Sink,
  ): Promise<{ report: MergeReport; device: DeviceChoice }> {
    const choice = await this.chooseDevice(job.device);
    const needsSamples = (job.options.method ?? "iteris") === "iteris";
    const { adapters, maxLength } = await this.#prepare(job, job.options.maxLength, needsSamples, context);
    const options = maxLength === null ? job.options : { ...job.options, maxLength };
    const report = await this.#observed(context, sink, async (wasm, observer) =>
      wasm.merge({ base: job.base, adapters, options }, await this.#device(wasm, choice.kind), observer),
    );
    return { report, device: choice };
  }

  /** Compares base, adapters and merged adapters on the adapters' samples. */
  async compare(
    job: CompareJob,
    context: RunContext,
  ): Promise<{ report: CompareReport; device: DeviceChoice }> {
    const choice = await this.chooseDevice(job.device);
    const { adapters } = await this.#prepare(job, job.maxLength, true, context);
    const report = await this.#observed(context, null, async (wasm, observer) =>
      wasm.compare(
        { base: job.base, adapters, merged: job.merged },
        await this.#device(wasm, choice.kind),
        observer,
      ),
    );
    return { report, device: choice };
  }

  /** The adapters as the core takes them, their samples tokenised. */
  async #prepare(
    job: { base: SourceFile[]; adapters: JobAdapter[] },
    asked: number | null | undefined,
    needsSamples: boolean,
    context: RunContext,
  ): Promise<{ adapters: AdapterSource[]; maxLength: number | null }> {
    const untokenised = job.adapters.map(({ name, files, weight }) => ({
      name,
      files,
      ...(weight === undefined ? {} : { weight }),
    }));
    if (!needsSamples || job.adapters.length === 0) return { adapters: untokenised, maxLength: null };
    const facts = await this.inspectBase(job.base);
    const tokenizer = await loadTokenizer(job.base);
    const maxLength = resolveMaxLength(asked, tokenizer, facts.maxLength);
    const adapters: AdapterSource[] = [];
    for (const [i, adapter] of untokenised.entries()) {
      const samples = job.adapters[i]?.samples ?? null;
      adapters.push(await this.#withSamples(adapter, samples, tokenizer, maxLength, context));
    }
    return { adapters, maxLength };
  }

  async #withSamples(
    adapter: AdapterSource,
    samples: SampleSet | null,
    tokenizer: Tokenizer,
    maxLength: number,
    context: RunContext,
  ): Promise<AdapterSource> {
    if (samples === null) {
      throw new IterisError(
        "samples_invalid",
        `Give samples of the task, about 50 texts; there are none for the adapter: ${adapter.name}`,
      );
    }
    await this.#host.nextTask();
    if (context.cancelled()) throw cancelled();
    return { ...adapter, samples: tokenise(samples, tokenizer, maxLength) };
  }

  async #device(wasm: IterisWasm, kind: DeviceKind): Promise<WasmDevice> {
    const started = this.#devices.get(kind);
    if (started !== undefined) return started;
    const device = kind === "cpu" ? wasm.Device.cpu() : await wasm.Device.webgpu();
    this.#devices.set(kind, device);
    return device;
  }

  async #observed<T>(
    context: RunContext,
    sink: Sink | null,
    work: (wasm: IterisWasm, observer: Observer) => Promise<T>,
  ): Promise<T> {
    const throttle = new Throttle((progress) => context.onProgress(progress));
    const observer: Observer = {
      progress: async (progress) => {
        throttle.report(progress);
        await this.#host.nextTask();
        return !context.cancelled();
      },
      write: async (file, bytes) => {
        await sink?.write(file, bytes);
      },
    };
    if (context.cancelled()) throw cancelled();
    const result = await this.#run((wasm) => work(wasm, observer));
    throttle.flush();
    // Asked for in the last step, where the core has nothing left to stop: still not wanted.
    if (context.cancelled()) throw cancelled();
    return result;
  }

  async #run<T>(work: (wasm: IterisWasm) => Promise<T>): Promise<T> {
    try {
      this.#wasm ??= this.#host.loadWasm();
      const wasm = await this.#wasm;
      return await this.#host.faults.guard(work(wasm));
    } catch (thrown) {
      throw this.#explain(thrown);
    }
  }

  /** A trap says only `unreachable`; the panic that caused it was told elsewhere, just before. */
  #explain(thrown: unknown): IterisError {
    const error = toIterisError(thrown);
    const panic = error.code === "internal" ? (this.#host.lastPanic?.() ?? null) : null;
    return panic === null
      ? error
      : new IterisError("internal", `Internal fault: ${panic}`, { cause: thrown });
  }
}
