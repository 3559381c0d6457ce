/** How tokens are chosen while a model writes: the options for it, checked. */
import { IterisError } from "./errors.ts";

/** How text is written, with the defaults filled in. */
export interface Sampling {
  maxNewTokens: number;
  /** 0 takes the likeliest token each time. */
  temperature: number;
  topP: number;
  seed: number;
}

/** @throws IterisError `option_invalid` unless `value` is a whole number from `least` on */
export function wholeFrom(least: number, name: string, value: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new IterisError("option_invalid", `${name} must be a whole number from ${least} on, not ${value}.`);
}

/** @throws IterisError `option_invalid` for a value out of range */
export function checkSampling({ maxNewTokens, temperature, topP, seed }: Sampling): Sampling {
  if (!Number.isFinite(temperature) || temperature < 0) {
    throw new IterisError("option_invalid", `temperature must be 0 or more, not ${temperature}.`);
  }
  if (!(topP > 0 && topP <= 1)) {
    throw new IterisError("option_invalid", `topP must be above 0 and at most 1, not ${topP}.`);
  }
  return {
    maxNewTokens: wholeFrom(1, "maxNewTokens", maxNewTokens),
    temperature,
    topP,
    seed: wholeFrom(0, "seed", seed),
  };
}
