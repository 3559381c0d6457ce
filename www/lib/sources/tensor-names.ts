/**
 * The names of the tensors in a safetensors file, to tell what kind of file it is before the core reads it.
 *
 * What can go wrong: a length from a file that is none, taken for an amount of memory; so it is held against the
 * file's own. A header that cannot be read has no names here: the core says what is wrong with it.
 */
import type { SourceFile } from "../wasm-interface.ts";

/** More than any real header has. */
const longestBytes = 100_000_000;

async function readRange(file: SourceFile, start: number, end: number): Promise<Uint8Array> {
  if (file.blob !== undefined) return new Uint8Array(await file.blob.slice(start, end).arrayBuffer());
  return (await file.read?.(start, end)) ?? new Uint8Array();
}

/** Reads the header alone. */
export async function tensorNames(file: SourceFile): Promise<string[]> {
  if (file.size < 8) return [];
  const first = await readRange(file, 0, 8);
  const length = Number(new DataView(first.buffer, first.byteOffset, 8).getBigUint64(0, true));
  if (length > Math.min(file.size - 8, longestBytes)) return [];
  try {
    const header: unknown = JSON.parse(new TextDecoder().decode(await readRange(file, 8, 8 + length)));
    if (typeof header !== "object" || header === null) return [];
    return Object.keys(header).filter((name) => name !== "__metadata__");
  } catch {
    return [];
  }
}
