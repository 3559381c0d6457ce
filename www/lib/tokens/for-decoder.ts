/**
 * Samples of a decoder-only model that ask for an answer: a prompt and its completion, or a chat.
 *
 * The prompt gets the special tokens that the tokenizer puts before every text (a beginning-of-sequence token),
 * but none of those behind it: the completion follows there. A chat's template writes them all itself.
 */
import { IterisError } from "../errors.ts";
import type { Place } from "../samples/malformed.ts";
import type { Sample } from "../types.ts";
import { answersOf, checkFits, continuation, ended, labelAfter } from "./answer.ts";
import { chatAnswer, chatPrompt } from "./chat.ts";
import type { Codec } from "./codec.ts";
import type { EncodedSample, Lengths } from "./encoded.ts";
import { checkNotEmpty } from "./text.ts";
import { keep } from "./truncate.ts";

/** What is asked, as text, and the ids that stand before it and are never cut. */
export function promptOf(sample: Sample, codec: Codec, place: Place): { before: number[]; text: string } {
  if ("messages" in sample) return { before: [], text: chatPrompt(codec, sample, place) };
  return { before: codec.tokenizer.around.before, text: "prompt" in sample ? sample.prompt : sample.text };
}

/** A prompt, cut to what fits beside its answer, and the answer. */
export function encodeForDecoder(
  sample: Sample,
  codec: Codec,
  lengths: Lengths,
  place: Place,
): EncodedSample {
  const { tokenizer } = codec;
  const { before, text: prompt } = promptOf(sample, codec, place);
  const { answer, label } = answersOf(sample, lengths, place, (text, kind) => {
    if ("messages" in sample) {
      const turn = chatAnswer(codec, sample, text, place);
      return ended(codec, continuation(tokenizer, prompt, turn.text), turn.closed);
    }
    const follows = kind === "label" ? labelAfter(prompt, text) : text;
    const ids = continuation(tokenizer, prompt, follows);
    return ids.length === 0 ? [] : ended(codec, ids);
  });
  const asked = tokenizer.content(prompt);
  checkNotEmpty(asked.length, "prompt", place);
  const writes = answer.length === 0;
  // At least one token of the prompt stays.
  for (const given of [answer, label]) {
    checkFits(given, lengths.maxLength - before.length - 1, lengths, place);
  }
  // A comparison reads what the adapter writes and the label, whatever answer is given.
  const written = writes || lengths.labels ? lengths.maxNewTokens : 0;
  const follows = Math.max(written, answer.length, label.length);
  const room = roomBefore(follows, answer.length, codec, lengths) - before.length;
  const ids = [...before, ...keep(asked, room, tokenizer.side)];
  return { ids, typeIds: ids.map(() => 0), truncated: asked.length > room, writes, answer, label };
}

/**
 * Tokens that a prompt may have, those before it among them: what is left of `maxLength` beside the given answer,
 * and of what the model can read beside all that is to follow.
 */
function roomBefore(
  follows: number,
  answer: number,
  { facts, tokenizer }: Codec,
  { maxLength, maxNewTokens }: Lengths,
): number {
  const room = Math.min(maxLength - answer, facts.maxLength - follows);
  if (room > tokenizer.around.before.length) return room;
  throw new IterisError(
    "option_invalid",
    `maxNewTokens ${maxNewTokens} and maxLength ${maxLength} leave no room for a prompt within the ` +
      `${facts.maxLength} tokens that the model reads.`,
  );
}
