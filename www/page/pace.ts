/**
 * How far the work is and how long it will still take.
 *
 * Each stage counts for itself, so a bar that showed the counts as they come would run backwards when the next stage
 * begins. And an early guess is worse than none: it starts with silence.
 */
import type { Progress } from "../lib/index.ts";

type Count = Pick<Progress, "stage" | "done" | "total">;

/** What follows a pass of the model takes little. */
const BEFORE_WRITING = 0.97;
/** The report comes last. */
const BEFORE_REPORT = 0.99;

/**
 * Share of the stretch of work at hand, 0 to 1, which only grows.
 *
 * Layers are merged and written in turns, without a pass of the model before them or after one; where the share stands
 * already higher it stays there.
 *
 * @param before - the share so far
 */
export function shareDone({ stage, done, total }: Count, before = 0): number {
  const share = total > 0 ? Math.min(1, done / total) : 0;
  return Math.max(before, WEIGHT[stage] * share);
}

const WEIGHT: Readonly<Record<Progress["stage"], number>> = {
  load: 0,
  forward: BEFORE_WRITING,
  gram: BEFORE_WRITING,
  solve: BEFORE_WRITING,
  merge: BEFORE_REPORT,
  write: BEFORE_REPORT,
  compare: 1,
  generate: 1,
};

/** Seconds before and share from which an estimate is worth showing. */
const EARLIEST_SECONDS = 1;
const EARLIEST_SHARE = 0.03;

/** Seconds left at the pace so far, or `undefined` while that would be a guess. */
export function secondsLeft(share: number, elapsed: number): number | undefined {
  if (elapsed < EARLIEST_SECONDS || share < EARLIEST_SHARE) return undefined;
  return (elapsed * (1 - share)) / share;
}
