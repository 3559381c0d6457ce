/**
 * How far the work is.
 *
 * Each stage counts for itself, so a bar that showed the counts as they come would run backwards when the next stage
 * begins.
 */
import { type Progress, shareOf } from "../lib/index.ts";

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
export function shareDone(progress: Progress, before = 0): number {
  return Math.max(before, WEIGHT[progress.stage] * shareOf(progress));
}

const WEIGHT: Readonly<Record<Progress["stage"], number>> = {
  load: 0,
  measure: 0,
  compile: 0,
  forward: BEFORE_WRITING,
  gram: BEFORE_WRITING,
  solve: BEFORE_WRITING,
  merge: BEFORE_REPORT,
  write: BEFORE_REPORT,
  compare: 1,
  generate: 1,
};
