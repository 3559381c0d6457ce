/**
 * A worker's share of a call: it opens the inputs again, in a module and a memory of its own, and does what it is asked
 * for: solves layers, sums over some of the samples, writes some of the answers.
 *
 * The compiled module comes along, so that nothing is compiled twice. What goes wrong ends the worker's use: whoever
 * asked fails with its error, and ends the worker. One that is told to rest lets go of the module's memory, which would
 * never shrink.
 */
import { type PlainError, toIterisError, toPlainError } from "../errors.ts";
import type { Sampling } from "../sampling.ts";
import type { WireFile } from "../sources/wire.ts";
import type { MergeOptions } from "../types.ts";
import type { IterisWasm, SourceFile } from "../wasm-interface.ts";
import { explain } from "./explain.ts";
import type { Faults } from "./faults.ts";
import { nextTask } from "./next-task.ts";

/** What can be shared. */
export type JobName = "merge" | "compare" | "generate";

/** Files that have a name together; `files` is left out of a variant that is the base itself. */
export interface WireNamed {
  name: string;
  files?: WireFile[];
  weight?: number;
}

/** The inputs of a call as they cross to another worker. */
export interface SharedJob {
  name: JobName;
  base: WireFile[];
  adapters?: WireNamed[];
  merged?: WireNamed[];
  variants?: WireNamed[];
  options: Record<string, unknown> | Partial<MergeOptions> | Sampling;
}

/** What is said to a worker that helps; after `rest`, when it is `ready`, it may be given another job. */
export type ToHelper =
  | { type: "open"; module: WebAssembly.Module; job: SharedJob }
  | { type: "ask"; id: number; question: Uint8Array }
  | { type: "rest" };

/** What it says: `ready` when it is loaded, and when it has let go of a job. */
export type FromHelper =
  | { type: "ready" }
  | { type: "answer"; id: number; answer: Uint8Array }
  | { type: "failed"; error: PlainError };

/** What a helper needs of the place it runs in. */
export interface ShareHost {
  wasm: IterisWasm;
  open(files: readonly WireFile[]): Promise<SourceFile[]>;
  /** @param answer - handed over, not copied */
  post(message: FromHelper, handedOver: ArrayBuffer[]): void;
  faults: Faults;
  lastPanic(): string | null;
}

/** Answers messages with the module. */
export class Share {
  readonly #host: ShareHost;
  readonly #asked: { id: number; question: Uint8Array }[] = [];
  #wake: (() => void) | null = null;
  /** Whether the job came to a good end; `null` where there is none. */
  #job: Promise<boolean> | null = null;
  #resting = false;

  constructor(host: ShareHost) {
    this.#host = host;
  }

  /** Handles one message; resolves when what it begins is over. */
  async receive(message: ToHelper): Promise<void> {
    switch (message.type) {
      case "open":
        this.#job = this.#help(message);
        await this.#job;
        return;
      case "ask":
        this.#asked.push(message);
        this.#wake?.();
        return;
      case "rest":
        return this.#rest();
    }
  }

  async #help({ module, job }: Extract<ToHelper, { type: "open" }>): Promise<boolean> {
    const { wasm, faults } = this.#host;
    try {
      // The asynchronous way keeps hold of the first instance for as long as the script runs.
      wasm.initSync({ module });
      await faults.guard(this.#solve(job));
      return true;
    } catch (thrown) {
      const evidence = { doing: "helping", progress: null, panic: this.#host.lastPanic(), module: wasm };
      this.#host.post({ type: "failed", error: toPlainError(explain(thrown, evidence)) }, []);
      return false;
    }
  }

  /** Ends the job, and says when that is done. */
  async #rest(): Promise<void> {
    this.#resting = true;
    this.#wake?.();
    const ended = await this.#job;
    // One that failed, in the middle of a pass for want of a question, may have left things behind that go on.
    if (ended === false) return;
    this.#job = null;
    this.#resting = false;
    // What the module has still left to microtasks runs before it is gone.
    await nextTask();
    if (ended) this.#host.wasm.__wbg_reset_state();
    this.#host.post({ type: "ready" }, []);
  }

  async #solve({ name, base, adapters = [], merged = [], variants = [], options }: SharedJob): Promise<void> {
    const { open, wasm } = this.#host;
    const opened = (list: WireNamed[]) =>
      Promise.all(list.map(async (one) => (one.files ? { ...one, files: await open(one.files) } : one)));
    const source = {
      base: await open(base),
      adapters: await opened(adapters),
      merged: await opened(merged),
      variants: await opened(variants),
      options,
    };
    let id = 0;
    await wasm.solveShare(name, source, {
      next: async () => {
        const next = await this.#next();
        id = next?.id ?? id;
        return next?.question;
      },
      answer: async (answer) => {
        this.#host.post({ type: "answer", id, answer }, [answer.buffer as ArrayBuffer]);
      },
    });
  }

  /** What it is asked next; `undefined` where nothing more comes. */
  async #next(): Promise<{ id: number; question: Uint8Array } | undefined> {
    for (;;) {
      if (this.#resting) return undefined;
      const next = this.#asked.shift();
      if (next !== undefined) return next;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** Tells `post` of what ends the worker outside of any call. */
export function failedOutside(thrown: unknown): FromHelper {
  return { type: "failed", error: toPlainError(toIterisError(thrown)) };
}
