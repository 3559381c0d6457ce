/**
 * Samples of an encoder-decoder: the encoder reads the text, the decoder writes the target.
 *
 * Targets are made as transformers makes labels: with the special tokens of the tokenizer around them (T5:
 * `…</s>`, BART: `<s>…</s>`), all of them, whatever the decoder starts with. The core shifts them right.
 */
import { answerOf } from "../samples/answer.ts";
import type { Place } from "../samples/malformed.ts";
import type { Sample } from "../types.ts";
import { answersOf, checkFits, ended } from "./answer.ts";
import { chatAnswer, chatPrompt } from "./chat.ts";
import type { Codec } from "./codec.ts";
import type { EncodedSample, Lengths } from "./encoded.ts";
import { checkNotEmpty, encodeText } from "./text.ts";
import { keep } from "./truncate.ts";

/** What the encoder reads. A chat goes through the template, which writes special tokens itself. */
function encodeQuestion(sample: Sample, codec: Codec, { maxLength }: Lengths, place: Place) {
  if ("text" in sample) return encodeText(sample, codec, maxLength, place);
  if ("prompt" in sample) return encodeText({ text: sample.prompt }, codec, maxLength, place);
  const prompt = codec.tokenizer.content(chatPrompt(codec, sample, place));
  checkNotEmpty(prompt.length, "prompt", place);
  const ids = keep(prompt, maxLength, codec.tokenizer.side);
  return { ids, typeIds: ids.map(() => 0), truncated: prompt.length > maxLength };
}

/** A sample with its target; `prompt` and `completion` are other names for `text` and `target`. */
export function encodeForEncoderDecoder(
  sample: Sample,
  codec: Codec,
  lengths: Lengths,
  place: Place,
): EncodedSample {
  const { tokenizer } = codec;
  const { answer, label } = answersOf(sample, lengths, place, (text) => {
    if ("messages" in sample) {
      const turn = chatAnswer(codec, sample, text, place);
      return ended(codec, tokenizer.content(turn.text), turn.closed);
    }
    const content = tokenizer.content(text);
    const { before, behind } = tokenizer.around;
    return content.length === 0 ? [] : ended(codec, [...before, ...content, ...behind]);
  });
  for (const given of [answer, label]) checkFits(given, lengths.maxLength, lengths, place);
  return {
    ...encodeQuestion(sample, codec, lengths, place),
    writes: answerOf(sample) === undefined,
    answer,
    label,
  };
}
