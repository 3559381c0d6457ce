/** One report of a comparison that was made a task at a time. */
import type { CompareReport } from "../types.ts";

/** The reports of several parts as one. */
export function joinReports(reports: readonly CompareReport[]): CompareReport {
  return {
    tasks: reports.flatMap(({ tasks }) => tasks),
    residuals: reports.flatMap(({ residuals }) => residuals),
    seconds: reports.reduce((sum, { seconds }) => sum + seconds, 0),
    notes: [...new Set(reports.flatMap(({ notes }) => notes))],
  };
}
