/** Prompts of `generate` as ids: nothing of them is cut. */
import { malformed, type Place } from "../samples/malformed.ts";
import type { Sample } from "../types.ts";
import type { Codec } from "./codec.ts";
import { promptOf } from "./for-decoder.ts";
import { checkVocabulary } from "./text.ts";

function promptIds(sample: Sample, codec: Codec, place: Place): number[] {
  const { tokenizer, facts } = codec;
  const { before, text } = promptOf(sample, codec, place);
  if (facts.kind === "decoder" || "messages" in sample) return [...before, ...tokenizer.content(text)];
  const pair = "text" in sample && sample.text_pair !== undefined ? { text_pair: sample.text_pair } : {};
  return tokenizer.encode({ text, ...pair }, Number.POSITIVE_INFINITY).ids;
}

/**
 * The ids of one prompt; an answer that the sample brings along is left out.
 *
 * @throws IterisError `samples_invalid` if it becomes no tokens or more than the model can read
 */
export function encodePrompt(sample: Sample, codec: Codec, maxNewTokens: number, place: Place): number[] {
  const { facts } = codec;
  const ids = promptIds(sample, codec, place);
  if (ids.length === 0) {
    throw malformed(place, "the prompt becomes no tokens, and the tokenizer has none that begins a text.");
  }
  const written = facts.kind === "decoder" ? maxNewTokens : 0;
  if (ids.length + written > facts.maxLength) {
    const beside = written === 0 ? "" : ` with the ${written} that are to be written`;
    throw malformed(
      place,
      `the prompt has ${ids.length} tokens; the model reads ${facts.maxLength}${beside}. Shorten it.`,
    );
  }
  checkVocabulary(ids, codec, place);
  return ids;
}
