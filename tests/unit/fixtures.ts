/** The real adapters and texts of `../shared/fixtures`, which lie beside the checkout and not in it. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { SourceFile } from "../../www/lib/wasm-interface.ts";

const fixtures = join(import.meta.dirname, "../../../shared/fixtures");

/** A folder of fixtures, or `null` in a checkout that stands alone. */
function folderOf(name: string): string | null {
  const folder = join(fixtures, name);
  return existsSync(folder) ? folder : null;
}

/** Where the emotion fixtures are. */
export const emotionFolder = folderOf("emotion");

/** Where those of models that read pictures are. */
export const imagesFolder = folderOf("images");

/** A file of this machine as the library takes one. */
export function sourceFile(path: string, name: string): SourceFile {
  const bytes = readFileSync(path);
  return { name, size: bytes.length, blob: new Blob([bytes]) };
}

/** A 2-D tensor of 64-bit integers in a safetensors file. */
export function readIntegers(path: string, name: string): number[][] {
  const bytes = readFileSync(path);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + headerLength).toString());
  const { dtype, shape, data_offsets } = header[name];
  if (dtype !== "I64" || shape.length !== 2) throw new Error(`${name} is not a matrix of integers`);
  const [rows, columns] = shape;
  const start = 8 + headerLength + data_offsets[0];
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length: columns }, (_, column) =>
      Number(bytes.readBigInt64LE(start + 8 * (row * columns + column))),
    ),
  );
}
