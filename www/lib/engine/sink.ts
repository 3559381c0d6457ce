/** Where the files of a merge go. */
import { IterisError } from "../errors.ts";
import type { OutputFile } from "../types.ts";
import type { SourceFile } from "../wasm-interface.ts";

/**
 * Takes the files of a merge as they are written, piece by piece.
 *
 * Every call may throw, and what it throws the core tells as `write_failed` with the message of what was thrown.
 */
export interface Sink {
  /** Appends to a file, which the first call for it begins. */
  write(file: string, bytes: Uint8Array): Promise<void>;
  /** Exactly the bytes `start..end` of what was written of a file. */
  read(file: string, start: number, end: number): Promise<Uint8Array>;
  /** Takes away a file that was only needed on the way. */
  remove(file: string): Promise<void>;
  /** SHA-256 of a file as it was written, of a sink that hashes faster than the core does. */
  sha256?(file: string): Promise<string>;
  /** What was written, to be read again by a comparison. */
  sources(): Promise<SourceFile[]>;
  /** The finished files, of a sink that keeps them for whoever asked for them; none of one that writes them elsewhere. */
  files(): Promise<OutputFile[]>;
  /** Takes away everything: the merge failed, and nobody has been given its files. */
  discard(): Promise<void>;
}

/** That bytes were asked for which were never written: a fault of the caller. */
export function neverWritten(file: string, start: number, end: number): IterisError {
  return new IterisError("write_failed", `Bytes ${start} to ${end} were never written: ${file}`);
}

/** Finished files as the core reads them. */
export function sourcesOf(files: readonly OutputFile[]): SourceFile[] {
  return files.map(({ name, blob }) => ({ name, size: blob.size, blob }));
}

/** As many bytes go into one Blob: thousands of tensors must not become thousands of Blobs. */
const pieceBytes = 4 << 20;

/** A file that is being written. */
export interface OpenFile {
  readonly size: number;
  append(bytes: Uint8Array): Promise<void>;
  /** Exactly these of the bytes that were appended. */
  read(start: number, end: number): Promise<Uint8Array>;
  /** What was appended, when nothing more comes. */
  blobs(): Promise<Blob[]>;
  remove(): Promise<void>;
}

/** A folder for what is too large for memory. */
export interface Disk {
  /** From the root of the file system, for whoever removes it. */
  readonly path: string;
  /** `null` where the browser does not let it write. */
  begin(name: string): Promise<OpenFile | null>;
  /** Takes the folder away with all that is in it. */
  discard(): Promise<void>;
}

/** A file in Blobs of some MiB. */
class MemoryFile implements OpenFile {
  readonly #blobs: Blob[] = [];
  #pending = new Uint8Array(0);
  #used = 0;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  async append(bytes: Uint8Array): Promise<void> {
    this.#size += bytes.length;
    if (this.#used + bytes.length > pieceBytes) this.#flush();
    if (bytes.length >= pieceBytes) {
      // Making a Blob copies, as does `set` below: `bytes` may be a view into memory that wasm uses again.
      this.#blobs.push(new Blob([bytes as Uint8Array<ArrayBuffer>]));
      return;
    }
    if (this.#pending.length < this.#used + bytes.length) {
      // Small files stay small; a long one has its whole piece after a few steps.
      const wanted = Math.max(2 * this.#pending.length, this.#used + bytes.length);
      const grown = new Uint8Array(Math.min(pieceBytes, wanted));
      grown.set(this.#pending.subarray(0, this.#used));
      this.#pending = grown;
    }
    this.#pending.set(bytes, this.#used);
    this.#used += bytes.length;
  }

  async blobs(): Promise<Blob[]> {
    this.#flush();
    return [...this.#blobs];
  }

  async read(start: number, end: number): Promise<Uint8Array> {
    return new Uint8Array(await new Blob(await this.blobs()).slice(start, end).arrayBuffer());
  }

  async remove(): Promise<void> {}

  #flush(): void {
    if (this.#used === 0) return;
    this.#blobs.push(new Blob([this.#pending.subarray(0, this.#used)]));
    this.#used = 0;
  }
}

/** Small results stay in memory: this much of a merge's files together. */
const memoryBytes = 64 << 20;

/**
 * Keeps the files as Blobs: in memory as long as they are small together, else on disk where there is one.
 *
 * The file that passes the limit is moved to disk with what it has so far; so is every one that passes it after.
 */
export class BlobSink implements Sink {
  readonly #files = new Map<string, OpenFile>();
  readonly #memoryBytes: number;
  #disk: Disk | null;
  #inMemory = 0;

  /** @param limit - bytes that may stay in memory, where there is a disk */
  constructor(disk: Disk | null = null, limit = memoryBytes) {
    this.#disk = disk;
    this.#memoryBytes = limit;
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    let file = this.#files.get(name) ?? this.#keep(name, new MemoryFile());
    if (file instanceof MemoryFile) {
      if (this.#inMemory + bytes.length > this.#memoryBytes) file = await this.#toDisk(name, file);
      if (file instanceof MemoryFile) this.#inMemory += bytes.length;
    }
    await file.append(bytes);
  }

  async read(name: string, start: number, end: number): Promise<Uint8Array> {
    const file = this.#files.get(name);
    if (file === undefined || end > file.size) throw neverWritten(name, start, end);
    return file.read(start, end);
  }

  async remove(name: string): Promise<void> {
    const file = this.#files.get(name);
    this.#files.delete(name);
    if (file instanceof MemoryFile) this.#inMemory -= file.size;
    await file?.remove();
  }

  async sources(): Promise<SourceFile[]> {
    return sourcesOf(await this.files());
  }

  async files(): Promise<OutputFile[]> {
    const found = [...this.#files].map(async ([name, file]): Promise<OutputFile> => {
      const type = name.endsWith(".json") ? "application/json" : "application/octet-stream";
      const blob = new Blob(await file.blobs(), { type });
      return file instanceof MemoryFile || this.#disk === null
        ? { name, blob }
        : { name, blob, onDisk: this.#disk.path };
    });
    return Promise.all(found);
  }

  async discard(): Promise<void> {
    for (const file of this.#files.values()) await file.remove();
    this.#files.clear();
    this.#inMemory = 0;
    await this.#disk?.discard();
  }

  #keep(name: string, file: OpenFile): OpenFile {
    this.#files.set(name, file);
    return file;
  }

  /** Goes on with a file on disk, if that can be. */
  async #toDisk(name: string, file: MemoryFile): Promise<OpenFile> {
    const moved = (await this.#disk?.begin(name)) ?? null;
    if (moved === null) {
      // Not asked again: a private window has no disk for anyone.
      this.#disk = null;
      return file;
    }
    this.#keep(name, moved);
    for (const blob of await file.blobs()) await moved.append(new Uint8Array(await blob.arrayBuffer()));
    this.#inMemory -= file.size;
    return moved;
  }
}
