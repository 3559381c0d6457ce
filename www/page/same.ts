/**
 * Whether two files are one. Two adapters trained alike have files of the same name and size, so only
 * the bytes can tell; they are read in slices, and reading stops at the first difference.
 */

const SLICE_BYTES = 1 << 20;

/** By name, size and time: enough for the gigabytes of a base model, where reading all would take long. */
export const same = (a: File, b: File): boolean =>
  a.name === b.name && a.size === b.size && a.lastModified === b.lastModified;

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
