/**
 * The output folder of a merge: written whole or not at all.
 *
 * Files go to a hidden folder beside it, which takes the folder's name when everything is there. The hidden folder
 * is a sibling, since a rename does not reach across file systems; a folder that was there before is moved aside
 * first and only then removed.
 */
import { type FileHandle, mkdir, mkdtemp, open, readdir, rename, rm, rmdir } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { Sink } from "../lib/engine/sink.ts";
import { IterisError } from "../lib/errors.ts";
import type { SourceFile } from "../lib/wasm-interface.ts";
import { OpenFiles } from "./files.ts";

function cannotWrite(path: string, cause: unknown): IterisError {
  if (cause instanceof IterisError) return cause;
  const why = cause instanceof Error ? cause.message : String(cause);
  return new IterisError("write_failed", `Cannot be written (${why}): ${path}`, { cause });
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
  readonly #reading = new OpenFiles();
  #current: { name: string; handle: FileHandle } | null = null;

  private constructor(path: string, target: string, work: string) {
    this.path = path;
    this.#target = target;
    this.#work = work;
  }

  /**
   * Makes the hidden folder that is written to until {@link OutputFolder.finish}.
   *
   * @param force - whether the folder may hold something, which is replaced then
   * @throws IterisError `option_invalid` if the folder holds something and `force` is not given,
   * `write_failed` if it cannot be written beside
   */
  static async create(folder: string, { force = false } = {}): Promise<OutputFolder> {
    const target = resolve(folder);
    try {
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
        await mkdtemp(join(dirname(target), `.${basename(target)}-unfinished-`)),
      );
    } catch (cause) {
      throw cannotWrite(folder, cause);
    }
  }

  /** @internal */
  async write(file: string, bytes: Uint8Array): Promise<void> {
    try {
      if (this.#current?.name !== file) {
        await this.#closeCurrent();
        const path = join(this.#work, file);
        await mkdir(dirname(path), { recursive: true });
        this.#current = { name: file, handle: await open(path, "a") };
      }
      await this.#current?.handle.writeFile(bytes);
      this.#sizes.set(file, (this.#sizes.get(file) ?? 0) + bytes.length);
    } catch (cause) {
      throw cannotWrite(file, cause);
    }
  }

  /** @internal */
  async sources(): Promise<SourceFile[]> {
    await this.#closeCurrent();
    return this.#reading.folder(this.#work);
  }

  /**
   * A folder inside, for one of several merges; it comes and goes with this one.
   *
   * @internal
   */
  inside(name: string): Sink {
    return {
      write: (file, bytes) => this.write(`${name}/${file}`, bytes),
      sources: async () => {
        await this.#closeCurrent();
        return this.#reading.folder(join(this.#work, name));
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
      await this.#closeCurrent();
      await this.#reading.close();
      const there = await namesIn(this.#target);
      if (there?.length === 0) await rmdir(this.#target);
      if (there === null || there.length === 0) {
        await rename(this.#work, this.#target);
      } else {
        const aside = `${this.#work}-replaced`;
        await rename(this.#target, aside);
        await rename(this.#work, this.#target);
        await rm(aside, { recursive: true });
      }
    } catch (cause) {
      throw cannotWrite(this.#target, cause);
    }
    return [...this.#sizes].map(([name, bytes]) => ({ name, bytes }));
  }

  /** Removes what was written. */
  async discard(): Promise<void> {
    await this.#closeCurrent().catch(() => {});
    await this.#reading.close();
    await rm(this.#work, { recursive: true, force: true });
  }

  async #closeCurrent(): Promise<void> {
    const handle = this.#current?.handle;
    this.#current = null;
    await handle?.close();
  }
}
