/**
 * The workers that help at a merge, started from inside the worker.
 *
 * They are loaded with the worker and rest between calls, one for each further core: a worker's script is a request to
 * the page's server, of which a merge makes none, and which fails where the page is used without a network.
 */
import type { Helper, HelperHost } from "../engine/pool.ts";
import type { FromHelper } from "../engine/share.ts";
import { IterisError } from "../errors.ts";

/** Workers that rest, at most: each has its own copy of the script. Whoever asks for more gets them. */
const MOST_RESTING = 7;

/** How long a call waits for scripts that are being loaded. */
const PATIENCE_MILLISECONDS = 2000;

/** As much of a `Worker` as is used. */
export type HelperWorker = Pick<
  Worker,
  "postMessage" | "terminate" | "onmessage" | "onerror" | "onmessageerror"
>;

/** A new worker. The address must stand here literally: that is how bundlers find the worker's file. */
function newWorker(): HelperWorker {
  return new Worker(new URL("./helper.ts", import.meta.url), { type: "module", name: "iteris helper" });
}

/** The workers of this page. */
export class Helpers implements HelperHost {
  readonly memoryBytes: number | undefined;
  readonly #most: number;
  readonly #newWorker: () => HelperWorker;
  readonly #resting: HelperWorker[] = [];
  /** Those that load, or let go of a call; each resolves when its worker rests or is given up. */
  readonly #settling = new Map<HelperWorker, Promise<void>>();

  /**
   * @param cores - of the machine
   * @param memoryBytes - of the machine, as far as it is told
   */
  constructor(cores: number, memoryBytes: number | undefined, start = newWorker) {
    this.memoryBytes = memoryBytes;
    this.#most = Math.min(cores - 1, MOST_RESTING);
    this.#newWorker = start;
    for (let loaded = 0; loaded < this.#most; loaded += 1) this.#load();
  }

  get cores(): number {
    return 1 + this.#resting.length;
  }

  async settled(): Promise<void> {
    let patience: ReturnType<typeof setTimeout> | undefined;
    const tooLong = new Promise((resolve) => {
      patience = setTimeout(resolve, PATIENCE_MILLISECONDS);
    });
    await Promise.race([Promise.all(this.#settling.values()), tooLong]);
    clearTimeout(patience);
  }

  start(onMessage: (message: FromHelper) => void, onFailure: (error: IterisError) => void): Helper {
    const worker = this.#resting.pop() ?? this.#newWorker();
    const failed = (why: string) => {
      onFailure(new IterisError("internal", `Internal fault: ${why}`));
    };
    worker.onmessage = ({ data }: MessageEvent<FromHelper>) => onMessage(data);
    worker.onerror = (event) => {
      event.preventDefault();
      failed(`a worker failed, ${event.message || "its script or the wasm module cannot be loaded"}`);
    };
    worker.onmessageerror = () => failed("a worker's answer cannot be read.");
    return {
      post: (message) => worker.postMessage(message),
      end: (idle) => {
        if (idle && this.#wantsMore) {
          this.#settle(worker, true);
          worker.postMessage({ type: "rest" });
          return;
        }
        worker.terminate();
        if (this.#wantsMore) this.#load();
      },
    };
  }

  get #wantsMore(): boolean {
    return this.#resting.length + this.#settling.size < this.#most;
  }

  #load(): void {
    try {
      this.#settle(this.#newWorker(), false);
    } catch {
      // A policy of the page forbids it: the worker is alone.
    }
  }

  /**
   * Waits for its word that it is ready. One that fails is given up, and no call hears of it; another takes its place,
   * unless it is the script that cannot be loaded.
   */
  #settle(worker: HelperWorker, loaded: boolean): void {
    const settled = new Promise<void>((resolve) => {
      const over = (rests: boolean) => {
        const at = this.#resting.indexOf(worker);
        if (rests && at === -1) this.#resting.push(worker);
        if (!rests) {
          if (at !== -1) this.#resting.splice(at, 1);
          worker.terminate();
        }
        this.#settling.delete(worker);
        if (!rests && (loaded || at !== -1) && this.#wantsMore) this.#load();
        resolve();
      };
      worker.onmessage = ({ data }: MessageEvent<FromHelper>) => over(data.type === "ready");
      worker.onerror = (event) => {
        event.preventDefault();
        over(false);
      };
      worker.onmessageerror = () => over(false);
    });
    this.#settling.set(worker, settled);
  }
}

/** `undefined` where a worker cannot start others. */
export function helperHost(): HelperHost | undefined {
  if (typeof Worker === "undefined") return undefined;
  const { deviceMemory, hardwareConcurrency } = navigator as Navigator & { deviceMemory?: number };
  // Browsers tell no more than 8 GiB, so as not to tell machines apart.
  const memoryBytes = deviceMemory === undefined ? undefined : deviceMemory * 2 ** 30;
  return new Helpers(hardwareConcurrency, memoryBytes);
}
