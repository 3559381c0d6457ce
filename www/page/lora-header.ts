/**
 * What a `.safetensors` file with a free name is: an adapter, as kohya, ComfyUI and diffusers write them, or weights
 * of a model. Only the names of the tensors in its header tell.
 *
 * What can go wrong: the header's length is the file's own claim, and a damaged file claims anything. So it is held
 * against the file's size and a limit before a byte of the header is read; the library says what is wrong with it.
 */
import type { Dropped } from "./recognise.ts";

export type TensorsKind = "adapter" | "weights";

/** A header of a model with a hundred thousand tensors has about ten million bytes. */
const LIMIT_BYTES = 64 << 20;

/** Names that low-rank updates have, LoHa's and LoKr's among them: those are refused by name when they are read. */
const UPDATE =
  /(^|[._])lora[._](A|B|down|up|embedding_A|embedding_B|linear_layer)([._]|$)|\.lora_magnitude_vector|\.(hada|lokr)_\w+$|\.dora_scale$|^lora_(unet|te\d?|transformer)_/;

/** The kind of tensors a safetensors file holds; `undefined` where its header cannot be read. */
export async function tensorsKind(file: Blob): Promise<TensorsKind | undefined> {
  if (file.size < 8) return undefined;
  const length = Number(new DataView(await file.slice(0, 8).arrayBuffer()).getBigUint64(0, true));
  if (length > LIMIT_BYTES || length > file.size - 8) return undefined;
  try {
    const header: unknown = JSON.parse(await file.slice(8, 8 + length).text());
    if (typeof header !== "object" || header === null) return undefined;
    const names = Object.keys(header).filter((name) => name !== "__metadata__");
    if (names.length === 0) return undefined;
    return names.some((name) => UPDATE.test(name)) ? "adapter" : "weights";
  } catch {
    return undefined;
  }
}

/** The kinds of all safetensors files whose names do not say it already. */
export async function tensorsKinds(files: readonly Dropped[]): Promise<Map<File, TensorsKind>> {
  const kinds = new Map<File, TensorsKind>();
  for (const { file } of files) {
    if (!/\.safetensors$/i.test(file.name) || /^adapter_model\./i.test(file.name)) continue;
    const kind = await tensorsKind(file);
    if (kind) kinds.set(file, kind);
  }
  return kinds;
}
