/** Which of the dropped `.safetensors` files are adapters and which are weights of a model, where no name says it. */
import { type WeightsKind, weightsKind } from "../lib/index.ts";
import type { Dropped } from "./recognise.ts";

/** The kinds of all safetensors files whose names do not say it already. */
export async function weightsKinds(files: readonly Dropped[]): Promise<Map<File, WeightsKind>> {
  const kinds = new Map<File, WeightsKind>();
  for (const { file } of files) {
    if (!/\.safetensors$/i.test(file.name) || /^adapter_model\./i.test(file.name)) continue;
    const kind = await weightsKind(file);
    if (kind) kinds.set(file, kind);
  }
  return kinds;
}
