/**
 * Whether two files are one. Two adapters trained alike have files of the same name and size, so only
 * the bytes can tell; they are read in slices, and reading stops at the first difference.
 */
import type { Dropped } from "./recognise.ts";

const SLICE_BYTES = 1 << 20;

/** By name, size and time: enough for the gigabytes of a base model, where reading all would take long. */
export const same = (a: File, b: File): boolean =>
  a.name === b.name && a.size === b.size && a.lastModified === b.lastModified;

/** The same of samples, which may be many pictures. */
export async function sameSamples(a: Dropped, b: Dropped): Promise<boolean> {
  const [left, right] = [a, b].map(({ file, pictures }) => pictures?.map((one) => one.file) ?? [file]);
  if (!left || !right || left.length !== right.length || !a.pictures !== !b.pictures) return false;
  for (const [i, file] of left.entries()) {
    if (!right[i] || !(await sameContent(file, right[i]))) return false;
  }
  return true;
}

export async function sameContent(a: Blob, b: Blob): Promise<boolean> {
  if (a.size !== b.size) return false;
  for (let start = 0; start < a.size; start += SLICE_BYTES) {
    const [left, right] = await Promise.all(
      [a, b].map(async (blob) => new Uint8Array(await blob.slice(start, start + SLICE_BYTES).arrayBuffer())),
    );
    if (!left || !right || left.some((byte, index) => byte !== right[index])) return false;
  }
  return true;
}
