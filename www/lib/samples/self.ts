/** Samples that an adapter is to write itself: the request for them, with its defaults filled in. */
import { IterisError } from "../errors.ts";
import { SELF_OPTIONS } from "../generated.ts";
import { checkAll, type Sampling, withDefaults } from "../sampling.ts";
import type { SelfInput } from "../types.ts";

/** How many texts, of which kind; the same seed gives the same ones. */
export interface SelfRequest {
  self: Omit<Sampling, "maxNewTokens"> & {
    count: number;
    /** `null`: the default, or what the model can read if that is less. */
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
  const { prompt, ...given } = asked;
  const numbers = withDefaults(SELF_OPTIONS, given);
  checkAll(SELF_OPTIONS, numbers);
  if (prompt !== undefined && typeof prompt !== "string") {
    throw new IterisError("option_invalid", "The prompt of self-written samples must be a text.");
  }
  return {
    self: {
      ...numbers,
      maxNewTokens: given.maxNewTokens ?? null,
      prompt: prompt === undefined || prompt === "" ? null : prompt,
    },
  };
}
