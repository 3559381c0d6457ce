/** Every merge method with the words that a person chooses it by, as the core describes it. */
import { IterisError } from "./errors.ts";
import { METHODS as described } from "./generated.ts";
import type { MethodName, MethodOption } from "./types/options.ts";

/** What there is to tell of a method. */
export interface MethodFacts {
  name: MethodName;
  title: string;
  /** One sentence that tells it from the others. */
  hint: string;
  /** The paper's number on arXiv, of a method that has one. */
  paper: string | null;
  /** Whether it runs the model on calibration samples. */
  samples: boolean;
  /** The options of a merge that it looks at and that others may not. */
  options: readonly MethodOption[];
}

/** All methods, those that look at samples first. */
export const METHODS: readonly MethodFacts[] = described;

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
