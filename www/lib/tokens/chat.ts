/** A chat, through the tokenizer's template: up to where the assistant answers, and what it answers. */
import { IterisError } from "../errors.ts";
import { askedOf } from "../samples/answer.ts";
import { malformed, type Place } from "../samples/malformed.ts";
import type { ChatMessage, ChatSample } from "../types.ts";
import type { Codec } from "./codec.ts";

function render(codec: Codec, messages: readonly ChatMessage[], reply: boolean, place: Place): string {
  if (codec.chat === null) {
    throw new IterisError(
      "missing",
      "A chat needs the tokenizer's chat template, and the base model's files have none; add " +
        "chat_template.jinja or tokenizer_config.json from the folder the model came from, or give prompts.",
    );
  }
  try {
    return codec.chat.render(messages, reply);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw malformed(place, `the chat template does not take this chat: ${why}`);
  }
}

/** A chat up to where the assistant is to answer. */
export function chatPrompt(codec: Codec, { messages }: ChatSample, place: Place): string {
  return render(codec, askedOf(messages), true, place);
}

/**
 * What the template writes for the assistant's answer to a chat, from the end of its prompt on. `closed` tells
 * that the template itself ends the turn.
 *
 * Where the finished chat does not begin with the prompt (templates that put an empty thought into it), the
 * answer stands for itself.
 */
export function chatAnswer(
  codec: Codec,
  { messages }: ChatSample,
  answer: string,
  place: Place,
): { text: string; closed: boolean } {
  const asked = askedOf(messages);
  const prompt = render(codec, asked, true, place);
  const whole = render(codec, [...asked, { role: "assistant", content: answer }], false, place);
  if (!whole.startsWith(prompt)) return { text: answer, closed: false };
  const text = whole.slice(prompt.length);
  return { text, closed: !text.trimEnd().endsWith(answer.trim()) };
}
