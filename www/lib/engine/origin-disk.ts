/**
 * A folder of the origin private file system: disk that a browser gives to a site, out of the person's sight.
 *
 * Only a worker gets the handles that write at once and read back; a `File` made of what they wrote stays on disk and
 * can be given to the page.
 */
import { IterisError } from "../errors.ts";
import type { Disk, OpenFile } from "./sink.ts";

/** As much of `FileSystemSyncAccessHandle` as is used; TypeScript has it among the types of workers only. */
interface AccessHandle {
  read(bytes: Uint8Array, options: { at: number }): number;
  write(bytes: Uint8Array, options: { at: number }): number;
  flush(): void;
  close(): void;
}

/** How much of the room is taken, in words. How much there is browsers do not tell truly: it would tell who one is. */
async function roomTaken(): Promise<string> {
  const { usage } = await navigator.storage.estimate();
  return usage === undefined ? "" : ` at ${Math.round(usage / (1 << 20))} MiB`;
}

async function cannotWrite(name: string, cause: unknown): Promise<IterisError> {
  const full = cause instanceof DOMException && cause.name === "QuotaExceededError";
  const message = full
    ? `The browser's storage for this page is full${await roomTaken()}; free space on the disk, or merge in the command line: ${name}`
    : `Cannot be written to the browser's storage (${cause instanceof Error ? cause.message : String(cause)}): ${name}`;
  return new IterisError("write_failed", message, { cause });
}

class OriginFile implements OpenFile {
  readonly #name: string;
  readonly #folder: FileSystemDirectoryHandle;
  readonly #handle: FileSystemFileHandle;
  #access: AccessHandle | null;
  #size = 0;

  constructor(
    name: string,
    folder: FileSystemDirectoryHandle,
    handle: FileSystemFileHandle,
    access: AccessHandle,
  ) {
    this.#name = name;
    this.#folder = folder;
    this.#handle = handle;
    this.#access = access;
  }

  get size(): number {
    return this.#size;
  }

  async append(bytes: Uint8Array): Promise<void> {
    try {
      const written = this.#opened().write(bytes, { at: this.#size });
      // Chromium does not throw where the disk is full: it answers its own error number, as an unsigned one.
      if (written !== bytes.length) throw new DOMException("not all was written", "QuotaExceededError");
    } catch (cause) {
      throw await cannotWrite(this.#name, cause);
    }
    this.#size += bytes.length;
  }

  async read(start: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - start);
    for (let done = 0; done < bytes.length; ) {
      const read = this.#opened().read(bytes.subarray(done), { at: start + done });
      if (read === 0) throw new IterisError("write_failed", `It ends too early: ${this.#name}`);
      done += read;
    }
    return bytes;
  }

  async blobs(): Promise<Blob[]> {
    this.#access?.flush();
    this.#close();
    return [await this.#handle.getFile()];
  }

  async remove(): Promise<void> {
    this.#close();
    await this.#folder.removeEntry(this.#handle.name);
  }

  #opened(): AccessHandle {
    if (this.#access === null) throw new IterisError("write_failed", `It is finished: ${this.#name}`);
    return this.#access;
  }

  #close(): void {
    this.#access?.close();
    this.#access = null;
  }
}

/** A folder that is made when the first file is begun in it. */
export class OriginDisk implements Disk {
  readonly path: string;
  #folder: FileSystemDirectoryHandle | null = null;

  /** @param path - names of folders from the root, `/` between them */
  constructor(path: string) {
    this.path = path;
  }

  async begin(name: string): Promise<OpenFile | null> {
    try {
      this.#folder ??= await openFolder(this.path);
      const handle = await this.#folder.getFileHandle(encodeURIComponent(name), { create: true });
      if (!("createSyncAccessHandle" in handle)) return null;
      const { createSyncAccessHandle } = handle as { createSyncAccessHandle: () => Promise<AccessHandle> };
      return new OriginFile(name, this.#folder, handle, await createSyncAccessHandle.call(handle));
    } catch {
      // A private window, or one that may store nothing.
      return null;
    }
  }

  async discard(): Promise<void> {
    if (this.#folder !== null) await removeFolder(this.path);
    this.#folder = null;
  }
}

async function openFolder(path: string): Promise<FileSystemDirectoryHandle> {
  let folder = await navigator.storage.getDirectory();
  for (const name of path.split("/")) folder = await folder.getDirectoryHandle(name, { create: true });
  return folder;
}

/** Removes a folder with all that is in it; one that is gone already is no failure. */
export async function removeFolder(path: string): Promise<void> {
  try {
    const names = path.split("/");
    const last = names.pop();
    let folder = await navigator.storage.getDirectory();
    for (const name of names) folder = await folder.getDirectoryHandle(name);
    if (last !== undefined) await folder.removeEntry(last, { recursive: true });
  } catch (cause) {
    if (!(cause instanceof DOMException && cause.name === "NotFoundError")) throw cause;
  }
}
