/** What `generate` was asked for, checked, with the defaults filled in. */
import { IterisError } from "../errors.ts";
import { messagesOf, type Placed } from "../samples/record.ts";
import { checkSampling, type Sampling } from "../sampling.ts";
import type { ChatMessage, GenerateRequest } from "../types.ts";

/** @throws IterisError `option_invalid` for a value out of range */
export function readSampling(
  request: Pick<GenerateRequest, "maxNewTokens" | "temperature" | "topP" | "seed">,
): Sampling {
  const { maxNewTokens = 64, temperature = 0, topP = 1, seed = 0 } = request;
  return checkSampling({ maxNewTokens, temperature, topP, seed });
}

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
}: Pick<GenerateRequest<unknown, unknown>, "prompts" | "messages" | "samples">): Placed[] {
  if (prompts === undefined && messages === undefined && samples !== undefined) return [];
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
