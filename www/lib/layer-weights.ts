/**
 * Weights of single layers as people write them, on the command line and on the page: `encoder.layer.[0-5].*: [1, 0.5]`,
 * or the same as `encoder.layer.[0-5].*=1,0.5`.
 *
 * A pattern may hold colons, brackets and equals signs itself, so a text is read from its end.
 */

/** One pattern with its weights, or what is wrong with the text in words that follow "…: ". */
export type LayerWeightsEntry = { pattern: string; weights: number[] } | { problem: string };

const SPELLINGS = [/^(.*\S)\s*:\s*\[([^[\]]*)\]$/, /^(.*\S)\s*=([^=]*)$/];

/** Reads one pattern with as many weights as there are adapters. */
export function readLayerWeights(text: string, adapters: number): LayerWeightsEntry {
  const [, pattern, inside] =
    SPELLINGS.map((spelling) => spelling.exec(text.trim())).find((found) => found !== null) ?? [];
  if (pattern === undefined || inside === undefined) {
    return { problem: "write a pattern and its weights, as layer.[0-5].*: [1, 0.5] or layer.[0-5].*=1,0.5" };
  }
  if (!isPattern(pattern)) return { problem: `${pattern} is no regular expression` };
  const words = inside.split(",").map((word) => word.trim());
  const weights = words.map((word) => (word === "" ? Number.NaN : Number(word)));
  if (weights.length !== adapters) {
    return {
      problem: `${pattern} has ${weights.length} weights for ${adapters} adapters; give one for each, in their order`,
    };
  }
  const wrong = weights.findIndex((weight) => !Number.isFinite(weight));
  if (wrong !== -1) return { problem: `weights are numbers, not ${words[wrong] || "nothing"}` };
  return { pattern, weights };
}

/** The same, written. */
export const writeLayerWeights = (pattern: string, weights: readonly number[]): string =>
  `${pattern}: [${weights.join(", ")}]`;

function isPattern(pattern: string): boolean {
  try {
    new RegExp(pattern);
    return true;
  } catch {
    return false;
  }
}
