/** Samples that an adapter is to write itself: the request for them, with its defaults filled in. */
import { IterisError } from "../errors.ts";
import { checkSampling, type Sampling, wholeFrom } from "../sampling.ts";
import type { SelfInput } from "../types.ts";

/** How many texts, of which kind; the same seed gives the same ones. */
export interface SelfRequest {
  self: Omit<Sampling, "maxNewTokens"> & {
    count: number;
    /** `null`: 64, or what the model can read if that is less. */
    maxNewTokens: number | null;
    /** `null`: the beginning-of-sequence token alone. */
    prompt: string | null;
  };
}

/** Whether samples are to be written by the adapter. */
export function isSelf(input: unknown): input is SelfInput {
  return input === "self" || (typeof input === "object" && input !== null && "self" in input);
}

/** @throws IterisError `option_invalid` for a value out of range */
export function readSelf(input: SelfInput): SelfRequest {
  const asked = input === "self" || input.self === true ? {} : input.self;
  if (typeof asked !== "object" || asked === null) {
    throw new IterisError("option_invalid", "self must be true, or an object with count, prompt or seed.");
  }
  const { count = 32, prompt, seed = 0, temperature = 1, topP = 1, maxNewTokens = null } = asked;
  if (temperature === 0) {
    throw new IterisError("option_invalid", "At temperature 0 all self-written samples would be the same.");
  }
  if (prompt !== undefined && typeof prompt !== "string") {
    throw new IterisError("option_invalid", "The prompt of self-written samples must be a text.");
  }
  return {
    self: {
      ...checkSampling({ maxNewTokens: maxNewTokens ?? 1, temperature, topP, seed }),
      maxNewTokens,
      count: wholeFrom(1, "count", count),
      prompt: prompt === undefined || prompt === "" ? null : prompt,
    },
  };
}
