/** What an adapter that writes its own samples begins with, as ids. */
import type { SelfRequest } from "../samples/self.ts";
import type { SelfSamples } from "../wasm-interface.ts";
import type { Codec } from "./codec.ts";
import { encodePrompt } from "./prompts.ts";

/**
 * The request for self-written samples as the core takes it.
 *
 * @param load - called only where there is a prompt: without one no tokenizer is needed
 * @throws IterisError `samples_invalid` if the prompt cannot be read
 */
export async function encodeSelf({ self }: SelfRequest, load: () => Promise<Codec>): Promise<SelfSamples> {
  const { prompt, ...rest } = self;
  if (prompt === null) return { self: rest };
  const ids = encodePrompt({ prompt }, await load(), self.maxNewTokens, { file: "self" });
  return { self: { ...rest, prompt: Uint32Array.from(ids) } };
}
