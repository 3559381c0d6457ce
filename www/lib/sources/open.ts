/** From files on the wire to files the core can read. */
import { IterisError } from "../errors.ts";
import type { SourceFile } from "../wasm-interface.ts";
import { openRemote } from "./remote.ts";
import type { WireFile } from "./wire.ts";

/** Opens one file: a Blob needs nothing, an address is asked for its length. */
export async function openFile(file: WireFile): Promise<SourceFile> {
  if ("url" in file) return openRemote(file.name, file.url);
  return { name: file.name, size: file.blob.size, blob: file.blob };
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
