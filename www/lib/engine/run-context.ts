/** How a running call is watched and stopped, wherever it runs. */
import type { CompareReport, Progress } from "../types.ts";

/** Who watches a running call. */
export interface RunContext {
  onProgress(progress: Progress): void;
  cancelled(): boolean;
  /** Where it is listened to, tasks are compared one by one. */
  onTask?: ((report: CompareReport) => void) | undefined;
}
