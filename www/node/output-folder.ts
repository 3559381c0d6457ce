/**
 * The output folder of a merge: written whole or not at all.
 *
 * Files go to a hidden folder beside it, which takes the folder's name when everything is there. The hidden folder
 * is a sibling, since a rename does not reach across file systems; a folder that was there before is moved aside
 * first and only then removed. What a killed run left is cleared away by the next run to the same place.
 */
import { createHash, type Hash } from "node:crypto";
import { type FileHandle, mkdir, mkdtemp, open, readdir, rename, rm, rmdir } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { neverWritten, type Sink } from "../lib/engine/sink.ts";
import { IterisError } from "../lib/errors.ts";
import type { OutputFile } from "../lib/types.ts";
import type { SourceFile } from "../lib/wasm-interface.ts";
import { OpenFiles, readFully } from "./files.ts";
import { clearAbandoned, replacedBy, unfinishedPrefix } from "./unfinished.ts";

/** What the system calls a disk, or a person's share of it, that is full. */
const full: ReadonlySet<string | undefined> = new Set(["ENOSPC", "EDQUOT"]);

function cannotWrite(path: string, cause: unknown): IterisError {
  if (cause instanceof IterisError) return cause;
  const message = full.has((cause as NodeJS.ErrnoException).code)
    ? `The disk is full and nothing was kept; free space on it or write elsewhere: ${path}`
    : `Cannot be written (${cause instanceof Error ? cause.message : String(cause)}): ${path}`;
  return new IterisError("write_failed", message, { cause });
}

async function namesIn(folder: string): Promise<string[] | null> {
  try {
    return await readdir(folder);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw cause;
  }
}

/**
 * A folder that a merge is written into, tensor by tensor: a model of many gigabytes is never in memory whole.
 *
 * @example
 * ```ts
 * const folder = await OutputFolder.create("merged", { force: true });
 * try {
 *   await mergeInto({ base, adapters, options: { output: "base" } }, folder);
 *   await folder.finish();
 * } catch (error) {
 *   await folder.discard();
 *   throw error;
 * }
 * ```
 */
export class OutputFolder {
  /** As it was given. */
  readonly path: string;
  readonly #target: string;
  readonly #work: string;
  readonly #sizes = new Map<string, number>();
  readonly #hashes = new Map<string, Hash>();
  readonly #reading = new OpenFiles();
  readonly #handles = new Map<string, FileHandle>();
  /** Of each file, the writing of the last piece that was given; it fails as its caller is to be told. */
  readonly #written = new Map<string, Promise<void>>();

  private constructor(path: string, target: string, work: string) {
    this.path = path;
    this.#target = target;
    this.#work = work;
  }

  /**
   * Makes the hidden folder that is written to until {@link OutputFolder.finish}, and clears away those that killed
   * runs to the same place have left.
   *
   * @param force - whether the folder may hold something, which is replaced then
   * @throws IterisError `option_invalid` if the folder holds something and `force` is not given,
   * `write_failed` if it cannot be written beside
   */
  static async create(folder: string, { force = false } = {}): Promise<OutputFolder> {
    const target = resolve(folder);
    try {
      await clearAbandoned(target);
      const there = await namesIn(target);
      if (!force && there !== null && there.length > 0) {
        throw new IterisError(
          "option_invalid",
          `The output folder is not empty; --force replaces it: ${folder}`,
        );
      }
      await mkdir(dirname(target), { recursive: true });
      return new OutputFolder(
        folder,
        target,
        await mkdtemp(join(dirname(target), unfinishedPrefix(basename(target)))),
      );
    } catch (cause) {
      throw cannotWrite(folder, cause);
    }
  }

  /** @internal */
  async write(file: string, bytes: Uint8Array): Promise<void> {
    try {
      const handle = this.#handles.get(file) ?? (await this.#begin(file));
      await this.#written.get(file);
      const written = handle.writeFile(bytes).catch((cause) => {
        throw cannotWrite(file, cause);
      });
      // Another thread writes while this one goes on; what goes wrong is told by the next call that has to do with the file.
      written.catch(() => {});
      this.#written.set(file, written);
      this.#hashes.get(file)?.update(bytes);
      this.#sizes.set(file, (this.#sizes.get(file) ?? 0) + bytes.length);
    } catch (cause) {
      throw cannotWrite(file, cause);
    }
  }

  async #begin(file: string): Promise<FileHandle> {
    const path = join(this.#work, file);
    await mkdir(dirname(path), { recursive: true });
    const handle = await open(path, "a+");
    this.#handles.set(file, handle);
    this.#hashes.set(file, createHash("sha256"));
    return handle;
  }

  /** @internal */
  async read(file: string, start: number, end: number): Promise<Uint8Array> {
    const handle = this.#handles.get(file);
    if (handle === undefined || end > (this.#sizes.get(file) ?? 0)) throw neverWritten(file, start, end);
    const bytes = new Uint8Array(end - start);
    try {
      await this.#written.get(file);
      readFully(handle.fd, bytes, start);
    } catch (cause) {
      throw cannotWrite(file, cause);
    }
    return bytes;
  }

  /** @internal */
  async remove(file: string): Promise<void> {
    try {
      await this.#written.get(file)?.catch(() => {});
      await this.#handles.get(file)?.close();
      this.#written.delete(file);
      this.#handles.delete(file);
      this.#sizes.delete(file);
      this.#hashes.delete(file);
      await rm(join(this.#work, file), { force: true });
    } catch (cause) {
      throw cannotWrite(file, cause);
    }
  }

  /** @internal */
  async sha256(file: string): Promise<string> {
    const hash = this.#hashes.get(file);
    if (hash === undefined) throw neverWritten(file, 0, 0);
    await this.#written.get(file);
    return hash.copy().digest("hex");
  }

  /** @internal */
  async sources(): Promise<SourceFile[]> {
    await this.#closeAll();
    return this.#reading.folder(this.#work);
  }

  /**
   * None: they lie in the folder.
   *
   * @internal
   */
  async files(): Promise<OutputFile[]> {
    return [];
  }

  /**
   * A folder inside, for one of several merges; it comes and goes with this one.
   *
   * @internal
   */
  inside(name: string): Sink {
    const own = (file: string) => `${name}/${file}`;
    return {
      write: (file, bytes) => this.write(own(file), bytes),
      read: (file, start, end) => this.read(own(file), start, end),
      remove: (file) => this.remove(own(file)),
      sha256: (file) => this.sha256(own(file)),
      sources: async () => {
        await this.#closeAll();
        return this.#reading.folder(join(this.#work, name));
      },
      files: async () => [],
      discard: async () => {
        const begun = [...this.#sizes.keys()].filter((file) => file.startsWith(own("")));
        for (const file of begun) await this.remove(file);
        await rm(join(this.#work, name), { recursive: true, force: true });
      },
    };
  }

  /**
   * Gives the hidden folder its name, when everything is in it.
   *
   * @returns what is in it
   * @throws IterisError `write_failed`
   */
  async finish(): Promise<{ name: string; bytes: number }[]> {
    try {
      await this.#closeAll();
      this.#reading.close();
      const there = await namesIn(this.#target);
      if (there?.length === 0) await rmdir(this.#target);
      if (there === null || there.length === 0) {
        await rename(this.#work, this.#target);
      } else {
        const aside = replacedBy(this.#work);
        await rename(this.#target, aside);
        await rename(this.#work, this.#target);
        await rm(aside, { recursive: true });
      }
    } catch (cause) {
      throw cannotWrite(this.#target, cause);
    }
    return [...this.#sizes].map(([name, bytes]) => ({ name, bytes }));
  }

  /** Removes what was written; what is written from now on begins anew. */
  async discard(): Promise<void> {
    await this.#closeAll().catch(() => {});
    this.#reading.close();
    this.#sizes.clear();
    this.#hashes.clear();
    await rm(this.#work, { recursive: true, force: true });
  }

  /** @throws what could not be written, when all is closed */
  async #closeAll(): Promise<void> {
    const handles = [...this.#handles.values()];
    const outcomes = await Promise.allSettled(this.#written.values());
    this.#handles.clear();
    this.#written.clear();
    await Promise.all(handles.map((handle) => handle.close()));
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }
}
