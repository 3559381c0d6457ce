/** A merge, and then what it is held against: a linear average, and both on samples with the tasks' own adapters. */
import { IterisError } from "../errors.ts";
import { DEFAULT_METHOD } from "../generated.ts";
import { methodFacts } from "../methods.ts";
import type { CompareReport, DeviceChoice, MergedVariant, MergeOptions, MergeReport } from "../types.ts";
import type { MergedSource } from "../wasm-interface.ts";
import {
  type CompareContext,
  type ComparedAdapter,
  checkTexts,
  compareMerged,
  failureOf,
  makeVariant,
} from "./compare-methods.ts";
import type { Engine, MergeJob } from "./engine.ts";
import { BlobSink, type Sink, sourcesOf } from "./sink.ts";

/** A merge job whose adapters may have held-out samples. */
export interface MergeAndCompareJob extends MergeJob {
  adapters: ComparedAdapter[];
  /** The tasks to compare on; left out, those of all adapters if they have held-out samples. */
  tasks?: readonly string[] | undefined;
  /** Classes that a model of pictures and texts chooses from. */
  labels?: readonly string[] | undefined;
  /** Whether a linear average is made; left out, if there is a comparison. */
  average?: boolean | undefined;
}

/** What comes of it; the files of the merge itself are in its sink. */
export interface MergeAndCompareOutcome {
  report: MergeReport;
  device: DeviceChoice;
  comparison: CompareReport | null;
  average: MergedVariant | null;
}

/**
 * Merges into `sink`; then makes the linear average and compares both, as far as that is asked for.
 *
 * @throws IterisError `option_invalid` if only some adapters have held-out samples and `tasks` does not say which are
 * meant
 */
export async function mergeAndCompare(
  engine: Engine,
  job: MergeAndCompareJob,
  context: CompareContext,
  sink: Sink,
  sinkForAverage: () => Sink = () => new BlobSink(),
): Promise<MergeAndCompareOutcome> {
  const tasks = job.tasks ?? tasksWithHeldOut(job.adapters);
  checkTexts({ ...job, tasks });
  const method = methodFacts(job.options.method ?? DEFAULT_METHOD).name;
  const { report, device } = await engine.merge(job, context, sink);
  context.onVariant?.(
    { name: method, method, report, seconds: report.seconds.total, device },
    await sink.files(),
  );

  // What is compared must not differ by the device, if it ran on one that could be another.
  const rest = { ...job, tasks, device: methodFacts(method).samples ? device.kind : job.device };
  const wanted = job.average ?? tasks.length > 0;
  const average =
    wanted && method !== "average" ? await linearAverage(engine, rest, context, sinkForAverage()) : null;
  if (tasks.length === 0) return { report, device, comparison: null, average };
  const merged: MergedSource[] = [{ name: method, files: await sink.sources() }];
  if (average !== null) merged.push({ name: average.name, files: sourcesOf(average.files) });
  const comparison = await compareMerged(engine, { ...rest, merged }, context);
  return { report, device, comparison: comparison.report, average };
}

function tasksWithHeldOut(adapters: readonly ComparedAdapter[]): string[] {
  const without = adapters.filter(({ heldOut }) => heldOut === null).map(({ name }) => name);
  if (without.length === adapters.length) return [];
  if (without.length === 0) return adapters.map(({ name }) => name);
  throw new IterisError(
    "option_invalid",
    `Give held-out samples for every adapter or for none, or name the tasks to compare on; without them: ${without.join(", ")}`,
  );
}

/** The mean of several adapters, if their weights do not cancel out. */
async function linearAverage(
  engine: Engine,
  job: MergeAndCompareJob,
  context: CompareContext,
  sink: Sink,
): Promise<MergedVariant | null> {
  const sum = job.adapters.reduce((sum, { weight = 1 }) => sum + weight, 0);
  if (job.adapters.length < 2 || Math.abs(sum) < 1e-9) return null;
  const variant = { name: "average", options: averageOptions(job.options) };
  try {
    const made = await makeVariant(engine, job, variant, context, sink);
    return { ...made, files: await sink.files() };
  } catch (thrown) {
    throw failureOf(variant.name, thrown);
  }
}

/** Cut to the same rank, as an adapter that can be read back whatever form was asked for. */
function averageOptions({ maxShardBytes: _, ...options }: Partial<MergeOptions>): Partial<MergeOptions> {
  return { ...options, method: "average", output: "adapter", format: "peft" };
}
