/**
 * The output folder of a merge: written whole or not at all.
 *
 * Files go to a hidden folder beside it, which takes the folder's name when everything is there. What can go
 * wrong: a rename across file systems, so the hidden folder must be a sibling; and a folder that was there
 * before, which is moved aside first and only then removed.
 */
import { type FileHandle, mkdir, mkdtemp, open, readdir, rename, rm, rmdir } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { Sink } from "../../lib/engine/sink.ts";
import { IterisError } from "../../lib/errors.ts";
import type { SourceFile } from "../../lib/wasm-interface.ts";
import { OpenFiles } from "../files.ts";

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

/** Writes a merge into a folder. */
export class FolderSink implements Sink {
  readonly #target: string;
  readonly #work: string;
  readonly #sizes = new Map<string, number>();
  readonly #reading = new OpenFiles();
  #current: { name: string; handle: FileHandle } | null = null;

  private constructor(target: string, work: string) {
    this.#target = target;
    this.#work = work;
  }

  /**
   * Makes the hidden folder.
   *
   * @throws IterisError `option_invalid` if the folder holds something and `force` is not given,
   * `write_failed` if it cannot be written beside
   */
  static async create(folder: string, force: boolean): Promise<FolderSink> {
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
      return new FolderSink(target, await mkdtemp(join(dirname(target), `.${basename(target)}-unfinished-`)));
    } catch (cause) {
      throw cannotWrite(folder, cause);
    }
  }

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

  async sources(): Promise<SourceFile[]> {
    await this.#closeCurrent();
    return this.#reading.folder(this.#work);
  }

  /** A folder inside, for one of several merges; it comes and goes with this one. */
  inside(name: string): Sink {
    return {
      write: (file, bytes) => this.write(`${name}/${file}`, bytes),
      sources: async () => {
        await this.#closeCurrent();
        return this.#reading.folder(join(this.#work, name));
      },
    };
  }

  /** Gives the hidden folder its name; returns what is in it. */
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
