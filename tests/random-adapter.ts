/** Adapters of any size with random factors, for what depends on the size alone. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Targets `modules` square layers of `width`. */
export interface RandomAdapter {
  modules: number;
  width: number;
  rank: number;
  seed: number;
}

/** Floats between -0.01 and 0.01 from a linear congruential generator, so that the same seed gives the same bytes. */
function randomFloats(count: number, seed: number): Float32Array {
  const floats = new Float32Array(count);
  let state = seed >>> 0;
  for (let i = 0; i < count; i += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    floats[i] = (state / 2 ** 32 - 0.5) * 0.02;
  }
  return floats;
}

/** Writes a PEFT adapter of f32 into `folder`. */
export function writeRandomAdapter(folder: string, { modules, width, rank, seed }: RandomAdapter): string {
  const header: Record<string, unknown> = {};
  const parts: Uint8Array[] = [];
  let end = 0;
  for (let module = 0; module < modules; module += 1) {
    for (const [factor, shape] of [
      ["A", [rank, width]],
      ["B", [width, rank]],
    ] as const) {
      const floats = randomFloats(rank * width, seed + 2 * module + (factor === "A" ? 0 : 1));
      const name = `base_model.model.model.layers.${module}.self_attn.q_proj.lora_${factor}.weight`;
      header[name] = { dtype: "F32", shape, data_offsets: [end, end + floats.byteLength] };
      end += floats.byteLength;
      parts.push(new Uint8Array(floats.buffer));
    }
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(text.length), true);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "adapter_model.safetensors"), Buffer.concat([length, text, ...parts]));
  const config = { peft_type: "LORA", r: rank, lora_alpha: rank, target_modules: ["q_proj"] };
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify(config));
  return folder;
}
