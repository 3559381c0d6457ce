/** Texts as ids, with the checks that every text needs. */
import { malformed, type Place } from "../samples/malformed.ts";
import type { Codec } from "./codec.ts";

/**
 * A text or a pair with special tokens around it, cut to `maxLength`.
 *
 * @throws IterisError `samples_invalid` if nothing of it becomes a token
 */
export function encodeText(
  texts: { text: string; text_pair?: string },
  codec: Codec,
  maxLength: number,
  place: Place,
): { ids: number[]; typeIds: number[]; truncated: boolean } {
  const { ids, typeIds, truncated, content } = codec.tokenizer.encode(texts, maxLength);
  checkNotEmpty(content, "text", place);
  return { ids, typeIds, truncated };
}

/** Where a text becomes no tokens, there is nothing to calibrate on. */
export function checkNotEmpty(count: number, what: "text" | "prompt", place: Place): void {
  if (count > 0) return;
  throw malformed(place, `the ${what} becomes no tokens: the tokenizer leaves nothing of it.`);
}

/** Ids that the model has no embedding for would be read from beyond its end. */
export function checkVocabulary(ids: readonly number[], { facts, tokenizer }: Codec, place: Place): void {
  const outside = ids.find((id) => id >= facts.vocabSize);
  if (outside === undefined) return;
  throw malformed(
    place,
    `token ${outside} (${JSON.stringify(tokenizer.decode([outside]))}) is outside the base model's vocabulary ` +
      `of ${facts.vocabSize}; take the tokenizer that belongs to the model, or a base whose embedding was ` +
      "enlarged for it.",
  );
}
