/**
 * Per-layer weights as people type them: a line is a pattern and a list of weights, `encoder.layer.[0-5].*: [1, 0.5]`.
 *
 * A pattern may hold colons and brackets itself, so a line is read from its end. A list with a weight too few would be
 * taken for other adapters; it is refused with the number of its line.
 */
import { needsSamples } from "./settings.ts";
import { askedMethods, type State } from "./state.ts";

export interface LayerWeights {
  weights: Record<string, number[]>;
  /** What is wrong with the text, if something is. */
  problem?: string;
}

const LINE = /^(.+?)\s*:\s*\[([^\]]*)\]$/;

/** Reads the text for as many adapters; an empty one says nothing of any layer. */
export function readLayerWeights(text: string, adapters: number, mayBeNegative: boolean): LayerWeights {
  const weights: Record<string, number[]> = {};
  const refuse = (line: number, why: string): LayerWeights => ({
    weights: {},
    problem: `Weights of layers, line ${line}: ${why}`,
  });
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    const [, pattern, inside = ""] = LINE.exec(line.trim()) ?? [];
    if (pattern === undefined) {
      return refuse(index + 1, "write a pattern, a colon and a list, such as layer.[0-5].*: [1, 0.5].");
    }
    if (Object.hasOwn(weights, pattern))
      return refuse(index + 1, `the pattern ${pattern} stands above already.`);
    if (!isPattern(pattern)) return refuse(index + 1, `${pattern} is no regular expression.`);
    const numbers = inside.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
    if (numbers.length !== adapters) {
      return refuse(index + 1, `give one weight for each of the ${adapters} adapters, in their order.`);
    }
    if (!numbers.every((weight) => isWeight(weight, mayBeNegative))) {
      return refuse(index + 1, `weights are numbers ${mayBeNegative ? "other than" : "above"} zero.`);
    }
    weights[pattern] = numbers;
  }
  return { weights };
}

/** The same, written. */
export const writeLayerWeights = (weights: Readonly<Record<string, readonly number[]>>): string =>
  Object.entries(weights)
    .map(([pattern, numbers]) => `${pattern}: [${numbers.join(", ")}]`)
    .join("\n");

/** Whether an adapter may have that weight: what is solved for cannot be taken away. */
export const isWeight = (weight: number, mayBeNegative: boolean): boolean =>
  Number.isFinite(weight) && (mayBeNegative ? weight !== 0 : weight > 0);

function isPattern(pattern: string): boolean {
  try {
    new RegExp(pattern);
    return true;
  } catch {
    return false;
  }
}

/** The per-layer weights that the form holds. */
export const layerWeightsOf = (state: State) =>
  readLayerWeights(state.layerText, state.adapters.length, !needsSamples(askedMethods(state)));
