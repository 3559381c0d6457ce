/** From files on the wire to files the core can read. */
import { IterisError } from "../errors.ts";
import type { SourceFile } from "../wasm-interface.ts";
import { openRemote } from "./remote.ts";
import type { WireFile } from "./wire.ts";

/** The largest file that is hashed whole, in bytes: the browser hashes several times faster, but holds all of it. */
export const MOST_HASHED_WHOLE = 256 * 2 ** 20;

/** Opens one file: a Blob needs nothing, an address is asked for its length. */
export async function openFile(file: WireFile): Promise<SourceFile> {
  if ("url" in file) return openRemote(file.name, file.url);
  const { name, blob } = file;
  const opened = { name, size: blob.size, blob };
  // There is none where a page came over a connection that is not secure.
  if (blob.size > MOST_HASHED_WHOLE || globalThis.crypto?.subtle === undefined) return opened;
  return { ...opened, sha256: () => sha256(blob) };
}

/** In lower-case hexadecimal; `undefined` where there is no room for the whole file, which is no reason to fail. */
async function sha256(blob: Blob): Promise<string | undefined> {
  try {
    const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
    return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
  } catch {
    return undefined;
  }
}

/** Opens all files of a folder. */
export function openFiles(files: readonly WireFile[]): Promise<SourceFile[]> {
  return Promise.all(files.map(openFile));
}

/** Exactly the bytes `start..end` of a file. */
export async function readRange(file: SourceFile, start: number, end: number): Promise<Uint8Array> {
  if (file.blob !== undefined) return new Uint8Array(await file.blob.slice(start, end).arrayBuffer());
  if (file.read !== undefined) return file.read(start, end);
  throw new IterisError("read_failed", `The file has neither bytes nor a way to read them: ${file.name}`);
}

/** All bytes of a small file (configuration, tokenizer, samples). */
export async function readAll(file: SourceFile): Promise<Uint8Array> {
  try {
    if (file.blob !== undefined) return new Uint8Array(await file.blob.arrayBuffer());
    if (file.read !== undefined) return await file.read(0, file.size);
  } catch (cause) {
    if (cause instanceof IterisError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new IterisError("read_failed", `The file cannot be read (${why}): ${file.name}`, { cause });
  }
  throw new IterisError("read_failed", `The file has neither bytes nor a way to read them: ${file.name}`);
}
