/** The deltas of a PEFT adapter file, for tests that hold two merges against each other. */

/** A tensor of a file in f32. */
export interface Tensor {
  shape: number[];
  values: Float32Array;
}

/** The tensors of a safetensors file in f32, by name. */
export function tensorsOf(bytes: Buffer): Map<string, Tensor> {
  const end = 8 + Number(bytes.readBigUInt64LE(0));
  const header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }> =
    JSON.parse(bytes.subarray(8, end).toString());
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (dtype !== "F32") throw new Error(`${name} is ${dtype}, not F32`);
    // Copied, because the file's tensors need not begin at a multiple of four.
    const data = Uint8Array.from(bytes.subarray(end + data_offsets[0], end + data_offsets[1]));
    tensors.set(name, { shape, values: new Float32Array(data.buffer) });
  }
  return tensors;
}

/** By module, `B A` of an adapter file in f32 whose scaling is 1, row by row. */
export function deltasOf(bytes: Buffer): Map<string, number[]> {
  return productsOf(bytes, "", ".weight");
}

/** `B A` of every `<prefix><module>.lora_A<suffix>` and its lora_B, row by row. */
export function productsOf(bytes: Buffer, prefix: string, suffix: string): Map<string, number[]> {
  const tensors = tensorsOf(bytes);
  const deltas = new Map<string, number[]>();
  for (const [name, a] of tensors) {
    const end = `.lora_A${suffix}`;
    if (!name.startsWith(prefix) || !name.endsWith(end)) continue;
    const module = name.slice(prefix.length, -end.length);
    const b = tensors.get(`${prefix}${module}.lora_B${suffix}`);
    if (b === undefined) throw new Error(`${module} has no lora_B`);
    const [rank = 0, columns = 0] = a.shape;
    const [rows = 0] = b.shape;
    const delta = new Array<number>(rows * columns).fill(0);
    for (let i = 0; i < rows; i += 1) {
      for (let k = 0; k < rank; k += 1) {
        const factor = b.values[i * rank + k] ?? 0;
        for (let j = 0; j < columns; j += 1) {
          const at = i * columns + j;
          delta[at] = (delta[at] ?? 0) + factor * (a.values[k * columns + j] ?? 0);
        }
      }
    }
    deltas.set(module, delta);
  }
  return deltas;
}

/** The Frobenius norm of the difference, relative to that of `expected`. */
export function relativeError(actual: readonly number[], expected: readonly number[]): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (const [i, value] of expected.entries()) {
    difference += ((actual[i] ?? 0) - value) ** 2;
    norm += value ** 2;
  }
  return Math.sqrt(difference / norm);
}
