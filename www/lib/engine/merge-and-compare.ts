/** A merge, and on held-out samples the comparison of its result with a linear average. */
import { IterisError } from "../errors.ts";
import type { SampleSet } from "../samples/read.ts";
import type { CompareReport, DeviceChoice, MergeOptions, MergeReport } from "../types.ts";
import type { MergedSource } from "../wasm-interface.ts";
import type { Engine, MergeJob, RunContext } from "./engine.ts";
import type { JobAdapter } from "./prepare.ts";
import { BlobSink, type Sink } from "./sink.ts";

/** A merge job whose adapters may have held-out samples. */
export interface MergeAndCompareJob extends MergeJob {
  adapters: (JobAdapter & { heldOut: SampleSet | null })[];
}

/**
 * Merges into `sink`; if the adapters have held-out samples, merges a linear average too (kept nowhere) and
 * compares both with the tasks' own adapters.
 *
 * @throws IterisError `option_invalid` if only some adapters have held-out samples
 */
export async function mergeAndCompare(
  engine: Engine,
  job: MergeAndCompareJob,
  context: RunContext,
  sink: Sink,
): Promise<{ report: MergeReport; device: DeviceChoice; comparison: CompareReport | null }> {
  const without = job.adapters.filter(({ heldOut }) => heldOut === null);
  const compares = without.length < job.adapters.length;
  if (compares && without.length > 0) {
    const names = without.map(({ name }) => name).join(", ");
    throw new IterisError(
      "option_invalid",
      `Give held-out samples for every adapter or for none; without them: ${names}`,
    );
  }
  const { report, device } = await engine.merge(job, context, sink);
  if (!compares) return { report, device, comparison: null };

  const method: MergeOptions["method"] = job.options.method ?? "iteris";
  const merged: MergedSource[] = [{ name: method, files: await sink.sources() }];
  if (method !== "linear") {
    const average = new BlobSink();
    const quiet = { ...context, onProgress: () => {} };
    await engine.merge({ ...job, options: { method: "linear" }, device: device.kind }, quiet, average);
    merged.push({ name: "linear", files: await average.sources() });
  }
  const comparison = await engine.compare(
    {
      base: job.base,
      adapters: job.adapters.map((adapter) => ({ ...adapter, samples: adapter.heldOut })),
      merged,
      maxLength: job.options.maxLength ?? null,
      maxNewTokens: job.options.maxNewTokens ?? null,
      device: device.kind,
    },
    context,
  );
  return { report, device, comparison: comparison.report };
}
