/**
 * The worker's side of the protocol, apart from the worker itself so that a test can drive it.
 *
 * One call runs at a time (the page queues). While it runs, a `cancel` message is seen whenever the core
 * reports progress, because reporting lets waiting messages in.
 */
import {
  type CompareContext,
  type ComparedAdapter,
  compareMethods,
  keepingFiles,
} from "../engine/compare-methods.ts";
import { type Engine, retires } from "../engine/engine.ts";
import { mergeAndCompare } from "../engine/merge-and-compare.ts";
import { OriginDisk } from "../engine/origin-disk.ts";
import type { RunContext } from "../engine/run-context.ts";
import { BlobSink } from "../engine/sink.ts";
import { toIterisError, toPlainError } from "../errors.ts";
import { factsOf } from "../samples/facts.ts";
import { openSamples } from "../samples/open.ts";
import { type TaskSet, textsOf } from "../samples/pictures.ts";
import { placedOf } from "../samples/read.ts";
import { openFiles } from "../sources/open.ts";
import type { WireFile, WireSamples } from "../sources/wire.ts";
import type {
  Call,
  CallEvent,
  CallName,
  Calls,
  FromWorker,
  HelperFailed,
  ToWorker,
  WireAdapter,
} from "./protocol.ts";

function readIfGiven(samples: WireSamples | null): Promise<TaskSet | null> {
  return samples === null ? Promise.resolve(null) : openSamples(samples);
}

async function openAdapter(adapter: WireAdapter): Promise<ComparedAdapter> {
  const [files, samples, heldOut] = await Promise.all([
    openFiles(adapter.files),
    adapter.samples !== null && "self" in adapter.samples ? adapter.samples : readIfGiven(adapter.samples),
    readIfGiven(adapter.heldOut),
  ]);
  return { name: adapter.name, weight: adapter.weight, files, samples, heldOut };
}

function openNamed(list: { name: string; files: WireFile[] }[]) {
  return Promise.all(list.map(async ({ name, files }) => ({ name, files: await openFiles(files) })));
}

/** A running call as the worker sees it. */
interface Running {
  tell(event: CallEvent): void;
  cancelled(): boolean;
}

/** @param disk - the page's folder; each merge gets one of its own inside */
function newSinkOn(disk: string | null): BlobSink {
  return new BlobSink(disk === null ? null : new OriginDisk(`${disk}/${crypto.randomUUID()}`));
}

function contextOf({ tell, cancelled }: Running): RunContext {
  return { onProgress: (value) => tell({ name: "progress", value }), cancelled };
}

function comparing(running: Running, taskByTask: boolean): CompareContext {
  const { tell } = running;
  return {
    ...contextOf(running),
    onVariant: (made, files) => tell({ name: "variant", value: { ...made, files } }),
    onFailure: (value) => tell({ name: "failure", value }),
    onTask: taskByTask ? (value) => tell({ name: "task", value }) : undefined,
  };
}

async function answer(engine: Engine, call: Call, running: Running): Promise<Calls[CallName]["answer"]> {
  const context = contextOf(running);
  switch (call.name) {
    case "merge": {
      const { base, adapters, taskByTask, disk, ...rest } = call.ask;
      const newSink = () => newSinkOn(disk);
      const sink = newSink();
      const job = {
        ...rest,
        base: await openFiles(base),
        adapters: await Promise.all(adapters.map(openAdapter)),
      };
      const watching = comparing(running, taskByTask);
      const result = await mergeAndCompare(engine, job, watching, sink, newSink);
      return { ...result, files: await sink.files() };
    }
    case "planMerge": {
      const { base, adapters, ...rest } = call.ask;
      const opened = adapters.map(async (one) => ({ ...one, files: await openFiles(one.files) }));
      return engine.plan({ ...rest, base: await openFiles(base), adapters: await Promise.all(opened) });
    }
    case "compare": {
      const { base, adapters, merged, ...rest } = call.ask;
      const job = {
        ...rest,
        base: await openFiles(base),
        adapters: await Promise.all(adapters.map(openAdapter)),
        merged: await openNamed(merged),
      };
      return engine.compare(job, context);
    }
    case "compareMethods": {
      const { base, adapters, merged, taskByTask, disk, ...rest } = call.ask;
      const job = {
        ...rest,
        base: await openFiles(base),
        adapters: await Promise.all(adapters.map(openAdapter)),
        merged: await openNamed(merged),
      };
      const watching = comparing(running, taskByTask);
      return keepingFiles(
        () => newSinkOn(disk),
        (sinkFor) => compareMethods(engine, job, watching, sinkFor),
      );
    }
    case "generate": {
      const { base, variants, prompts, samples, images, ...rest } = call.ask;
      const job = {
        ...rest,
        ...(images === null ? {} : { images: await openFiles(images) }),
        prompts: [...prompts, ...placedOf(textsOf(await readIfGiven(samples)))],
        base: await openFiles(base),
        variants: await Promise.all(
          variants.map(async ({ name, files }) => ({
            name,
            ...(files === null ? {} : { files: await openFiles(files) }),
          })),
        ),
      };
      return engine.generate(job, context);
    }
    case "inspectBase":
      return engine.inspectBase(await openFiles(call.ask));
    case "inspectAdapter":
      return engine.inspectAdapter(await openFiles(call.ask));
    case "digestFiles":
      return engine.digests(await openFiles(call.ask), context);
    case "inspectSamples":
      return factsOf(await openSamples(call.ask));
    case "chooseDevice":
      return engine.chooseDevice(call.ask);
    case "defaultOptions":
      return engine.defaultOptions();
    case "version":
      return engine.version();
  }
}

/** What the page tells of things beside the engine, and who hears it. */
export interface Place {
  loseDevice(): void;
  helperFailed(message: HelperFailed): void;
}

/** Answers messages with an engine. */
export class WorkerHost {
  readonly #engine: Engine;
  readonly #post: (message: FromWorker) => void;
  readonly #place: Place;
  readonly #cancelled = new Set<number>();

  constructor(engine: Engine, post: (message: FromWorker) => void, place: Place) {
    this.#engine = engine;
    this.#post = post;
    this.#place = place;
  }

  /** Handles one message of the page; resolves when it is answered. */
  async receive(message: ToWorker): Promise<void> {
    switch (message.type) {
      case "call":
        return this.#run(message.id, message.call);
      case "cancel":
        this.#cancelled.add(message.id);
        return;
      case "lose-device":
        this.#place.loseDevice();
        return;
      case "helper-failed":
        this.#place.helperFailed(message);
    }
  }

  async #run(id: number, call: Call): Promise<void> {
    const running: Running = {
      tell: (event) => this.#post({ type: "event", id, event }),
      cancelled: () => this.#cancelled.has(id),
    };
    try {
      this.#post({ type: "done", id, answer: await answer(this.#engine, call, running) });
    } catch (thrown) {
      const retire = retires(toIterisError(thrown));
      this.#post({ type: "failed", id, error: toPlainError(thrown), retire });
    } finally {
      this.#cancelled.delete(id);
    }
  }
}
