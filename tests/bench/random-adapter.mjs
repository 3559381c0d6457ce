// A random LoRA adapter of true names and shapes in kohya's form, in Node and in a browser: `data/sdxl.json` has the
// names and shapes (`adapters.py --table sdxl` makes it). The same seed gives the same bytes.
//
//     new Blob([...randomAdapter(sdxl, { rank: 32, seed: 1 })])                 218 MiB
//     await writeFile("a.safetensors", randomAdapter(sdxl, { rank: 32, seed: 1 }))
import { generator, halfOf } from "./draw.mjs";

/**
 * @typedef {{ under: string[], layers: (string | number)[][] }[]} Table the same layers, each `[end of its name, d_out,
 *   d_in]`, under each of several blocks
 * @typedef {{ name: string, shape: number[], values: Uint16Array }} Tensor `values`: f16 to draw from
 */

/**
 * The bytes of a safetensors file, tensor by tensor: F16, alpha half the rank.
 * @param {Table} table
 * @param {{ rank: number, seed: number }} options
 * @returns {Generator<Uint8Array<ArrayBuffer>, void>}
 */
export function* randomAdapter(table, { rank, seed }) {
  const draw = generator(seed);
  const alpha = Uint16Array.of(halfOfNumber(rank / 2));
  const deviations = new Map();
  // As large as kohya's scripts start A; B, which starts at zero, a tenth as large.
  const numbers = (/** @type {number} */ deviation) => {
    const known = deviations.get(deviation) ?? draw.f16(deviation);
    deviations.set(deviation, known);
    return known;
  };
  /** @type {Tensor[]} */
  const tensors = modules(table).flatMap(({ name, dOut, dIn }) => [
    { name: `${name}.alpha`, shape: [], values: alpha },
    { name: `${name}.lora_down.weight`, shape: [rank, dIn], values: numbers((3 * dIn) ** -0.5) },
    { name: `${name}.lora_up.weight`, shape: [dOut, rank], values: numbers((300 * dOut) ** -0.5) },
  ]);
  yield header(tensors, rank);
  for (const { shape, values } of tensors) {
    const data = new Uint16Array(count(shape));
    const last = values.length - 1;
    for (let index = 0; index < data.length; index += 1) data[index] = values[draw.integer() & last] ?? 0;
    yield new Uint8Array(data.buffer);
  }
}

/**
 * Every layer of a table.
 * @param {Table} table
 * @returns {{ name: string, dOut: number, dIn: number }[]}
 */
export function modules(table) {
  return table.flatMap(({ under, layers }) =>
    under.flatMap((block) =>
      layers.map(([end, dOut, dIn]) => ({ name: `${block}_${end}`, dOut: Number(dOut), dIn: Number(dIn) })),
    ),
  );
}

/** @param {Tensor[]} tensors @param {number} rank */
function header(tensors, rank) {
  /** @type {Record<string, unknown>} */
  const entries = {
    __metadata__: {
      ss_network_module: "networks.lora",
      ss_network_dim: `${rank}`,
      ss_network_alpha: `${rank / 2}`,
    },
  };
  let end = 0;
  for (const { name, shape } of tensors) {
    const start = end;
    end += 2 * count(shape);
    entries[name] = { dtype: "F16", shape, data_offsets: [start, end] };
  }
  const text = JSON.stringify(entries);
  const json = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 8) * 8));
  const bytes = new Uint8Array(8 + json.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

/** @param {number} value */
const halfOfNumber = (value) => halfOf(new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0);

/** @param {number[]} shape */
const count = (shape) => shape.reduce((product, size) => product * size, 1);
