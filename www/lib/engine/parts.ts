/** A comparison made one task at a time: progress over all of them, and one report of all. */
import type { CompareReport } from "../types.ts";
import type { RunContext } from "./run-context.ts";

/** The context of one part of a comparison, whose steps count as a share of the whole. */
export function partOf(
  { onProgress, cancelled }: RunContext,
  { number, of, task }: { number: number; of: number; task: string },
): RunContext {
  return {
    cancelled,
    onProgress: (progress) => {
      // What is written first counts in tokens, each stretch for itself.
      const { stage, done, total } = progress;
      const steps =
        stage === "compare" ? { done: number * total + done, total: of * total } : { done, total };
      onProgress({ ...progress, ...steps, task });
    },
  };
}

/** The reports of several parts as one. */
export function joinReports(reports: readonly CompareReport[]): CompareReport {
  return {
    tasks: reports.flatMap(({ tasks }) => tasks),
    residuals: reports.flatMap(({ residuals }) => residuals),
    seconds: reports.reduce((sum, { seconds }) => sum + seconds, 0),
    notes: [...new Set(reports.flatMap(({ notes }) => notes))],
  };
}
