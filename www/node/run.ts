/** Merges and comparisons from paths: opens files, runs the engine, closes the files whatever happens. */
import { type CompareMethodsJob, compareMethods, type Made } from "../lib/engine/compare-methods.ts";
import type { RunContext } from "../lib/engine/engine.ts";
import { readPrompts, readSampling, readVariants } from "../lib/engine/generate-request.ts";
import { type MergeAndCompareJob, mergeAndCompare } from "../lib/engine/merge-and-compare.ts";
import { readMethods } from "../lib/engine/methods-request.ts";
import type { Sink } from "../lib/engine/sink.ts";
import type { Placed } from "../lib/samples/record.ts";
import { isSelf, readSelf } from "../lib/samples/self.ts";
import type {
  AdapterInput,
  CompareMethodsRequest,
  CompareMethodsResult,
  CompareRequest,
  CompareResult,
  GenerateRequest,
  GenerateResult,
  MergeRequest,
  MergeResult,
  ReportFile,
  RunControl,
  SelfInput,
} from "../lib/types.ts";
import { withEngine } from "./engine.ts";
import { type NodeFilesInput, type NodeSamplesInput, OpenFiles, pathFrom } from "./files.ts";

/** {@link MergeRequest} with paths. */
export type NodeMergeRequest = MergeRequest<NodeFilesInput, NodeSamplesInput>;
/** {@link CompareRequest} with paths. */
export type NodeCompareRequest = CompareRequest<NodeFilesInput, NodeSamplesInput>;
/** {@link CompareMethodsRequest} with paths. */
export type NodeCompareMethodsRequest = CompareMethodsRequest<NodeFilesInput, NodeSamplesInput>;
/** {@link GenerateRequest} with paths. */
export type NodeGenerateRequest = GenerateRequest<NodeFilesInput>;

function contextOf({ onProgress, signal }: RunControl): RunContext {
  return {
    onProgress: (progress) => {
      try {
        onProgress?.(progress);
      } catch (error) {
        // The caller's own fault, told as one of an event handler is; the core would take it for a wish to stop.
        process.nextTick(() => {
          throw error;
        });
      }
    },
    cancelled: () => signal?.aborted === true,
  };
}

/** Runs `work` with the engine and with files that are closed after it. */
export async function withFiles<T>(work: (files: OpenFiles) => Promise<T>): Promise<T> {
  const files = new OpenFiles();
  try {
    return await work(files);
  } finally {
    await files.close();
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
 * A merge whose output goes to `sink`; the command line writes to disk with it.
 *
 * @param reportFolder - the folder that the sink writes to, if it is one
 */
export function mergeInto(
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
      device: request.device ?? "auto",
    };
    return withEngine((engine) => mergeAndCompare(engine, job, contextOf(request), sink), request.signal);
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
export function compareMethodsInto(
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
      device: request.device ?? "auto",
    };
    return withEngine((engine) => compareMethods(engine, job, contextOf(request), sinkFor), request.signal);
  });
}

function openNamed(files: OpenFiles, list: readonly { name: string; files: NodeFilesInput }[]) {
  return Promise.all(list.map(async (one) => ({ name: one.name, files: await files.folder(one.files) })));
}

/**
 * Size and SHA-256 of the files of a folder, or of one file.
 *
 * @param named - only of files of these names
 */
export function digestsNow(
  input: NodeFilesInput,
  control: Pick<RunControl, "onProgress" | "signal">,
  named?: ReadonlySet<string>,
): Promise<ReportFile[]> {
  return withFiles(async (files) => {
    const all = await files.folder(input);
    const wanted = named === undefined ? all : all.filter(({ name }) => named.has(name));
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
      device: request.device ?? ("auto" as const),
    };
    return withEngine((engine) => engine.compare(job, contextOf(request)), request.signal);
  });
}

/** A generation after prompts that are not the request's own. */
export function generateAfter(
  prompts: Placed[],
  request: Omit<NodeGenerateRequest, "prompts" | "messages">,
): Promise<GenerateResult> {
  return withFiles(async (files) => {
    const options = readSampling(request);
    const job = {
      base: await files.folder(request.base),
      variants: await Promise.all(
        readVariants(request).map(async (variant) => ({
          name: variant.name,
          ...(variant.files === null ? {} : { files: await files.folder(variant.files) }),
        })),
      ),
      prompts,
      options,
      device: request.device ?? ("auto" as const),
    };
    return withEngine((engine) => engine.generate(job, contextOf(request)), request.signal);
  });
}

/** A generation. */
export async function generateNow(request: NodeGenerateRequest): Promise<GenerateResult> {
  return generateAfter(readPrompts(request), request);
}
