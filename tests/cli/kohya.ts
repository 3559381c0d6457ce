/** A tiny adapter in the one file that kohya and ComfyUI write. */
import { writeFileSync } from "node:fs";

/** Writes tensors in f32. */
export function writeSafetensors(
  path: string,
  tensors: Record<string, { shape: number[]; values: number[] }>,
): void {
  const header: Record<string, unknown> = {};
  const parts: Buffer[] = [];
  let at = 0;
  for (const [name, { shape, values }] of Object.entries(tensors)) {
    const bytes = Buffer.from(Float32Array.from(values).buffer);
    header[name] = { dtype: "F32", shape, data_offsets: [at, at + bytes.length] };
    parts.push(bytes);
    at += bytes.length;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

/** The module that the file changes, as kohya spells its name. */
export const kohyaModule = "lora_te_text_model_encoder_layers_0_self_attn_q_proj";

/** Writes an adapter of rank 1 for a 2 x 3 layer; its change is `alpha * up * down`. */
export function writeKohya(
  path: string,
  up: [number, number],
  down: [number, number, number],
  alpha: number,
): void {
  writeSafetensors(path, {
    [`${kohyaModule}.lora_down.weight`]: { shape: [1, 3], values: down },
    [`${kohyaModule}.lora_up.weight`]: { shape: [2, 1], values: up },
    [`${kohyaModule}.alpha`]: { shape: [], values: [alpha] },
  });
}
