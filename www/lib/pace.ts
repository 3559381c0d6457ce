/**
 * How long work will still take, told from its progress alone.
 *
 * Each stage counts for itself and goes at a pace of its own, so an estimate is of the stage at hand. It begins with
 * silence, since an early guess is worse than none, and follows the pace slowly: layers differ in size, and a number
 * that jumps with each of them tells nothing.
 */
import type { Progress } from "./types.ts";

/** Of a stage, before an estimate is worth showing. */
const earliestSeconds = 2;
const earliestShare = 0.03;
/** So long does an estimate take to follow most of the way to another pace. */
const followSeconds = 5;

/** Share of the stage that is done, 0 to 1: of its bytes where they are counted, else of its steps. */
export function shareOf({ done, total, bytesDone, bytesTotal }: Progress): number {
  if (bytesDone !== undefined && bytesTotal !== undefined && bytesTotal > 0) {
    return Math.min(1, bytesDone / bytesTotal);
  }
  return total > 0 ? Math.min(1, done / total) : 0;
}

/** The stages that take turns, layer after layer, and count the same layers. */
const inTurns: Partial<Record<Progress["stage"], string>> = {
  forward: "pass",
  gram: "pass",
  solve: "pass",
  merge: "layers",
  write: "layers",
};

/** One count from its begin to its end. */
interface Stretch {
  begunSeconds: number;
  begunShare: number;
  share: number;
  /** When it will end by the pace so far, in seconds since the work began; `null` while that would be a guess. */
  end: number | null;
  /** Of the last report. */
  seconds: number;
}

/** Follows the progress of one piece of work. */
export class Pace {
  readonly #stretches = new Map<string, Stretch>();

  /**
   * Takes a report in.
   *
   * @returns seconds that the stage at hand will still take; `null` while that would be a guess
   */
  secondsLeft(progress: Progress): number | null {
    const { stage, seconds, variant = "", task = "" } = progress;
    const share = shareOf(progress);
    const key = [inTurns[stage] ?? stage, variant, task].join("\n");
    const known = this.#stretches.get(key);
    // A count that has fallen so far has begun again; one that falls by a step is another stage's of the same layers.
    if (known === undefined || share < known.share / 2 || seconds < known.seconds) {
      this.#stretches.set(key, { begunSeconds: seconds, begunShare: share, share, end: null, seconds });
      return null;
    }
    known.share = Math.max(known.share, share);
    const spent = seconds - known.begunSeconds;
    const gained = known.share - known.begunShare;
    if (spent >= earliestSeconds && gained >= earliestShare) {
      const end = seconds + (spent / gained) * (1 - known.share);
      const weight = known.end === null ? 1 : 1 - Math.exp((known.seconds - seconds) / followSeconds);
      known.end = (known.end ?? 0) * (1 - weight) + end * weight;
    }
    known.seconds = seconds;
    return known.end === null ? null : Math.max(0, known.end - seconds);
  }
}
