/** What an adapter that writes its own samples begins with, as ids, and how much it writes. */
import { SELF_OPTIONS } from "../generated.ts";
import type { SelfRequest } from "../samples/self.ts";
import type { SelfSamples } from "../wasm-interface.ts";
import type { Codec, CodecFacts } from "./codec.ts";
import { encodePrompt } from "./prompts.ts";

/**
 * The request for self-written samples as the core takes it.
 *
 * @param load - called only where there is a prompt: without one no tokenizer is needed
 * @throws IterisError `samples_invalid` if the prompt cannot be read
 */
export async function encodeSelf(
  { self }: SelfRequest,
  facts: CodecFacts,
  load: () => Promise<Codec>,
): Promise<SelfSamples> {
  const { prompt, maxNewTokens, ...rest } = self;
  const ids =
    prompt === null ? null : encodePrompt({ prompt }, await load(), maxNewTokens ?? 1, { file: "self" });
  // Without a prompt the model begins with one token of its own.
  const room = facts.maxLength - (facts.kind === "decoder" ? (ids?.length ?? 1) : 0);
  return {
    self: {
      ...rest,
      maxNewTokens: maxNewTokens ?? Math.max(1, Math.min(SELF_OPTIONS.maxNewTokens.default, room)),
      ...(prompt === null || ids === null ? {} : { prompt: Uint32Array.from(ids), promptText: prompt }),
    },
  };
}
