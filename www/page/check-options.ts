/** What is wrong with the numbers of the form of options, in the words of its fields. */
import { layerWeightsOf } from "./layer-weights.ts";
import { optionsOf, type Settings } from "./settings.ts";
import { askedMethods, baseFacts, type State } from "./state.ts";

export const wholeFrom = (least: number, value: number): boolean => Number.isInteger(value) && value >= least;

const share = (value: number): boolean => value > 0 && value <= 1;

/** Options that belong to some methods: only those whose fields are shown can be corrected. */
const OF_METHODS: readonly {
  option: keyof Settings & Parameters<ReturnType<typeof optionsOf>["has"]>[0];
  fits: (settings: Settings) => boolean;
  text: string;
}[] = [
  {
    option: "maxIter",
    fits: ({ schedule, maxIter }) => schedule !== "iterate" || wholeFrom(1, maxIter),
    text: "The number of passes is a whole number from 1.",
  },
  {
    option: "alpha1",
    fits: ({ alpha1, alpha2 }) => alpha1 >= 0 && alpha2 >= 0,
    text: "Alpha 1 and alpha 2 are numbers from 0.",
  },
  { option: "scale", fits: ({ scale }) => Number.isFinite(scale), text: "The scale is a number." },
  {
    option: "nonDiagonal",
    fits: ({ nonDiagonal }) => nonDiagonal >= 0 && nonDiagonal <= 1,
    text: "The non-diagonal a is a number from 0 to 1.",
  },
  {
    option: "density",
    fits: ({ density }) => share(density),
    text: "The density is a number above 0, at most 1.",
  },
  {
    option: "svdRank",
    fits: ({ svdRank }) => svdRank === null || wholeFrom(1, svdRank),
    text: "The rank of the cut is a whole number from 1, or empty for the largest.",
  },
  { option: "seed", fits: ({ seed }) => wholeFrom(0, seed), text: "The seed is a whole number from 0." },
];

export function optionProblem(state: State): string | undefined {
  const { settings } = state;
  const { rank, energy, maxLength, maxNewTokens } = settings;
  if (rank !== null && !wholeFrom(1, rank)) return "The output rank is a whole number from 1.";
  if (energy !== null && !share(energy)) return "The share kept is a number above 0, at most 1.";
  if (maxLength !== null && !wholeFrom(2, maxLength)) {
    return "The longest text is a whole number of tokens from 2, or empty for the model’s own limit.";
  }
  if (baseFacts(state)?.generates && !wholeFrom(1, maxNewTokens)) {
    return "The longest answer is a whole number of tokens from 1.";
  }
  const shown = optionsOf(askedMethods(state));
  const wrong = OF_METHODS.find(({ option, fits }) => shown.has(option) && !fits(settings));
  return wrong?.text ?? layerWeightsOf(state).problem;
}
