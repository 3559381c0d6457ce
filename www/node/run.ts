/** Merges and comparisons from paths: opens files, runs the engine, closes the files whatever happens. */
import {
  type CompareContext,
  type CompareMethodsJob,
  compareMethods,
  type Made,
} from "../lib/engine/compare-methods.ts";
import type { Engine } from "../lib/engine/engine.ts";
import { readPrompts, readVariants } from "../lib/engine/generate-request.ts";
import { type MergeAndCompareJob, mergeAndCompare } from "../lib/engine/merge-and-compare.ts";
import { readMethods } from "../lib/engine/methods-request.ts";
import { type JobPlace, onCpuInstead } from "../lib/engine/place.ts";
import type { Sink } from "../lib/engine/sink.ts";
import { toIterisError } from "../lib/errors.ts";
import { textsOf } from "../lib/samples/pictures.ts";
import { placedOf } from "../lib/samples/read.ts";
import { isSelf, readSelf } from "../lib/samples/self.ts";
import { readSampling } from "../lib/sampling.ts";
import { ofNames } from "../lib/sources/names.ts";
import type {
  AdapterInput,
  CompareMethodsRequest,
  CompareMethodsResult,
  CompareRequest,
  CompareResult,
  DigestControl,
  GenerateRequest,
  GenerateResult,
  MergePlan,
  MergeRequest,
  MergeResult,
  PlanRequest,
  ReportFile,
  RunControl,
  SelfInput,
} from "../lib/types.ts";
import { withEngine } from "./engine.ts";
import {
  type NodeFilesInput,
  type NodeImageInput,
  type NodeSamplesInput,
  OpenFiles,
  pathFrom,
} from "./files.ts";

/** {@link MergeRequest} with paths. */
export type NodeMergeRequest = MergeRequest<NodeFilesInput, NodeSamplesInput>;
/** {@link PlanRequest} with paths. */
export type NodePlanRequest = PlanRequest<NodeFilesInput>;
/** {@link CompareRequest} with paths. */
export type NodeCompareRequest = CompareRequest<NodeFilesInput, NodeSamplesInput>;
/** {@link CompareMethodsRequest} with paths. */
export type NodeCompareMethodsRequest = CompareMethodsRequest<NodeFilesInput, NodeSamplesInput>;
/** {@link GenerateRequest} with paths. */
export type NodeGenerateRequest = GenerateRequest<NodeFilesInput, NodeSamplesInput, NodeImageInput>;

/** Tells the caller. What a callback throws is its own fault, told as one of an event handler is. */
function tell<T>(callback: ((value: T) => void) | undefined, value: T): void {
  try {
    callback?.(value);
  } catch (error) {
    // Thrown here, the core would take it for a wish to stop.
    process.nextTick(() => {
      throw error;
    });
  }
}

type Callbacks = Pick<RunControl, "onProgress" | "signal"> &
  Pick<CompareMethodsRequest, "onVariant" | "onTask" | "onFailure">;

/** @param onTold - called when the caller is told of something that was made */
function contextOf(
  { onProgress, onVariant, onTask, onFailure, signal }: Callbacks,
  onTold: () => void = () => {},
): CompareContext {
  const told = <T>(callback: ((value: T) => void) | undefined, value: T) => {
    onTold();
    tell(callback, value);
  };
  return {
    onProgress: (progress) => tell(onProgress, progress),
    onVariant: (made, files) => told(onVariant, { ...made, files }),
    onFailure: (failure) => told(onFailure, failure),
    onTask: onTask && ((report) => told(onTask, report)),
    cancelled: () => signal?.aborted === true,
  };
}

/** Runs `work` with the engine and with files that are closed after it. */
export async function withFiles<T>(work: (files: OpenFiles) => Promise<T>): Promise<T> {
  const files = new OpenFiles();
  try {
    return await work(files);
  } finally {
    files.close();
  }
}

async function openSamples(
  files: OpenFiles,
  samples: NodeSamplesInput | SelfInput | undefined,
  reportFolder: string | undefined,
) {
  if (samples === undefined) return null;
  if (isSelf(samples)) return readSelf(samples);
  return { ...(await files.samples(samples)), path: pathFrom(reportFolder, samples) };
}

/** @param reportFolder - where the report will be, if that is known: paths in it lead from there */
async function openAdapter(
  files: OpenFiles,
  adapter: AdapterInput<NodeFilesInput, NodeSamplesInput>,
  reportFolder?: string,
) {
  const { name, weight, samples, heldOut } = adapter;
  return {
    name,
    weight,
    files: await files.folder(adapter.files),
    path: pathFrom(reportFolder, adapter.files),
    samples: await openSamples(files, samples, reportFolder),
    heldOut: heldOut === undefined ? null : await files.samples(heldOut),
  };
}

/**
 * Runs a job that may be left to a GPU; if that fails, it is done on the CPU, unless the caller has been told of
 * something that was made, which must not be made twice.
 */
async function withDevice<Job extends JobPlace, T>(
  job: Job,
  request: Callbacks,
  work: (engine: Engine, job: Job, context: CompareContext) => Promise<T>,
): Promise<T> {
  let told = false;
  const context = contextOf(request, () => {
    told = true;
  });
  const run = (job: Job) => withEngine((engine) => work(engine, job, context), request.signal);
  try {
    return await run(job);
  } catch (thrown) {
    const instead = onCpuInstead(job, toIterisError(thrown));
    if (instead === null || told || request.signal?.aborted) throw thrown;
    return run(instead);
  }
}

/**
 * A merge whose output goes to `sink`.
 *
 * @param reportFolder - the folder that the sink writes to, if it is one
 */
export function mergeToSink(
  request: NodeMergeRequest,
  sink: Sink,
  reportFolder?: string,
): Promise<Omit<MergeResult, "files">> {
  return withFiles(async (files) => {
    const { base, adapters } = request;
    const job: MergeAndCompareJob = {
      base: base === undefined ? [] : await files.folder(base),
      basePath: pathFrom(reportFolder, base),
      adapters: await Promise.all(adapters.map((adapter) => openAdapter(files, adapter, reportFolder))),
      options: request.options ?? {},
      tasks: request.tasks,
      labels: request.labels,
      average: request.average,
      device: request.device ?? "auto",
      workers: request.workers,
    };
    return withDevice(job, request, (engine, job, context) => mergeAndCompare(engine, job, context, sink));
  });
}

/** What a merge will take. */
export function planNow({ base, adapters, options = {}, workers }: NodePlanRequest): Promise<MergePlan> {
  return withFiles(async (files) => {
    const job = {
      base: base === undefined ? [] : await files.folder(base),
      adapters: await Promise.all(
        adapters.map(async (adapter) => ({
          name: adapter.name,
          weight: adapter.weight,
          files: await files.folder(adapter.files),
        })),
      ),
      options,
      workers,
    };
    return withEngine((engine) => engine.plan(job));
  });
}

/** What comes of several merges whose files are kept by their sinks. */
export type CompareMethodsOutcome = Omit<CompareMethodsResult, "variants"> & { variants: Made[] };

/**
 * Several merges and their comparison.
 *
 * @param sinkFor - where the files of each go
 * @param reportFolder - the folder that a sink writes to, if it is one; all must lie side by side
 */
export function compareMethodsToSinks(
  request: NodeCompareMethodsRequest,
  sinkFor: (name: string) => Sink,
  reportFolder?: string,
): Promise<CompareMethodsOutcome> {
  return withFiles(async (files) => {
    const { base, adapters, merged = [] } = request;
    const job: CompareMethodsJob = {
      variants: readMethods(request),
      base: await files.folder(base),
      basePath: pathFrom(reportFolder, base),
      adapters: await Promise.all(adapters.map((adapter) => openAdapter(files, adapter, reportFolder))),
      merged: await openNamed(files, merged),
      options: request.options ?? {},
      tasks: request.tasks,
      labels: request.labels,
      failures: request.failures,
      device: request.device ?? "auto",
      workers: request.workers,
    };
    return withDevice(job, request, (engine, job, context) => compareMethods(engine, job, context, sinkFor));
  });
}

function openNamed(files: OpenFiles, list: readonly { name: string; files: NodeFilesInput }[]) {
  return Promise.all(list.map(async (one) => ({ name: one.name, files: await files.folder(one.files) })));
}

/** Size and SHA-256 of the files of a folder, or of one file. */
export function digestsNow(input: NodeFilesInput, control: DigestControl): Promise<ReportFile[]> {
  return withFiles(async (files) => {
    const wanted = ofNames(await files.folder(input), control.names);
    return withEngine((engine) => engine.digests(wanted, contextOf(control)), control.signal);
  });
}

/** A comparison. */
export function compareNow(request: NodeCompareRequest): Promise<CompareResult> {
  return withFiles(async (files) => {
    const job = {
      base: await files.folder(request.base),
      adapters: await Promise.all(request.adapters.map((adapter) => openAdapter(files, adapter))),
      merged: await openNamed(files, request.merged),
      maxLength: request.options?.maxLength ?? null,
      maxNewTokens: request.options?.maxNewTokens ?? null,
      labels: request.labels,
      device: request.device ?? ("auto" as const),
      workers: request.workers,
    };
    return withDevice(job, request, (engine, job, context) => engine.compare(job, context));
  });
}

/** A generation. */
export function generateNow(request: NodeGenerateRequest): Promise<GenerateResult> {
  return withFiles(async (files) => {
    const prompts = readPrompts(request);
    const options = readSampling(request);
    const samples = request.samples === undefined ? null : await files.samples(request.samples);
    const job = {
      base: await files.folder(request.base),
      variants: await Promise.all(
        readVariants(request).map(async (variant) => ({
          name: variant.name,
          ...(variant.files === null ? {} : { files: await files.folder(variant.files) }),
        })),
      ),
      prompts: [...prompts, ...placedOf(textsOf(samples))],
      images: request.image === undefined ? undefined : await files.images(request.image),
      options,
      device: request.device ?? ("auto" as const),
      workers: request.workers,
    };
    return withDevice(job, request, (engine, job, context) => engine.generate(job, context));
  });
}
