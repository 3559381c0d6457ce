/**
 * The workers that help at a merge rest between calls, one for each further core.
 *
 * A worker's script is a request to the page's server, of which a merge makes none, and which fails where the page is
 * used without a network. So they are loaded with the worker that they help, and kept.
 */
import type { Helper, HelperHost, Room } from "../engine/pool.ts";
import type { FromHelper } from "../engine/share.ts";
import type { IterisError } from "../errors.ts";

/** Workers that rest, at most: each has its own copy of the script. Whoever asks for more gets them. */
const MOST_RESTING = 7;

/** How long a call waits for scripts that are being loaded. */
const PATIENCE_MILLISECONDS = 2000;

/**
 * How many workers to load beside the first.
 *
 * @param cores - of the machine
 * @param memoryGib - of the machine, as far as the browser tells it
 */
export function mostResting(cores: number, memoryGib: number | undefined): number {
  // What each takes while it merges is weighed by the core. This keeps small machines from loading what they never use.
  const room = memoryGib === undefined ? MOST_RESTING : Math.floor(memoryGib) - 1;
  return Math.max(0, Math.min(cores - 1, room, MOST_RESTING));
}

/** A worker, and who hears of it: a call, or whoever waits until it rests. */
interface Loaded {
  helper: Helper;
  hear(message: FromHelper): void;
  lose(error: IterisError): void;
}

/** Helpers that a call finds loaded. */
export class RestingHelpers implements HelperHost {
  readonly #start: HelperHost["start"];
  readonly #most: number;
  readonly #memoryBytes: number | undefined;
  readonly #resting: Loaded[] = [];
  /** Those that load, or let go of a call; each resolves when it rests or is given up. */
  readonly #settling = new Map<Loaded, Promise<void>>();

  /**
   * @param start - starts a worker
   * @param most - how many may rest
   * @param memoryBytes - of the machine, as far as it is told
   */
  constructor(start: HelperHost["start"], most: number, memoryBytes: number | undefined) {
    this.#start = start;
    this.#most = most;
    this.#memoryBytes = memoryBytes;
    this.#fill();
  }

  async room(): Promise<Room> {
    // One that was lost is replaced here. That is a request, and where it fails the call goes on without.
    this.#fill();
    let patience: ReturnType<typeof setTimeout> | undefined;
    const tooLong = new Promise((resolve) => {
      patience = setTimeout(resolve, PATIENCE_MILLISECONDS);
    });
    await Promise.race([Promise.all(this.#settling.values()), tooLong]);
    clearTimeout(patience);
    return { cores: 1 + this.#resting.length, memoryBytes: this.#memoryBytes };
  }

  start(onMessage: (message: FromHelper) => void, onFailure: (error: IterisError) => void): Helper {
    const loaded = this.#resting.pop() ?? this.#load();
    loaded.hear = onMessage;
    loaded.lose = onFailure;
    return {
      post: (message) => loaded.helper.post(message),
      end: (idle) => {
        if (idle && this.#wantsMore) {
          this.#settle(loaded);
          loaded.helper.post({ type: "rest" });
        } else {
          loaded.helper.end(false);
        }
      },
    };
  }

  get #wantsMore(): boolean {
    return this.#resting.length + this.#settling.size < this.#most;
  }

  #fill(): void {
    while (this.#wantsMore) this.#settle(this.#load());
  }

  #load(): Loaded {
    const heard = {
      hear: (_: FromHelper) => {},
      lose: (_: IterisError) => {},
    };
    const helper = this.#start(
      (message) => heard.hear(message),
      (error) => heard.lose(error),
    );
    return Object.assign(heard, { helper });
  }

  /** Waits for its word that it is ready. One that says anything else, then or while it rests, is given up. */
  #settle(loaded: Loaded): void {
    const settled = new Promise<void>((resolve) => {
      const giveUp = () => {
        this.#settling.delete(loaded);
        const at = this.#resting.indexOf(loaded);
        if (at !== -1) this.#resting.splice(at, 1);
        loaded.helper.end(false);
        resolve();
      };
      loaded.lose = giveUp;
      loaded.hear = ({ type }) => {
        if (type !== "ready") return giveUp();
        loaded.hear = giveUp;
        this.#settling.delete(loaded);
        this.#resting.push(loaded);
        resolve();
      };
    });
    this.#settling.set(loaded, settled);
  }
}
