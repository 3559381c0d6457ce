/**
 * The workers that help at one merge: started when the core says how many are worth it, ended with the merge.
 *
 * What goes wrong in one of them, a worker that dies among it, is the error of every question that it has not answered,
 * and so of the merge.
 */
import { cancelled, IterisError, toIterisError } from "../errors.ts";
import type { WireFile } from "../sources/wire.ts";
import type { WorkersRequest } from "../types.ts";
import type { MergeSource, SourceFile, Team } from "../wasm-interface.ts";
import type { FromHelper, SharedJob, ToHelper } from "./share.ts";

/** Another worker, as much of it as is used. */
export interface Helper {
  post(message: ToHelper): void;
  end(): void;
}

/** What helpers need of the place they run in. */
export interface HelperHost {
  /** Cores of the machine, this one among them. */
  cores: number;
  /** Memory of the machine, as far as it is told. */
  memoryBytes?: number | undefined;
  /**
   * @param onMessage - called with what it says
   * @param onFailure - called when it is of no use any more
   */
  start(onMessage: (message: FromHelper) => void, onFailure: (error: IterisError) => void): Helper;
}

/** A helper, and what it has been asked. */
interface Member {
  helper: Helper;
  asked: Map<number, { resolve(answer: Uint8Array): void; reject(error: IterisError): void }>;
  failure: IterisError | null;
}

/** How often a call that waits for helpers looks whether it was cancelled. */
const LOOK_MILLISECONDS = 100;

/** A file as another worker opens it; `null` where only this one can read it. */
function wireOf({ name, blob, url }: SourceFile): WireFile | null {
  if (blob !== undefined) return { name, blob };
  return url === undefined ? null : { name, url };
}

function wireAll(files: readonly SourceFile[]): WireFile[] | null {
  const wired = files.map(wireOf).filter((file) => file !== null);
  return wired.length === files.length ? wired : null;
}

/** The inputs as they cross; `null` where they cannot. */
function sharedJob({ base, adapters, options }: MergeSource): SharedJob | null {
  const shared = { base: wireAll(base), adapters: adapters.map(({ files }) => wireAll(files)) };
  if (shared.base === null) return null;
  const wired = adapters.flatMap(({ name, weight }, index) => {
    const files = shared.adapters[index];
    return files ? [{ name, files, ...(weight === undefined ? {} : { weight }) }] : [];
  });
  return wired.length === adapters.length ? { base: shared.base, adapters: wired, options } : null;
}

/** A fault of a helper: the module of the engine itself is in order, and the next merge has other helpers. */
export class HelperFault extends IterisError {}

/** What the core is told of workers that it may start. */
export function availableAt(
  { cores, memoryBytes }: HelperHost,
  workers: WorkersRequest,
): Pick<Team, "exactly" | "cores" | "memoryBytes"> {
  return workers === "auto" ? { cores: cores - 1, memoryBytes } : { exactly: workers - 1 };
}

/** The helpers of one merge. */
export class Pool {
  readonly #host: HelperHost;
  readonly #module: () => WebAssembly.Module;
  readonly #isCancelled: () => boolean;
  readonly #members: Member[] = [];
  #ids = 0;
  #looking: ReturnType<typeof setInterval> | undefined;

  /**
   * @param module - the compiled module
   * @param isCancelled - asked while helpers are waited for
   */
  constructor(host: HelperHost, module: () => WebAssembly.Module, isCancelled: () => boolean) {
    this.#host = host;
    this.#module = module;
    this.#isCancelled = isCancelled;
  }

  /** What the core is given to start and to ask helpers; `undefined` where there can be none. */
  team(source: MergeSource, workers: WorkersRequest): Team | undefined {
    const job = sharedJob(source);
    if (job === null || workers === 1) return undefined;
    return {
      ...availableAt(this.#host, workers),
      start: (count) => {
        for (let started = 0; started < count; started += 1) this.#start(job);
      },
      ask: (worker, question) => this.#ask(worker, question),
    };
  }

  /** The error as the fault of a helper, if it is one. */
  blame(error: unknown): unknown {
    const failed = this.#members.some(({ failure }) => failure !== null && failure.code !== "cancelled");
    if (!failed || !(error instanceof IterisError) || error.code !== "internal") return error;
    return new HelperFault(error.code, error.message, { cause: error });
  }

  /** Ends all helpers. */
  close(): void {
    clearInterval(this.#looking);
    for (const { helper } of this.#members.splice(0)) helper.end();
  }

  #start(job: SharedJob): void {
    const member: Member = { helper: { post: () => {}, end: () => {} }, asked: new Map(), failure: null };
    this.#members.push(member);
    this.#looking ??= setInterval(() => {
      if (this.#isCancelled()) for (const one of this.#members) fail(one, cancelled());
    }, LOOK_MILLISECONDS);
    try {
      member.helper = this.#host.start(
        (message) => receive(member, message),
        (error) => fail(member, error),
      );
      member.helper.post({ type: "open", module: this.#module(), job });
    } catch (thrown) {
      fail(member, toIterisError(thrown));
    }
  }

  #ask(worker: number, question: Uint32Array): Promise<Uint8Array> {
    const member = this.#members[worker];
    if (member === undefined) throw new IterisError("internal", "Internal fault: there is no such worker.");
    this.#ids += 1;
    const id = this.#ids;
    const answer = new Promise<Uint8Array>((resolve, reject) => {
      member.asked.set(id, { resolve, reject });
    });
    // Nobody need be waiting for it when it fails.
    answer.catch(() => {});
    if (member.failure === null) member.helper.post({ type: "ask", id, question });
    else fail(member, member.failure);
    return answer;
  }
}

function receive(member: Member, message: FromHelper): void {
  if (message.type === "failed") {
    fail(member, toIterisError(message.error));
    return;
  }
  member.asked.get(message.id)?.resolve(message.answer);
  member.asked.delete(message.id);
}

function fail(member: Member, error: IterisError): void {
  member.failure ??= error;
  for (const { reject } of member.asked.values()) reject(member.failure);
  member.asked.clear();
}
