/**
 * The workers that help at one call: started when the core says how many are worth it, let go with the call.
 *
 * What goes wrong in one of them, a worker that dies among it, is the error of every question that it has not answered,
 * and so of the call.
 */
import { cancelled, IterisError, toIterisError } from "../errors.ts";
import type { WireFile } from "../sources/wire.ts";
import type { WorkersRequest } from "../types.ts";
import type { SourceFile, Team } from "../wasm-interface.ts";
import type { FromHelper, JobName, SharedJob, ToHelper, WireNamed } from "./share.ts";

/** Another worker, as much of it as is used. */
export interface Helper {
  post(message: ToHelper): void;
  /** @param idle - whether it has answered everything and is in order, so that another call may have it */
  end(idle: boolean): void;
}

/** What a call may take by itself. */
export interface Room {
  /** Cores, this one among them. */
  cores: number;
  /** Memory of the machine, as far as it is told. */
  memoryBytes: number | undefined;
}

/** What helpers need of the place they run in. */
export interface HelperHost {
  /** Asked before every call that may have helpers; must not take as long as a script may take to load. */
  room(): Promise<Room>;
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

/** What a call has that helpers open again: samples and prompts come with what they are asked. */
export interface SharedSource {
  base: readonly SourceFile[];
  adapters?: readonly NamedFiles[];
  merged?: readonly NamedFiles[];
  variants?: readonly NamedFiles[];
  options: SharedJob["options"];
}

interface NamedFiles {
  name: string;
  files?: readonly SourceFile[];
  weight?: number;
}

/** Folders as they cross; `null` where one of them cannot. */
function wireNamed(list: readonly NamedFiles[]): WireNamed[] | null {
  const wired = list.flatMap(({ name, files, weight }) => {
    const crossing = files && wireAll(files);
    if (crossing === null) return [];
    const named = { name, ...(weight === undefined ? {} : { weight }) };
    return [crossing === undefined ? named : { ...named, files: crossing }];
  });
  return wired.length === list.length ? wired : null;
}

/** The inputs as they cross; `null` where they cannot. */
function sharedJob(
  name: JobName,
  { base, adapters, merged, variants, options }: SharedSource,
): SharedJob | null {
  const lists: Pick<SharedJob, "adapters" | "merged" | "variants"> = {};
  for (const [kind, list] of Object.entries({ adapters, merged, variants })) {
    if (list === undefined) continue;
    const wired = wireNamed(list);
    if (wired === null) return null;
    lists[kind as keyof typeof lists] = wired;
  }
  const wiredBase = wireAll(base);
  return wiredBase && { name, base: wiredBase, ...lists, options };
}

/** A fault of a helper: the module of the engine itself is in order, and the next call has other helpers. */
export class HelperFault extends IterisError {}

/** What the core is told of workers that it may start. */
export async function availableAt(
  host: HelperHost,
  workers: WorkersRequest,
): Promise<Pick<Team, "exactly" | "cores" | "memoryBytes">> {
  if (workers === 1) return { exactly: 0 };
  const { cores, memoryBytes } = await host.room();
  return workers === "auto" ? { cores: cores - 1, memoryBytes } : { exactly: workers - 1 };
}

/** The helpers of one call. */
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
  async team(name: JobName, source: SharedSource, workers: WorkersRequest): Promise<Team | undefined> {
    const job = sharedJob(name, source);
    if (job === null || workers === 1) return undefined;
    return {
      ...(await availableAt(this.#host, workers)),
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

  /** Lets all helpers go. */
  close(): void {
    clearInterval(this.#looking);
    for (const { helper, asked, failure } of this.#members.splice(0)) {
      helper.end(failure === null && asked.size === 0);
    }
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

  #ask(worker: number, question: Uint8Array): Promise<Uint8Array> {
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
  if (message.type === "ready") return;
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
