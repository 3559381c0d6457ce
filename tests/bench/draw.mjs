// Random numbers for benchmarks and tests: the same seed gives the same ones, in Node and in a browser.

/** Normally distributed numbers to draw from: drawing from a table is ten times as fast as computing each. */
const TABLE = 1 << 16;

/**
 * @typedef {{ integer(): number, f16(deviation: number): Uint16Array, bf16(deviation: number): Uint16Array,
 *   f32(deviation: number): Float32Array }} Draw
 *   `integer`: 32 random bits; the tables hold 65536 normally distributed numbers of a standard deviation
 */

/** @param {number} seed @returns {Draw} */
export function generator(seed) {
  let state = seed;
  const integer = () => {
    // A Weyl sequence through the last step of MurmurHash3.
    state = (state + 0x9e3779b9) | 0;
    let bits = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
    bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
    return (bits ^ (bits >>> 16)) >>> 0;
  };
  const uniform = () => (integer() + 0.5) / 2 ** 32;
  // Box and Muller.
  const normal = Float64Array.from(
    { length: TABLE },
    () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
  const f32 = (/** @type {number} */ deviation) => Float32Array.from(normal, (value) => value * deviation);
  const bits = (/** @type {number} */ deviation) => new Uint32Array(f32(deviation).buffer);
  return {
    integer,
    f32,
    f16: (deviation) => Uint16Array.from(bits(deviation), halfOf),
    // The upper half of an f32, after rounding to nearest.
    bf16: (deviation) => Uint16Array.from(bits(deviation), (value) => (value + 0x8000) >>> 16),
  };
}

/**
 * The f16 nearest to an f32 below 65504, as bits; zero for what f16 has no normal number for, below 6.1e-5.
 * @param {number} bits
 */
export function halfOf(bits) {
  const sign = (bits >>> 16) & 0x8000;
  // Exponents are biased by 127 in f32 and by 15 in f16, whose fraction is 13 bits shorter.
  const half = (((bits & 0x7fffffff) + 0x1000) >>> 13) - ((127 - 15) << 10);
  return half < 0x400 ? sign : sign | half;
}
