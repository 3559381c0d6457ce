/**
 * What a `.safetensors` file with a free name is: an adapter, as PEFT, kohya, ComfyUI and diffusers write them, or
 * weights of a model. Only the names of the tensors in its header tell.
 *
 * The header's length is the file's own claim, and a damaged file claims anything; so it is held against the file's
 * size and a limit before a byte of the header is read. The core says what is wrong with such a file.
 */
import type { WeightsKind } from "../types/facts.ts";
import type { SourceFile } from "../wasm-interface.ts";

/** More than the header of any real model has. */
const longestBytes = 100_000_000;

/** Names that low-rank updates have, LoHa's and LoKr's among them: those are refused by name when they are read. */
const update =
  /(^|[._])lora[._](A|B|down|up|embedding_A|embedding_B|linear_layer)([._]|$)|\.lora_magnitude_vector|\.(hada|lokr)_\w+$|\.dora_scale$|^lora_(unet|te\d?|transformer)_/;

async function readRange(file: SourceFile, start: number, end: number): Promise<Uint8Array> {
  if (file.blob !== undefined) return new Uint8Array(await file.blob.slice(start, end).arrayBuffer());
  return (await file.read?.(start, end)) ?? new Uint8Array();
}

/** The names of the tensors; none where the header cannot be read. */
async function tensorNames(file: SourceFile): Promise<string[]> {
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

/** Reads the header alone; `null` where it cannot be read or names no tensor. */
export async function kindOfWeights(file: SourceFile): Promise<WeightsKind | null> {
  const names = await tensorNames(file);
  if (names.length === 0) return null;
  return names.some((name) => update.test(name)) ? "adapter" : "weights";
}
