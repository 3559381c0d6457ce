/**
 * The page's side of the workers that help: starts and ends them as its worker asks, and ends all when that one is ended.
 * What they are asked and what they answer goes from worker to worker, and does not wait for the page.
 */
import type { AboutHelper, HelperFailed, ToHelperWorker } from "./protocol.ts";

/** As much of a helper's `Worker` as the page uses. */
export interface HelperWorker {
  postMessage(message: ToHelperWorker, handedOver: Transferable[]): void;
  terminate(): void;
  onerror: ((event: ErrorEvent) => void) | null;
}

/** The helpers of one worker. */
export class PageHelpers {
  readonly #start: () => HelperWorker;
  readonly #tell: (message: HelperFailed) => void;
  readonly #workers = new Map<number, HelperWorker>();

  /**
   * @param start - starts a worker
   * @param tell - posts to the worker that they help
   */
  constructor(start: () => HelperWorker, tell: (message: HelperFailed) => void) {
    this.#start = start;
    this.#tell = tell;
  }

  /** Does what the worker asks. */
  receive(message: AboutHelper): void {
    const { helper } = message;
    switch (message.type) {
      case "start-helper":
        this.#begin(helper, message.port);
        return;
      case "tell-helper":
        this.#workers.get(helper)?.postMessage(message.message, []);
        return;
      case "end-helper":
        this.#workers.get(helper)?.terminate();
        this.#workers.delete(helper);
    }
  }

  /** Ends all of them. */
  end(): void {
    for (const worker of this.#workers.values()) worker.terminate();
    this.#workers.clear();
  }

  #begin(helper: number, port: MessagePort): void {
    try {
      const worker = this.#start();
      this.#workers.set(helper, worker);
      worker.onerror = (event) => {
        // It is told to whoever the helper helps, and is no error of the page.
        event.preventDefault();
        this.#failed(helper, event.message || "its script cannot be loaded");
      };
      worker.postMessage({ type: "connect", port }, [port]);
    } catch (thrown) {
      // A policy of the page forbids it.
      this.#failed(helper, String(thrown));
    }
  }

  #failed(helper: number, what: string): void {
    this.#tell({ type: "helper-failed", helper, what });
  }
}
