/**
 * How far the work is and how long it will still take.
 *
 * Each stage counts for itself, so a bar that showed the counts as they come would run backwards when the next stage
 * begins. And an early guess is worse than none: it starts with silence.
 */
import type { Progress } from "../lib/index.ts";

type Count = Pick<Progress, "stage" | "done" | "total">;

/** Writing comes last and takes little; reading comes first, before anything can be counted. */
const BEFORE_WRITING = 0.97;

/** Share of the stretch of work at hand, 0 to 1, which only grows. */
export function shareDone({ stage, done, total }: Count): number {
  const share = total > 0 ? Math.min(1, done / total) : 0;
  if (stage === "load") return 0;
  if (stage === "compare" || stage === "generate") return share;
  return stage === "write" ? BEFORE_WRITING + (1 - BEFORE_WRITING) * share : BEFORE_WRITING * share;
}

/** Seconds before and share from which an estimate is worth showing. */
const EARLIEST_SECONDS = 1;
const EARLIEST_SHARE = 0.03;

/** Seconds left at the pace so far, or `undefined` while that would be a guess. */
export function secondsLeft(share: number, elapsed: number): number | undefined {
  if (elapsed < EARLIEST_SECONDS || share < EARLIEST_SHARE) return undefined;
  return (elapsed * (1 - share)) / share;
}
