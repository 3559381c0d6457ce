/** Everything that turns texts into the tokens of one base model, and tokens into texts. */
import type { BaseFacts } from "../types.ts";
import type { SourceFile } from "../wasm-interface.ts";
import { type ChatTemplate, loadChatTemplate } from "./chat-template.ts";
import { readStopTokens } from "./special-tokens.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";

/** What is needed of the facts of a base model. */
export type CodecFacts = Pick<BaseFacts, "kind" | "maxLength" | "vocabSize">;

/** A tokenizer with what its model expects of it. */
export interface Codec {
  tokenizer: Tokenizer;
  facts: CodecFacts;
  /** `null` where the model has none. */
  chat: ChatTemplate | null;
  /** Ids at which the model stops writing. */
  stops: ReadonlySet<number>;
  /** The id that ends an answer; `null` where the files name none. */
  end: number | null;
}

/**
 * Which token ends an answer: the tokenizer's own `eos_token`, which adapters are trained with, if the model
 * stops there; else the first at which it stops.
 */
function endOf(tokenizer: Tokenizer, stops: readonly number[]): number | null {
  const token = tokenizer.specialTokens.eos_token;
  const own = token === undefined ? undefined : tokenizer.idOf(token);
  if (own !== undefined && (stops.length === 0 || stops.includes(own))) return own;
  return stops[0] ?? null;
}

/**
 * Loads what the base model's files hold of it.
 *
 * @throws IterisError `missing` without a tokenizer, `config_invalid` if something cannot be used
 */
export async function loadCodec(files: readonly SourceFile[], facts: CodecFacts): Promise<Codec> {
  const tokenizer = await loadTokenizer(files);
  const stops = await readStopTokens(files);
  const end = endOf(tokenizer, stops);
  return {
    tokenizer,
    facts,
    chat: await loadChatTemplate(files, tokenizer.config, tokenizer.specialTokens),
    stops: new Set(stops.length > 0 || end === null ? stops : [end]),
    end,
  };
}
