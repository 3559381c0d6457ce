/**
 * Files of this machine, read by range: a model of many gigabytes is never in memory whole.
 *
 * Open files belong to an {@link OpenFiles}, which closes all of them when the call that needed them has ended.
 */
import { createHash } from "node:crypto";
import { closeSync, createReadStream, openSync, readSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, join, relative, resolve, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { IterisError } from "../lib/errors.ts";
import { collectImages, someImages } from "../lib/samples/images.ts";
import { holdsPictures, openSamples } from "../lib/samples/open.ts";
import { picturesOf } from "../lib/samples/picture-files.ts";
import { isPicture, type TaskSet } from "../lib/samples/pictures.ts";
import { parseSamples } from "../lib/samples/read.ts";
import { collectFiles, collectSamples } from "../lib/sources/collect.ts";
import { compareNames } from "../lib/sources/names.ts";
import { openFile, openFiles, readAll } from "../lib/sources/open.ts";
import type { WireFile } from "../lib/sources/wire.ts";
import type { FilesInput, ImageInput, SamplesInput } from "../lib/types.ts";
import type { SourceFile } from "../lib/wasm-interface.ts";
import { depthOfGlob, folderOfGlob, isGlob, matcherOf } from "./glob.ts";

/** A folder or file of this machine by its path or `file:` URL, or what browsers take too. */
export type NodeFilesInput = string | URL | FilesInput;

/** A file of samples, a folder of pictures, or a pattern of paths, by path or `file:` URL, or what browsers take too. */
export type NodeSamplesInput = string | URL | SamplesInput;

/** A picture, a folder of them or a pattern of paths, by path or `file:` URL, or what browsers take too. */
export type NodeImageInput = string | URL | ImageInput;

function isPath(input: unknown): input is string | URL {
  return typeof input === "string" || (input instanceof URL && input.protocol === "file:");
}

function pathOf(input: string | URL): string {
  return typeof input === "string" ? input : fileURLToPath(input);
}

/**
 * Where an input is, seen from a folder, `/` between the parts: as a report tells it, so that a recipe that moves
 * with its inputs still finds them. `undefined` for what has no path.
 */
export function pathFrom(folder: string | undefined, input: unknown): string | undefined {
  if (folder === undefined || !isPath(input)) return undefined;
  return relative(resolve(folder), resolve(pathOf(input))).replaceAll(sep, "/") || ".";
}

function unreadable(path: string, cause: unknown): IterisError {
  const why = (cause as NodeJS.ErrnoException).code === "ENOENT" ? "there is no such file" : String(cause);
  return new IterisError("read_failed", `Cannot be read (${why}): ${path}`, { cause });
}

/** Read at a time to be hashed: signals and timers of the process are seen in between. */
const hashedBytes = 4 << 20;

function endsAfter(bytes: number): Error {
  return new Error(`it ends after ${bytes} bytes`);
}

/**
 * Fills `bytes` with what stands in the file from `start` on, at once: of what lies in the machine's own cache of files,
 * waiting costs more than reading.
 */
export function readFully(file: number, bytes: Uint8Array, start: number): void {
  for (let done = 0; done < bytes.length; ) {
    const bytesRead = readSync(file, bytes, done, bytes.length - done, start + done);
    if (bytesRead === 0) throw endsAfter(start + done);
    done += bytesRead;
  }
}

/** By name. */
function inOrder(files: readonly SourceFile[]): SourceFile[] {
  return files.toSorted((a, b) => compareNames(a.name, b.name));
}

/** Opens files for one call and closes them after it. */
export class OpenFiles {
  readonly #opened = new Map<string, number>();

  /** The files of a folder (symbolic links are followed, as the hub's cache is made of them). */
  async folder(input: NodeFilesInput): Promise<SourceFile[]> {
    if (!isPath(input)) return openFiles(await collectFiles(input));
    const path = pathOf(input);
    const files = await this.#walk(path, "");
    return files.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** What another thread has opened. */
  reopen(files: readonly WireFile[]): Promise<SourceFile[]> {
    return Promise.all(
      files.map((file) =>
        "url" in file && file.url.startsWith("file:")
          ? this.#file(fileURLToPath(file.url), file.name)
          : openFile(file),
      ),
    );
  }

  /**
   * Samples from a path (a file of texts, a folder of pictures, one picture, a table of them, or a pattern that files of
   * one of these kinds match) or from what browsers take.
   */
  async samples(input: NodeSamplesInput): Promise<TaskSet> {
    if (!isPath(input)) return openSamples(await collectSamples(input));
    const path = pathOf(input);
    const about = await stat(path).catch(() => null);
    // A name may have such signs in it.
    if (about === null && isGlob(path)) return this.#matching(path);
    if (about?.isDirectory() || holdsPictures(path)) {
      return picturesOf(await this.#walk(path, ""), basename(resolve(path)));
    }
    return this.#texts(path);
  }

  /**
   * Pictures that are asked about, in the order in which they are given; of a folder or pattern by name.
   *
   * @throws IterisError `read_failed`; `option_invalid` where there are none
   */
  async images(input: NodeImageInput | readonly NodeImageInput[]): Promise<SourceFile[]> {
    const list: readonly NodeImageInput[] = Array.isArray(input) ? input : [input];
    const nested = await Promise.all(list.map((one) => this.#imagesOf(one)));
    return someImages(nested.flat());
  }

  async #imagesOf(input: NodeImageInput): Promise<SourceFile[]> {
    if (!isPath(input)) return openFiles(await collectImages(input));
    const path = pathOf(input);
    const about = await stat(path).catch(() => null);
    if (about === null && isGlob(path)) return inOrder(await this.#matches(path));
    const files = await this.#walk(path, "");
    return about?.isDirectory() ? inOrder(files.filter(({ name }) => isPicture(name))) : files;
  }

  async #texts(path: string): Promise<TaskSet> {
    const file = await this.#file(path, basename(path));
    return parseSamples(await readAll(file), file.name);
  }

  async #matching(pattern: string): Promise<TaskSet> {
    const files = await this.#matches(pattern);
    const [first] = files;
    if (first !== undefined && files.length === 1 && !holdsPictures(first.name)) {
      return this.#texts(join(folderOfGlob(pattern), first.name));
    }
    return picturesOf(files, basename(pattern));
  }

  async #matches(pattern: string): Promise<SourceFile[]> {
    const matches = matcherOf(pattern);
    const files = await this.#walk(folderOfGlob(pattern), "", depthOfGlob(pattern));
    const matching = files.filter(({ name }) => matches(name));
    if (matching.length > 0) return matching;
    throw new IterisError("read_failed", `Cannot be read (no file matches the pattern): ${pattern}`);
  }

  close(): void {
    const opened = [...this.#opened.values()];
    this.#opened.clear();
    for (const file of opened) closeSync(file);
  }

  /** Everything below a folder, or so many folders deep. */
  async #walk(path: string, name: string, depth = Number.POSITIVE_INFINITY): Promise<SourceFile[]> {
    const about = await stat(path).catch((cause) => {
      throw unreadable(path, cause);
    });
    if (!about.isDirectory()) return [await this.#file(path, name || basename(path))];
    if (depth === 0) return [];
    const children = await readdir(path);
    const nested = await Promise.all(
      children
        // Version control is no part of a model and can hold thousands of files.
        .filter((child) => child !== ".git")
        .map((child) => this.#walk(join(path, child), name === "" ? child : `${name}/${child}`, depth - 1)),
    );
    return nested.flat();
  }

  async #file(path: string, name: string): Promise<SourceFile> {
    try {
      const { size } = await stat(path);
      return {
        name,
        size,
        url: pathToFileURL(path).href,
        read: async (start, end) => {
          const bytes = new Uint8Array(end - start);
          this.#readInto(path, bytes, start);
          return bytes;
        },
        readInto: (start, end, { buffer }, address) => {
          this.#readInto(path, new Uint8Array(buffer, address, end - start), start);
        },
        sha256: () => this.#sha256(path, size),
      };
    } catch (cause) {
      throw unreadable(path, cause);
    }
  }

  #readInto(path: string, bytes: Uint8Array, start: number): void {
    try {
      readFully(this.#open(path), bytes, start);
    } catch (cause) {
      throw unreadable(path, cause);
    }
  }

  async #sha256(path: string, size: number): Promise<string> {
    const hash = createHash("sha256");
    let done = 0;
    try {
      // It reads ahead while a piece is hashed.
      for await (const piece of createReadStream(path, { highWaterMark: hashedBytes })) {
        hash.update(piece);
        done += piece.length;
      }
      if (done < size) throw endsAfter(done);
    } catch (cause) {
      throw unreadable(path, cause);
    }
    return hash.digest("hex");
  }

  #open(path: string): number {
    const opened = this.#opened.get(path) ?? openSync(path, "r");
    this.#opened.set(path, opened);
    return opened;
  }
}
