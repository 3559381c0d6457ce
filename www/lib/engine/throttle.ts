/** Progress at a pace that a page can draw. */
import type { Progress } from "../types.ts";

/** Between two reports: 20 a second. */
const intervalMilliseconds = 50;

/**
 * Passes on at most 20 reports a second, and the first of every stage, however short; `flush` passes on the last one that
 * was held back.
 */
export class Throttle {
  readonly #send: (progress: Progress) => void;
  readonly #now: () => number;
  #sentAt = Number.NEGATIVE_INFINITY;
  #held: Progress | null = null;
  readonly #begun = new Set<Progress["stage"]>();

  constructor(send: (progress: Progress) => void, now: () => number = () => performance.now()) {
    this.#send = send;
    this.#now = now;
  }

  report(progress: Progress): void {
    const begins = !this.#begun.has(progress.stage);
    this.#begun.add(progress.stage);
    if (!begins && this.#now() - this.#sentAt < intervalMilliseconds) {
      this.#held = progress;
      return;
    }
    this.#held = null;
    this.#sentAt = this.#now();
    this.#send(progress);
  }

  flush(): void {
    if (this.#held !== null) this.#send(this.#held);
    this.#held = null;
  }
}
