/**
 * The base model's own tokenizer, cut to a length the way transformers cuts.
 *
 * `@huggingface/tokenizers` turns text into tokens and wraps them in the special tokens of the model, but it
 * does not truncate. Cutting its finished output would lose the closing `[SEP]`; so the content is cut first
 * and wrapped afterwards. Truncation and padding written in `tokenizer.json` are not applied: the caller's
 * maximum counts, and the core pads.
 */
import { Tokenizer as HfTokenizer } from "@huggingface/tokenizers";
import { IterisError } from "../errors.ts";
import { readAll } from "../sources/open.ts";
import type { Sample } from "../types.ts";
import type { SourceFile } from "../wasm-interface.ts";
import { keep, longestFirst } from "./truncate.ts";

/** One sample as the model reads it. */
export interface Encoded {
  ids: number[];
  typeIds: number[];
  truncated: boolean;
}

/** A tokenizer that was loaded from the files of a base model. */
export interface Tokenizer {
  /** `model_max_length` of `tokenizer_config.json`; `null` where it tells none. */
  readonly maxLength: number | null;
  /** Encodes one sample into at most `maxLength` tokens, special tokens among them. */
  encode(sample: Sample, maxLength: number): Encoded;
  /** How many special tokens a sample has. */
  specialTokens(pair: boolean): number;
}

async function readJson(file: SourceFile): Promise<Record<string, unknown>> {
  const text = new TextDecoder().decode(await readAll(file));
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return value as Record<string, unknown>;
    }
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new IterisError("config_invalid", `Not valid JSON (${why}): ${file.name}`, { cause });
  }
  throw new IterisError("config_invalid", `Must hold a JSON object: ${file.name}`);
}

function construct(json: Record<string, unknown>, config: Record<string, unknown>): HfTokenizer {
  try {
    return new HfTokenizer(json, config);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new IterisError(
      "config_invalid",
      `The tokenizer is not one that can be run (${why}): tokenizer.json`,
      {
        cause,
      },
    );
  }
}

/**
 * Loads `tokenizer.json` and, if there is one, `tokenizer_config.json`.
 *
 * @throws IterisError `missing` without `tokenizer.json`, `config_invalid` if it cannot be used
 */
export async function loadTokenizer(files: readonly SourceFile[]): Promise<Tokenizer> {
  const find = (name: string) => files.find((file) => file.name === name);
  const main = find("tokenizer.json");
  if (main === undefined) {
    throw new IterisError(
      "missing",
      "The base model's files lack the tokenizer; add tokenizer.json from the folder the model came from.",
    );
  }
  const side = find("tokenizer_config.json");
  const config = side === undefined ? {} : await readJson(side);
  const tokenizer = construct(await readJson(main), config);
  const cut = config.truncation_side === "left" ? "left" : "right";
  const length = config.model_max_length;

  const tokensOf = (text: string) => tokenizer.tokenize(text, { add_special_tokens: false });
  const wrap = (first: string[], second: string[] | null) => {
    const wrapped = tokenizer.post_processor?.post_process(first, second, true);
    const tokens = wrapped?.tokens ?? [...first, ...(second ?? [])];
    return { tokens, typeIds: wrapped?.token_type_ids ?? tokens.map(() => 0) };
  };
  const special = { single: wrap([], null).tokens.length, pair: wrap([], []).tokens.length };
  const idOf = (token: string) => {
    const id = tokenizer.token_to_id(token) ?? tokenizer.model?.unk_token_id;
    if (id === undefined) {
      throw new IterisError("config_invalid", "The tokenizer has no token for unknown words: tokenizer.json");
    }
    return id;
  };

  return {
    // Where nothing limits the tokenizer, transformers writes 1e30.
    maxLength: typeof length === "number" && length > 0 && length < 1e9 ? Math.floor(length) : null,
    specialTokens: (pair) => (pair ? special.pair : special.single),
    encode({ text, text_pair }, maxLength) {
      const first = tokensOf(text);
      const second = text_pair === undefined ? null : tokensOf(text_pair);
      const room = maxLength - (second === null ? special.single : special.pair);
      const [a, b] =
        second === null ? [Math.min(first.length, room), 0] : longestFirst(first.length, second.length, room);
      const { tokens, typeIds } = wrap(keep(first, a, cut), second === null ? null : keep(second, b, cut));
      return {
        ids: tokens.map(idOf),
        typeIds,
        truncated: first.length + (second?.length ?? 0) > Math.max(room, 0),
      };
    },
  };
}
