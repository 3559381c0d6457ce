/**
 * Several merges of the same inputs, one after the other, and one comparison of all of them.
 *
 * What can go wrong: memory. A merge's state is gone before the next one begins; only what it wrote is kept, and
 * where that is kept is the sink's affair.
 */
import { IterisError, toIterisError } from "../errors.ts";
import type { SampleSet } from "../samples/read.ts";
import type { CompareReport, DeviceChoice, MergedVariant, MergeOptions, MergeReport } from "../types.ts";
import type { MergedSource } from "../wasm-interface.ts";
import { type Engine, type MergeJob, type RunContext, retires } from "./engine.ts";
import type { Variant } from "./methods-request.ts";
import type { JobAdapter } from "./prepare.ts";
import type { Sink } from "./sink.ts";

/** An adapter that may have held-out samples. */
export interface ComparedAdapter extends JobAdapter {
  heldOut: SampleSet | null;
}

/** Several merges, all inputs opened and parsed. */
export interface CompareMethodsJob extends Omit<MergeJob, "options"> {
  adapters: ComparedAdapter[];
  variants: readonly Variant[];
  /** Merged before, to be compared along. */
  merged: readonly MergedSource[];
  /** What the comparison itself looks at. */
  options: Pick<Partial<MergeOptions>, "maxLength" | "maxNewTokens">;
}

/** A merge that was made. */
export type Made = Omit<MergedVariant, "files">;

/** What adapters are compared on: held-out samples, or else those of their calibration. */
function textsOf(adapters: readonly ComparedAdapter[]): JobAdapter[] {
  return adapters.map((adapter) => {
    const samples = adapter.heldOut ?? adapter.samples;
    if (samples !== null && !("self" in samples)) return { ...adapter, samples };
    throw new IterisError(
      "samples_invalid",
      `A comparison needs texts of the task: give held-out samples, or samples. There are none for: ${adapter.name}`,
    );
  });
}

/** Merges in one way, into `sink`. Not every way suits all inputs, so a failure names the variant. */
async function makeVariant(
  engine: Engine,
  job: Omit<CompareMethodsJob, "options">,
  { name, options }: Variant,
  context: RunContext,
  sink: Sink,
): Promise<{ report: MergeReport; device: DeviceChoice }> {
  const named: RunContext = {
    onProgress: (progress) => context.onProgress({ ...progress, variant: name }),
    cancelled: context.cancelled,
  };
  try {
    return await engine.merge({ ...job, options }, named, sink);
  } catch (thrown) {
    const error = toIterisError(thrown);
    if (retires(error)) throw error;
    throw new IterisError(error.code, `${name}: ${error.message}`, { cause: thrown });
  }
}

/**
 * Makes every variant and compares them with the tasks' own adapters.
 *
 * @param sinkFor - where a variant's files go
 * @throws IterisError `samples_invalid` if an adapter has no texts to be compared on
 */
export async function compareMethods(
  engine: Engine,
  job: CompareMethodsJob,
  context: RunContext,
  sinkFor: (name: string) => Sink,
): Promise<{ variants: Made[]; report: CompareReport; device: DeviceChoice }> {
  // Told before the first merge rather than after the last.
  textsOf(job.adapters);
  const variants: Made[] = [];
  const merged: MergedSource[] = [];
  let { device } = job;
  for (const variant of job.variants) {
    const { name, options } = variant;
    const sink = sinkFor(name);
    const made = await makeVariant(engine, { ...job, device }, variant, context, sink);
    // One choice for all: what is compared must not differ by the device.
    device = made.device.kind;
    const { report } = made;
    variants.push({ name, method: options.method ?? "iteris", report, seconds: report.seconds.total });
    merged.push({ name, files: await sink.sources() });
  }
  const result = await compareMerged(engine, { ...job, device, merged: [...merged, ...job.merged] }, context);
  return { variants, ...result };
}

/** Compares what is merged with the tasks' own adapters, on held-out samples or else on those of the calibration. */
export async function compareMerged(
  engine: Engine,
  job: Omit<CompareMethodsJob, "variants">,
  context: RunContext,
): Promise<{ report: CompareReport; device: DeviceChoice }> {
  const { maxLength = null, maxNewTokens = null } = job.options;
  const { report, device } = await engine.compare(
    {
      base: job.base,
      adapters: textsOf(job.adapters),
      merged: [...job.merged],
      maxLength,
      maxNewTokens,
      device: job.device,
    },
    context,
  );
  return { report: { ...report, notes: [...calibrationNotes(job.adapters), ...report.notes] }, device };
}

/** Numbers on texts that a method has seen flatter it. */
function calibrationNotes(adapters: readonly ComparedAdapter[]): string[] {
  const seen = adapters.filter(({ heldOut }) => heldOut === null).map(({ name }) => name);
  if (seen.length === 0) return [];
  return [
    `compared on the samples that methods were calibrated on, for want of held-out ones: ${seen.join(", ")}`,
  ];
}
