/** Per-layer weights as people type them, a pattern with its weights on each line. */
import * as library from "../lib/index.ts";
import { needsSamples } from "./settings.ts";
import { askedMethods, type State } from "./state.ts";

export interface LayerWeights {
  weights: Record<string, number[]>;
  /** What is wrong with the text, if something is. */
  problem?: string;
}

/** Reads the text for as many adapters; an empty one says nothing of any layer. */
export function readLayerWeights(text: string, adapters: number, mayBeNegative: boolean): LayerWeights {
  const weights: Record<string, number[]> = {};
  const refuse = (line: number, why: string): LayerWeights => ({
    weights: {},
    problem: `Weights of layers, line ${line}: ${why}.`,
  });
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    const read = library.readLayerWeights(line, adapters);
    if ("problem" in read) return refuse(index + 1, read.problem);
    if (Object.hasOwn(weights, read.pattern)) {
      return refuse(index + 1, `the pattern ${read.pattern} stands above already`);
    }
    if (!read.weights.every((weight) => isWeight(weight, mayBeNegative))) {
      return refuse(index + 1, `weights are numbers ${mayBeNegative ? "other than" : "above"} zero`);
    }
    weights[read.pattern] = read.weights;
  }
  return { weights };
}

/** The same, written. */
export const writeLayerWeights = (weights: Readonly<Record<string, readonly number[]>>): string =>
  Object.entries(weights)
    .map(([pattern, numbers]) => library.writeLayerWeights(pattern, numbers))
    .join("\n");

/** Whether an adapter may have that weight: what is solved for cannot be taken away. */
export const isWeight = (weight: number, mayBeNegative: boolean): boolean =>
  Number.isFinite(weight) && (mayBeNegative ? weight !== 0 : weight > 0);

/** The per-layer weights that the form holds. */
export const layerWeightsOf = (state: State) =>
  readLayerWeights(state.layerText, state.adapters.length, !needsSamples(askedMethods(state)));
