/** How long the work will still take. An early guess is worse than none, so it starts with silence. */
import type { Progress } from "../lib/index.ts";

/** Seconds before and share from which an estimate is worth showing. */
const EARLIEST_SECONDS = 1;
const EARLIEST_SHARE = 0.03;

/** Seconds left at the pace so far, or `undefined` while that would be a guess. */
export function secondsLeft(progress: Pick<Progress, "done" | "total">, elapsed: number): number | undefined {
  const share = progress.total > 0 ? progress.done / progress.total : 0;
  if (elapsed < EARLIEST_SECONDS || share < EARLIEST_SHARE || share > 1) return undefined;
  return (elapsed * (1 - share)) / share;
}
