/**
 * Several merges of the same inputs, one after the other, and one comparison of all of them.
 *
 * A merge's state is gone before the next one begins; only what it wrote is kept, and where that is kept is the
 * sink's affair.
 */
import { cpuBecause } from "../device/choose.ts";
import { IterisError, toIterisError, toPlainError } from "../errors.ts";
import { DEFAULT_METHOD } from "../generated.ts";
import { methodFacts } from "../methods.ts";
import type { TaskSet } from "../samples/pictures.ts";
import type {
  CompareReport,
  DeviceChoice,
  FailedVariant,
  MergedVariant,
  MergeOptions,
  OutputFile,
} from "../types.ts";
import type { MergedSource } from "../wasm-interface.ts";
import { type Engine, type MergeJob, retires } from "./engine.ts";
import { joinReports } from "./join-reports.ts";
import type { Variant } from "./methods-request.ts";
import type { JobAdapter } from "./prepare.ts";
import type { RunContext } from "./run-context.ts";
import type { Sink } from "./sink.ts";

/** An adapter that may have held-out samples. */
export interface ComparedAdapter extends JobAdapter {
  heldOut: TaskSet | null;
}

/** What is to be compared, merges apart. */
export interface CompareMergedJob extends Omit<MergeJob, "options"> {
  adapters: ComparedAdapter[];
  /** Merged before, to be compared along. */
  merged: readonly MergedSource[];
  /** What the comparison itself looks at. */
  options: Pick<Partial<MergeOptions>, "maxLength" | "maxNewTokens">;
  /** The tasks to compare on; all where it is left out. */
  tasks?: readonly string[] | undefined;
  /** Classes that a model of pictures and texts chooses from. */
  labels?: readonly string[] | undefined;
}

/** Several merges, all inputs opened and parsed. */
export interface CompareMethodsJob extends CompareMergedJob {
  variants: readonly Variant[];
  /** What a merge that cannot be made does to the rest. */
  failures?: "stop" | "skip" | undefined;
}

/** A merge that was made. */
export type Made = Omit<MergedVariant, "files">;

/** Who watches a call that merges and compares. */
export interface CompareContext extends RunContext {
  /** Called with each merge that is made, and with its files, if its sink keeps any. */
  onVariant?: ((made: Made, files: OutputFile[]) => void) | undefined;
  onFailure?: ((failure: FailedVariant) => void) | undefined;
}

/** The adapters of the tasks that are compared on. */
function testedOf({ adapters, tasks }: Pick<CompareMergedJob, "adapters" | "tasks">): ComparedAdapter[] {
  const unknown = tasks?.find((task) => adapters.every(({ name }) => name !== task));
  if (unknown !== undefined) {
    throw new IterisError("option_invalid", `tasks names no adapter of the request: ${unknown}`);
  }
  return adapters.filter(({ name }) => tasks === undefined || tasks.includes(name));
}

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

/**
 * Refuses a comparison that could not be made, before the first merge rather than after the last.
 *
 * @throws IterisError `samples_invalid` if a task has no texts, `option_invalid` for a task that is none
 */
export function checkTexts(job: Pick<CompareMergedJob, "adapters" | "tasks">): void {
  textsOf(testedOf(job));
}

/** Merges in one way, into `sink`. */
export async function makeVariant(
  engine: Engine,
  job: Omit<MergeJob, "options">,
  { name, options }: Variant,
  context: CompareContext,
  sink: Sink,
): Promise<Made> {
  const named: RunContext = {
    onProgress: (progress) => context.onProgress({ ...progress, variant: name }),
    cancelled: context.cancelled,
  };
  const { report, device } = await engine.merge({ ...job, options }, named, sink);
  const { total: seconds } = report.seconds;
  const made = { name, method: options.method ?? DEFAULT_METHOD, report, seconds, device };
  context.onVariant?.(made, await sink.files());
  return made;
}

/** What was thrown by one of several merges, as the failure of all. Not every way suits all inputs, so it is named. */
export function failureOf(name: string, thrown: unknown): IterisError {
  const error = toIterisError(thrown);
  if (retires(error)) return error;
  return new IterisError(error.code, `${name}: ${error.message}`, { cause: thrown });
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
  context: CompareContext,
  sinkFor: (name: string) => Sink,
): Promise<{ variants: Made[]; failed: FailedVariant[]; report: CompareReport; device: DeviceChoice }> {
  checkTexts(job);
  const variants: Made[] = [];
  const failed: FailedVariant[] = [];
  const merged: MergedSource[] = [];
  let { device } = job;
  for (const variant of job.variants) {
    const { name, options } = variant;
    const sink = sinkFor(name);
    try {
      const made = await makeVariant(engine, { ...job, device }, variant, context, sink);
      // One choice for all that run the model: what is compared must not differ by the device.
      if (methodFacts(made.method).samples) device = made.device.kind;
      variants.push(made);
      merged.push({ name, files: await sink.sources() });
    } catch (thrown) {
      if (job.failures !== "skip" || retires(toIterisError(thrown))) throw failureOf(name, thrown);
      const failure = { name, method: options.method ?? DEFAULT_METHOD, error: toPlainError(thrown) };
      failed.push(failure);
      context.onFailure?.(failure);
    }
  }
  const compared = await compareMerged(
    engine,
    { ...job, device, merged: [...merged, ...job.merged] },
    context,
  );
  const nothing = () => cpuBecause("Nothing was merged, and nothing compared.");
  const used = compared.device ?? variants.at(-1)?.device ?? nothing();
  return { variants, failed, report: compared.report, device: used };
}

/** Several merges whose files are kept, each by a sink of its own, until all are handed out. */
export async function keepingFiles<Outcome extends { variants: Made[] }>(
  newSink: () => Sink,
  work: (sinkFor: (name: string) => Sink) => Promise<Outcome>,
): Promise<Omit<Outcome, "variants"> & { variants: MergedVariant[] }> {
  const sinks = new Map<string, Sink>();
  const { variants, ...rest } = await work((name) => {
    const sink = newSink();
    sinks.set(name, sink);
    return sink;
  });
  const kept = variants.map(async (made) => ({
    ...made,
    files: (await sinks.get(made.name)?.files()) ?? [],
  }));
  return { ...rest, variants: await Promise.all(kept) };
}

/**
 * Compares what is merged with the tasks' own adapters, on held-out samples or else on those of the calibration.
 * Where there is nothing to compare, or nothing to compare on, the report is empty, and no device is used.
 */
export async function compareMerged(
  engine: Engine,
  job: CompareMergedJob,
  context: RunContext,
): Promise<{ report: CompareReport; device: DeviceChoice | null }> {
  const tested = testedOf(job);
  if (tested.length === 0 || job.merged.length === 0) {
    return { report: joinReports([]), device: null };
  }
  const { maxLength = null, maxNewTokens = null } = job.options;
  const { report, device } = await engine.compare(
    {
      base: job.base,
      adapters: textsOf(tested),
      merged: [...job.merged],
      maxLength,
      maxNewTokens,
      labels: job.labels,
      device: job.device,
      workers: job.workers,
      gaveUp: job.gaveUp,
    },
    context,
  );
  return { report: { ...report, notes: [...calibrationNotes(tested), ...report.notes] }, device };
}

/** Numbers on texts that a method has seen flatter it. */
function calibrationNotes(adapters: readonly ComparedAdapter[]): string[] {
  const seen = adapters.filter(({ heldOut }) => heldOut === null).map(({ name }) => name);
  if (seen.length === 0) return [];
  return [
    `compared on the samples that methods were calibrated on, for want of held-out ones: ${seen.join(", ")}`,
  ];
}
