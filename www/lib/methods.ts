/**
 * Every merge method with the words that a person chooses it by: the one table that the page and the command line
 * show. The core has the same names (`src/merge/methods`); a test holds the two together.
 */
import { IterisError } from "./errors.ts";
import type { MergeOptions, MethodName, MethodOption } from "./types/options.ts";

/** What there is to tell of a method. */
export interface MethodFacts {
  name: MethodName;
  title: string;
  /** One sentence that tells it from the others. */
  hint: string;
  /** Whether it runs the model on calibration samples. */
  samples: boolean;
  /** The options of {@link MergeOptions} that it looks at and that others may not. */
  options: readonly (MethodOption & keyof MergeOptions)[];
}

const TIES_OPTIONS = ["density", "majoritySignMethod"] as const;
const DARE_OPTIONS = ["density", "seed"] as const;

/** All methods, those that look at samples first. */
export const METHODS: readonly MethodFacts[] = [
  {
    name: "iteris",
    title: "IterIS",
    hint: "Solves every layer so that each task keeps what its own adapter does there.",
    samples: true,
    options: ["schedule", "maxIter", "target", "alpha1", "alpha2", "adaptiveWeights", "padding"],
  },
  {
    name: "regmean",
    title: "RegMean",
    hint: "Solves every layer on what it sees under each adapter alone.",
    samples: true,
    options: ["nonDiagonal", "padding"],
  },
  {
    name: "regmean++",
    title: "RegMean++",
    hint: "RegMean on what a layer sees behind the layers that are already merged.",
    samples: true,
    options: ["nonDiagonal", "padding"],
  },
  {
    name: "average",
    title: "Linear average",
    hint: "The weighted mean of the adapters.",
    samples: false,
    options: [],
  },
  {
    name: "linear",
    title: "Linear sum",
    hint: "The weighted sum of the adapters, exactly: without the cross terms of PEFT’s linear.",
    samples: false,
    options: [],
  },
  {
    name: "task_arithmetic",
    title: "Task arithmetic",
    hint: "The weighted sum of the adapters, scaled.",
    samples: false,
    options: ["scale"],
  },
  {
    name: "cat",
    title: "Concatenation",
    hint: "The adapters’ factors side by side: the weighted sum, kept as it is.",
    samples: false,
    options: [],
  },
  {
    name: "svd",
    title: "Sum, cut by SVD",
    hint: "The weighted sum, cut to the best approximation of a smaller rank.",
    samples: false,
    options: ["svdRank"],
  },
  {
    name: "ties",
    title: "TIES",
    hint: "Drops small changes, lets each number’s sign be voted on, and averages those that agree.",
    samples: false,
    options: TIES_OPTIONS,
  },
  {
    name: "ties_svd",
    title: "TIES, cut by SVD",
    hint: "TIES, then the best approximation of a smaller rank.",
    samples: false,
    options: [...TIES_OPTIONS, "svdRank"],
  },
  {
    name: "dare_linear",
    title: "DARE",
    hint: "Drops changes at random, scales up the rest, and sums.",
    samples: false,
    options: DARE_OPTIONS,
  },
  {
    name: "dare_linear_svd",
    title: "DARE, cut by SVD",
    hint: "DARE, then the best approximation of a smaller rank.",
    samples: false,
    options: [...DARE_OPTIONS, "svdRank"],
  },
  {
    name: "dare_ties",
    title: "DARE with TIES",
    hint: "Drops changes at random, scales up the rest, and merges them by TIES’ vote.",
    samples: false,
    options: [...TIES_OPTIONS, "seed"],
  },
  {
    name: "dare_ties_svd",
    title: "DARE with TIES, cut by SVD",
    hint: "DARE with TIES, then the best approximation of a smaller rank.",
    samples: false,
    options: [...TIES_OPTIONS, "seed", "svdRank"],
  },
  {
    name: "magnitude_prune",
    title: "Magnitude pruning",
    hint: "Drops small changes and sums the rest.",
    samples: false,
    options: ["density"],
  },
  {
    name: "magnitude_prune_svd",
    title: "Magnitude pruning, cut by SVD",
    hint: "Magnitude pruning, then the best approximation of a smaller rank.",
    samples: false,
    options: ["density", "svdRank"],
  },
  {
    name: "knots",
    title: "KnOTS",
    hint: "Brings the adapters into one common basis by an SVD and merges them there by TIES.",
    samples: false,
    options: [...TIES_OPTIONS, "scale"],
  },
];

/** The method of that name, or of an old spelling of it (`task-arithmetic`). */
export function methodNamed(name: string): MethodFacts | undefined {
  const asWritten = name === "task-arithmetic" ? "task_arithmetic" : name;
  return METHODS.find((method) => method.name === asWritten);
}

/**
 * What there is to tell of the method of that name.
 *
 * @throws IterisError `option_invalid` that lists the names there are
 */
export function methodFacts(name: string): MethodFacts {
  const found = methodNamed(name);
  if (found !== undefined) return found;
  const names = METHODS.map((method) => method.name).join(", ");
  throw new IterisError("option_invalid", `There is no such method; choose one of ${names}, not: ${name}`);
}
