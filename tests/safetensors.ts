/** A safetensors file of any size, read as the format's description has it: a tensor at a time. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

/** What the header says of a tensor. */
export interface TensorEntry {
  dtype: string;
  shape: number[];
  /** From the end of the header. */
  data_offsets: [start: number, end: number];
}

export class SafetensorsFile {
  readonly metadata: Readonly<Record<string, string>>;
  /** By name, in the order of their bytes. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** Of the bytes behind the header. */
  readonly dataBytes: number;
  readonly #descriptor: number;
  readonly #dataStart: number;

  constructor(path: string) {
    this.#descriptor = openSync(path, "r");
    const headerBytes = Number(this.#bytes(0, 8).getBigUint64(0, true));
    this.#dataStart = 8 + headerBytes;
    this.dataBytes = fstatSync(this.#descriptor).size - this.#dataStart;
    const { __metadata__: metadata, ...entries } = JSON.parse(
      new TextDecoder().decode(this.#bytes(8, headerBytes)),
    );
    this.metadata = metadata ?? {};
    const listed = Object.entries(entries as Record<string, TensorEntry>);
    this.tensors = new Map(listed.sort(([, a], [, b]) => a.data_offsets[0] - b.data_offsets[0]));
  }

  /** The numbers of an F16 tensor. */
  halves(name: string): { shape: number[]; values: Float32Array } {
    const entry = this.tensors.get(name);
    if (entry?.dtype !== "F16") throw new Error(`${name} is ${entry?.dtype ?? "not there"}, not F16`);
    const [start, end] = entry.data_offsets;
    const view = this.#bytes(this.#dataStart + start, end - start);
    const values = new Float32Array((end - start) / 2);
    for (let i = 0; i < values.length; i += 1) values[i] = numberOfHalf(view.getUint16(2 * i, true));
    return { shape: entry.shape, values };
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  #bytes(start: number, length: number): DataView {
    const bytes = new Uint8Array(length);
    const read = readSync(this.#descriptor, bytes, 0, length, start);
    if (read !== length) throw new Error(`the file ends ${length - read} bytes too soon`);
    return new DataView(bytes.buffer);
  }
}

/** IEEE 754 binary16. */
function numberOfHalf(bits: number): number {
  const sign = bits >= 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}
