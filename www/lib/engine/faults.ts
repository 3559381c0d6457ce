/**
 * What ends a call from outside the call: a lost GPU, a trap in wasm that nobody awaits.
 *
 * A panic inside an asynchronous wasm function, like a lost GPU, leaves a promise that never settles. So
 * every promise of the core is raced against the faults that its surroundings notice.
 */
import type { IterisError } from "../errors.ts";

/** Where faults are raised and listened to. */
export class Faults {
  readonly #listeners = new Set<(error: IterisError) => void>();

  /** Whether a call is running that a fault would end. */
  get watched(): boolean {
    return this.#listeners.size > 0;
  }

  /** Ends the running calls with `error`. */
  raise(error: IterisError): void {
    for (const listener of [...this.#listeners]) listener(error);
  }

  /** Settles as `work` does, or rejects with the fault that comes first. */
  async guard<T>(work: Promise<T>): Promise<T> {
    let listener: (error: IterisError) => void = () => {};
    const fault = new Promise<never>((_, reject) => {
      listener = reject;
      this.#listeners.add(listener);
    });
    try {
      return await Promise.race([work, fault]);
    } finally {
      this.#listeners.delete(listener);
    }
  }
}
