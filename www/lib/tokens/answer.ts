/**
 * The ids of answers.
 *
 * Tokens may span the place where a prompt ends and its completion begins. So the two are tokenised as one
 * text; if its ids begin with the prompt's, what follows is the completion. Where a token spans both, which no
 * model writes after the prompt, the completion is tokenised alone.
 */
import { answerOf } from "../samples/answer.ts";
import { malformed, type Place } from "../samples/malformed.ts";
import type { Sample } from "../types.ts";
import type { Codec } from "./codec.ts";
import type { Lengths } from "./encoded.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Ids of a completion after its prompt, without special tokens around either. */
export function continuation(tokenizer: Tokenizer, prompt: string, completion: string): number[] {
  const head = tokenizer.content(prompt);
  const whole = tokenizer.content(prompt + completion);
  return head.every((id, i) => whole[i] === id) ? whole.slice(head.length) : tokenizer.content(completion);
}

/**
 * The answer up to the first token at which the model stops; if there is none, the token that ends answers is
 * put behind it, unless the answer is `closed` in another way.
 */
export function ended(codec: Codec, ids: readonly number[], closed = false): number[] {
  const stop = ids.findIndex((id) => codec.stops.has(id));
  if (stop !== -1) return ids.slice(0, stop + 1);
  return closed || codec.end === null ? [...ids] : [...ids, codec.end];
}

/**
 * A label as the text that follows a prompt: a word of its own, so a space comes between the two where neither
 * brings one.
 */
export function labelAfter(prompt: string, label: string): string {
  return /(^|\s)$/.test(prompt) || /^\s/.test(label) ? label : ` ${label}`;
}

/**
 * The given answer and the right one of a sample, each empty where there is none. A label counts for more than
 * an answer: it says what is right, an answer what is read.
 *
 * @param write - the ids of a text as an answer to the sample
 * @throws IterisError `samples_invalid` if an answer becomes no tokens
 */
export function answersOf(
  sample: Sample,
  lengths: Lengths,
  place: Place,
  write: (text: string, kind: "answer" | "label") => number[],
): { answer: number[]; label: number[] } {
  const written = (text: string, kind: "answer" | "label") => {
    const ids = write(text, kind);
    if (ids.length === 0) throw malformed(place, `the ${kind} becomes no tokens.`);
    return ids;
  };
  const given = answerOf(sample);
  const answer = given === undefined ? [] : written(given, "answer");
  if (!lengths.labels) return { answer, label: [] };
  const { label } = sample;
  const known = label !== undefined && label !== null;
  return { answer, label: known ? written(String(label), "label") : answer };
}

/**
 * Answers are never cut: a model that was trained on one would not end where it was cut.
 *
 * @param room - tokens that are left for the answer
 */
export function checkFits(answer: readonly number[], room: number, lengths: Lengths, place: Place): void {
  if (answer.length <= room) return;
  throw malformed(
    place,
    `the answer has ${answer.length} tokens where maxLength ${lengths.maxLength} leaves room for ` +
      `${Math.max(0, room)}, and answers are not cut; shorten it or raise maxLength.`,
  );
}
