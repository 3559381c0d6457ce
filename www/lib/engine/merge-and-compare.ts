/** A merge, and on held-out samples the comparison of its result with a linear average. */
import { IterisError } from "../errors.ts";
import { methodFacts } from "../methods.ts";
import type { CompareReport, DeviceChoice, MergeReport } from "../types.ts";
import type { MergedSource } from "../wasm-interface.ts";
import { type ComparedAdapter, compareMerged } from "./compare-methods.ts";
import type { Engine, MergeJob, RunContext } from "./engine.ts";
import { BlobSink, type Sink } from "./sink.ts";

/** A merge job whose adapters may have held-out samples. */
export interface MergeAndCompareJob extends MergeJob {
  adapters: ComparedAdapter[];
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

  const method = methodFacts(job.options.method ?? "iteris").name;
  const merged: MergedSource[] = [{ name: method, files: await sink.sources() }];
  const same = { ...job, device: device.kind };
  if (method !== "average") {
    const average = new BlobSink();
    const quiet = { ...context, onProgress: () => {} };
    await engine.merge({ ...same, options: { method: "average" } }, quiet, average);
    merged.push({ name: "average", files: await average.sources() });
  }
  const comparison = await compareMerged(engine, { ...same, merged }, context);
  return { report, device, comparison: comparison.report };
}
