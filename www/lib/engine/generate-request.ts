/** What `generate` was asked for, checked, with the defaults filled in. */
import { IterisError } from "../errors.ts";
import { messagesOf, type Placed } from "../samples/record.ts";
import type { ChatMessage, GenerateRequest } from "../types.ts";

/**
 * What writes; `files: null` is the base itself.
 *
 * @throws IterisError `option_invalid` if that is told in two ways, or not at all
 */
export function readVariants<Files>({
  variants,
  adapters,
}: Pick<GenerateRequest<Files>, "variants" | "adapters">): { name: string; files: Files | null }[] {
  if (variants !== undefined && adapters !== undefined) {
    throw new IterisError("option_invalid", "Give variants or adapters, not both; variants may hold both.");
  }
  if (variants?.length === 0) throw new IterisError("option_invalid", "The list of variants is empty.");
  const list = variants ?? [{ name: "base", files: undefined }, ...(adapters ?? [])];
  return list.map(({ name, files }) => ({ name, files: files ?? null }));
}

/** One chat is a list of turns, several are a list of such lists. */
function isOneChat(
  messages: readonly ChatMessage[] | readonly (readonly ChatMessage[])[],
): messages is readonly ChatMessage[] {
  return !Array.isArray(messages[0]);
}

/**
 * The prompts, as samples without answers; those of `samples` follow them, once they are read.
 *
 * @throws IterisError `option_invalid` or `samples_invalid` that says which is wrong
 */
export function readPrompts({
  prompts,
  messages,
  samples,
  image,
}: Pick<GenerateRequest<unknown, unknown, unknown>, "prompts" | "messages" | "samples" | "image">): Placed[] {
  if (image !== undefined && (messages !== undefined || samples !== undefined)) {
    throw new IterisError(
      "option_invalid",
      "Beside image there are prompts, how captions begin, and neither messages nor samples.",
    );
  }
  const elsewhere = samples !== undefined || image !== undefined;
  if (prompts === undefined && messages === undefined && elsewhere) return [];
  if ((prompts === undefined) === (messages === undefined)) {
    throw new IterisError("option_invalid", "Give either prompts or messages.");
  }
  if (messages !== undefined) {
    const chats = isOneChat(messages) ? [messages] : messages;
    return chats.map((chat, i) => {
      const place = { file: "messages", item: i + 1 };
      return { sample: { messages: messagesOf(chat, place) }, place };
    });
  }
  const list = typeof prompts === "string" ? [prompts] : (prompts ?? []);
  if (list.length === 0) throw new IterisError("option_invalid", "The list of prompts is empty.");
  return list.map((prompt, i) => {
    const place = { file: "prompts", item: i + 1 };
    if (typeof prompt === "string") return { sample: { prompt }, place };
    throw new IterisError("option_invalid", `prompts item ${i + 1} must be a text, not a ${typeof prompt}.`);
  });
}
