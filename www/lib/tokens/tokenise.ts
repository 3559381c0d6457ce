/** Samples as the core takes them: flat arrays of ids, ragged, with lengths. */
import { IterisError } from "../errors.ts";
import type { SampleSet } from "../samples/read.ts";
import type { TokenizedSamples } from "../wasm-interface.ts";
import type { Tokenizer } from "./tokenizer.ts";

/**
 * The length samples are cut to: what the caller asks for, or as much as tokenizer and model can take.
 *
 * @param modelMaximum - `maxLength` of the base model's facts
 * @throws IterisError `option_invalid` if more is asked for than the model has positions
 */
export function resolveMaxLength(
  asked: number | null | undefined,
  tokenizer: Tokenizer,
  modelMaximum: number,
): number {
  if (asked === null || asked === undefined) return Math.min(tokenizer.maxLength ?? Infinity, modelMaximum);
  if (!Number.isInteger(asked) || asked < 1) {
    throw new IterisError("option_invalid", `maxLength must be a whole number above 0, not ${asked}.`);
  }
  if (asked > modelMaximum) {
    throw new IterisError(
      "option_invalid",
      `maxLength ${asked} is more than the model can read, which is ${modelMaximum} tokens.`,
    );
  }
  return asked;
}

/** Encodes every sample of a task. */
export function tokenise(set: SampleSet, tokenizer: Tokenizer, maxLength: number): TokenizedSamples {
  const special = tokenizer.specialTokens(set.samples.some(({ text_pair }) => text_pair !== undefined));
  if (maxLength <= special) {
    throw new IterisError(
      "option_invalid",
      `maxLength ${maxLength} leaves no room for text beside ${special} special tokens.`,
    );
  }
  const encoded = set.samples.map((sample) => tokenizer.encode(sample, maxLength));
  const labels = set.samples.map(({ label }) => label ?? null);
  return {
    ids: Uint32Array.from(encoded.flatMap(({ ids }) => ids)),
    typeIds: Uint32Array.from(encoded.flatMap(({ typeIds }) => typeIds)),
    lengths: Uint32Array.from(encoded, ({ ids }) => ids.length),
    truncated: encoded.filter(({ truncated }) => truncated).length,
    ...(labels.some((label) => label !== null) ? { labels } : {}),
    ...(set.name === null ? {} : { source: set.name }),
  };
}
