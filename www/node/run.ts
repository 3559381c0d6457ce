/** Merges and comparisons from paths: opens files, runs the engine, closes the files whatever happens. */
import type { RunContext } from "../lib/engine/engine.ts";
import { readPrompts, readSampling, readVariants } from "../lib/engine/generate-request.ts";
import { type MergeAndCompareJob, mergeAndCompare } from "../lib/engine/merge-and-compare.ts";
import type { Sink } from "../lib/engine/sink.ts";
import type { Placed } from "../lib/samples/record.ts";
import { isSelf, readSelf } from "../lib/samples/self.ts";
import type {
  AdapterInput,
  CompareRequest,
  CompareResult,
  GenerateRequest,
  GenerateResult,
  MergeRequest,
  MergeResult,
  RunControl,
  SelfInput,
} from "../lib/types.ts";
import { withEngine } from "./engine.ts";
import { type NodeFilesInput, type NodeSamplesInput, OpenFiles } from "./files.ts";

/** {@link MergeRequest} with paths. */
export type NodeMergeRequest = MergeRequest<NodeFilesInput, NodeSamplesInput>;
/** {@link CompareRequest} with paths. */
export type NodeCompareRequest = CompareRequest<NodeFilesInput, NodeSamplesInput>;
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

async function openSamples(files: OpenFiles, samples: NodeSamplesInput | SelfInput | undefined) {
  if (samples === undefined) return null;
  return isSelf(samples) ? readSelf(samples) : files.samples(samples);
}

async function openAdapter(files: OpenFiles, adapter: AdapterInput<NodeFilesInput, NodeSamplesInput>) {
  const { name, weight, samples, heldOut } = adapter;
  return {
    name,
    weight,
    files: await files.folder(adapter.files),
    samples: await openSamples(files, samples),
    heldOut: heldOut === undefined ? null : await files.samples(heldOut),
  };
}

/** A merge whose output goes to `sink`; the command line writes to disk with it. */
export function mergeInto(request: NodeMergeRequest, sink: Sink): Promise<Omit<MergeResult, "files">> {
  return withFiles(async (files) => {
    const job: MergeAndCompareJob = {
      base: await files.folder(request.base),
      adapters: await Promise.all(request.adapters.map((adapter) => openAdapter(files, adapter))),
      options: request.options ?? {},
      device: request.device ?? "auto",
    };
    return withEngine((engine) => mergeAndCompare(engine, job, contextOf(request), sink), request.signal);
  });
}

/** A comparison. */
export function compareNow(request: NodeCompareRequest): Promise<CompareResult> {
  return withFiles(async (files) => {
    const job = {
      base: await files.folder(request.base),
      adapters: await Promise.all(request.adapters.map((adapter) => openAdapter(files, adapter))),
      merged: await Promise.all(
        request.merged.map(async (merged) => ({
          name: merged.name,
          files: await files.folder(merged.files),
        })),
      ),
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
