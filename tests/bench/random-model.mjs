// A model of a shape with random weights, two PEFT adapters for it and samples, written to a folder: `base/`, `a/`, `b/`,
// `samples.json` with token ids and, where samples are pictures, `a.samples/`, `b.samples/`. The same shape gives the same bytes. Tensors are written one after another, so that a model
// larger than the memory could be made.
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { crc32, deflateSync } from "node:zlib";
import { generator } from "./draw.mjs";

/** @typedef {import("./draw.mjs").Draw} Draw */

/** Numbers written at once. */
const CHUNK = 1 << 20;
/** Pixels of one colour, across and down, in a picture. */
const TILE = 8;

/**
 * @param {import("./shapes.mjs").Shape} shape
 * @param {string} folder made if it is not there
 * @param {{ targets: string, rank: number }} adapters
 */
export function writeRandomModel(shape, folder, { targets, rank }) {
  const base = join(folder, "base");
  mkdirSync(base, { recursive: true });
  writeJson(join(base, "config.json"), shape.config);
  if (shape.preprocessor) writeJson(join(base, "preprocessor_config.json"), shape.preprocessor);
  const stops = Object.entries(shape.config).filter(([key]) => key.endsWith("_token_id"));
  writeJson(join(base, "generation_config.json"), Object.fromEntries(stops));
  const draw = generator(1);
  writeSafetensors(join(base, "model.safetensors"), "BF16", shape.tensors, draw);

  const modules = shape.targets[targets];
  if (!modules) throw new Error(`targets "${targets}": one of ${Object.keys(shape.targets).join(", ")}`);
  const names = ["a", "b"].slice(0, shape.calibration.tasks);
  for (const name of names) writeAdapter(shape, join(folder, name), modules, rank, draw);
  writeJson(join(folder, "samples.json"), {
    tasks: names.map((name) => ({ name, ...samples(shape, draw) })),
  });
  if (!shape.picture) return;
  for (const name of names) {
    const pictures = join(folder, `${name}.samples`);
    mkdirSync(pictures);
    for (let index = 0; index < shape.calibration.samples; index += 1) {
      writeFileSync(join(pictures, `${String(index).padStart(3, "0")}.png`), png(shape.picture.side, draw));
    }
  }
}

/**
 * As PEFT's `save_pretrained` writes it. A is what PEFT starts with; B, which starts at zero, is such that the delta
 * is about a sixth of the weight, as a trained one is.
 * @param {import("./shapes.mjs").Shape} shape
 * @param {string} folder
 * @param {string[]} modules
 * @param {number} rank
 * @param {Draw} draw
 */
function writeAdapter(shape, folder, modules, rank, draw) {
  mkdirSync(folder, { recursive: true });
  const scaling = 2;
  writeJson(join(folder, "adapter_config.json"), {
    base_model_name_or_path: "random",
    bias: "none",
    fan_in_fan_out: false,
    lora_alpha: scaling * rank,
    lora_dropout: 0,
    peft_type: "LORA",
    r: rank,
    target_modules: modules,
    task_type: shape.taskType,
  });
  const tensors = shape.tensors.flatMap(({ name, shape: [out = 0, into = 0], deviation }) => {
    const module = name.replace(/\.weight$/, "");
    // As PEFT reads `target_modules`; a norm and a table of embeddings are no linear layers.
    if (!name.endsWith(".weight") || deviation === 0) return [];
    if (!modules.some((target) => module.endsWith(`.${target}`))) return [];
    const at = `base_model.model.${module}`;
    const a = (3 * into) ** -0.5;
    return [
      { name: `${at}.lora_A.weight`, shape: [rank, into], deviation: a },
      {
        name: `${at}.lora_B.weight`,
        shape: [out, rank],
        deviation: deviation / (6 * scaling * a * rank ** 0.5),
      },
    ];
  });
  writeSafetensors(join(folder, "adapter_model.safetensors"), "F32", tensors, draw);
}

/**
 * Token ids of one task: texts of one length, and for an encoder-decoder or a captioner the answers, each with the token
 * that ends it.
 * @param {import("./shapes.mjs").Shape} shape
 * @param {Draw} draw
 */
function samples({ vocabulary, picture, calibration: { samples, tokens, answer } }, draw) {
  // The first few tokens of a vocabulary are special.
  const ids = (/** @type {number} */ count) =>
    Array.from({ length: count }, () => 3 + (draw.integer() % (vocabulary - 3)));
  const rows = (/** @type {() => number[]} */ row) => Array.from({ length: samples }, row);
  return {
    ids: picture ? null : rows(() => ids(tokens)),
    answers: answer > 0 ? rows(() => [...ids(answer - 1), picture?.ends ?? 1]) : null,
  };
}

/**
 * A PNG of random tiles.
 * @param {number} side pixels
 * @param {Draw} draw
 */
function png(side, draw) {
  const across = Math.ceil(side / TILE);
  const colours = Array.from({ length: across * across }, () => draw.integer());
  const rows = Buffer.alloc(side * (1 + 3 * side));
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      const colour = colours[Math.floor(y / TILE) * across + Math.floor(x / TILE)] ?? 0;
      rows.writeUIntBE(colour & 0xffffff, y * (1 + 3 * side) + 1 + 3 * x, 3);
    }
  }
  const chunk = (/** @type {string} */ type, /** @type {Buffer} */ data) => {
    const named = Buffer.concat([Buffer.from(type), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(named));
    return Buffer.concat([length, named, sum]);
  };
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0]);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([
    signature,
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(rows)),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

/**
 * @param {string} path
 * @param {"BF16" | "F32"} dtype
 * @param {import("./shapes.mjs").Tensor[]} tensors
 * @param {Draw} draw
 */
function writeSafetensors(path, dtype, tensors, draw) {
  const size = dtype === "F32" ? 4 : 2;
  /** @type {Record<string, unknown>} */
  const header = { __metadata__: { format: "pt" } };
  let end = 0;
  for (const { name, shape } of tensors) {
    const start = end;
    end += size * count(shape);
    header[name] = { dtype, shape, data_offsets: [start, end] };
  }
  const text = JSON.stringify(header);
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const size64 = Buffer.alloc(8);
  size64.writeBigUInt64LE(BigInt(json.length));
  const file = openSync(path, "w");
  try {
    write(file, size64);
    write(file, json);
    for (const { shape, deviation } of tensors) {
      const table = dtype === "F32" ? draw.f32(deviation) : draw.bf16(deviation);
      if (deviation === 0) table.fill(dtype === "F32" ? 1 : 0x3f80);
      for (let left = count(shape); left > 0; left -= CHUNK) {
        const length = Math.min(left, CHUNK);
        const chunk = dtype === "F32" ? new Float32Array(length) : new Uint16Array(length);
        for (let index = 0; index < chunk.length; index += 1)
          chunk[index] = table[draw.integer() >>> 16] ?? 0;
        write(file, new Uint8Array(chunk.buffer));
      }
    }
  } finally {
    closeSync(file);
  }
}

/** @param {number[]} shape */
const count = (shape) => shape.reduce((product, size) => product * size, 1);

/** @param {number} file @param {Uint8Array} bytes */
function write(file, bytes) {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
}

/** @param {string} path @param {unknown} value */
function writeJson(path, value) {
  writeFileSync(path, `${JSON.stringify(value)}\n`);
}
