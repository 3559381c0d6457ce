/** What in a sample is asked, and what is its answer. */
import type { ChatMessage, Sample } from "../types.ts";

/** The turns of a chat that are given: all but a last one of the assistant, which is the answer. */
export function askedOf(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  return messages.at(-1)?.role === "assistant" ? messages.slice(0, -1) : messages;
}

/** The answer that a sample brings along. */
export function answerOf(sample: Sample): string | undefined {
  if ("text" in sample) return sample.target;
  if ("prompt" in sample) return sample.completion;
  const last = sample.messages.at(-1);
  return last?.role === "assistant" ? last.content : undefined;
}
