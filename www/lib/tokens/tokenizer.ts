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
import type { SourceFile } from "../wasm-interface.ts";
import { readJson } from "./json-file.ts";
import { readSpecialTokens } from "./special-tokens.ts";
import { keep, longestFirst, type Side } from "./truncate.ts";

/** A text, or a pair, as the model reads it. */
export interface Encoded {
  ids: number[];
  typeIds: number[];
  truncated: boolean;
  /** How many of the ids are not special tokens that every text gets. */
  content: number;
}

/** A tokenizer that was loaded from the files of a base model. */
export interface Tokenizer {
  /** `model_max_length` of `tokenizer_config.json`; `null` where it tells none. */
  readonly maxLength: number | null;
  /** `truncation_side`: where a text that is too long loses tokens. */
  readonly side: Side;
  /** `tokenizer_config.json`. */
  readonly config: Record<string, unknown>;
  /** `bos_token`, `eos_token` and so on, by name. */
  readonly specialTokens: Record<string, string>;
  /** The special tokens before and behind every single text. */
  readonly around: { before: number[]; behind: number[] };
  /** Encodes a text or a pair into at most `maxLength` tokens, special tokens among them. */
  encode(texts: { text: string; text_pair?: string | undefined }, maxLength: number): Encoded;
  /** The ids of a text alone, without the special tokens around it; those written in it are found. */
  content(text: string): number[];
  /** How many special tokens a text or a pair has around it. */
  specialCount(pair: boolean): number;
  /** The id of a token by its text. */
  idOf(token: string): number | undefined;
  /** The text that ids stand for. Ids that no token has (a padded vocabulary's) stand for nothing. */
  decode(ids: readonly number[], options?: { skipSpecial?: boolean }): string;
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

/** Whether texts are wrapped as RoBERTa does, whose pairs are one segment (the library counts two). */
function isOneSegment(json: Record<string, unknown>): boolean {
  const processor = json.post_processor as { type?: unknown; processors?: { type?: unknown }[] } | null;
  const all = [processor, ...(processor?.processors ?? [])];
  return all.some((one) => one?.type === "RobertaProcessing");
}

function isBytePair(json: Record<string, unknown>): boolean {
  return (json.model as { type?: unknown } | undefined)?.type === "BPE";
}

/**
 * Loads `tokenizer.json` and, if there is one, `tokenizer_config.json`.
 *
 * @throws IterisError `missing` without `tokenizer.json`, `config_invalid` if it cannot be used
 */
export async function loadTokenizer(files: readonly SourceFile[]): Promise<Tokenizer> {
  const json = await readJson(files, "tokenizer.json");
  if (json === null) {
    throw new IterisError(
      "missing",
      "The base model's files lack the tokenizer; add tokenizer.json from the folder the model came from.",
    );
  }
  const config = (await readJson(files, "tokenizer_config.json")) ?? {};
  const tokenizer = construct(json, config);
  const side: Side = config.truncation_side === "left" ? "left" : "right";
  const length = config.model_max_length;

  const oneSegment = isOneSegment(json);
  const tokensOf = (text: string) => tokenizer.tokenize(text, { add_special_tokens: false });
  const wrap = (first: string[], second: string[] | null) => {
    const wrapped = tokenizer.post_processor?.post_process(first, second, true);
    const tokens = wrapped?.tokens ?? [...first, ...(second ?? [])];
    const typeIds = oneSegment ? undefined : wrapped?.token_type_ids;
    return { tokens, typeIds: typeIds ?? tokens.map(() => 0) };
  };
  const idOf = (token: string) => {
    const id = tokenizer.token_to_id(token) ?? tokenizer.model?.unk_token_id;
    if (id === undefined) {
      throw new IterisError("config_invalid", "The tokenizer has no token for unknown words: tokenizer.json");
    }
    return id;
  };
  const special = { single: wrap([], null).tokens.length, pair: wrap([], []).tokens.length };
  // As transformers does: only where the files ask for it, and never for byte-pair encodings, which keep spaces.
  const tidy = config.clean_up_tokenization_spaces === true && !isBytePair(json);
  // A text that no token has shows where content stands between the special tokens.
  const stand = "\u0000";
  const single = wrap([stand], null).tokens;
  const at = single.indexOf(stand);

  return {
    // Where nothing limits the tokenizer, transformers writes 1e30.
    maxLength: typeof length === "number" && length > 0 && length < 1e9 ? Math.floor(length) : null,
    side,
    config,
    specialTokens: await readSpecialTokens(files, config),
    around: { before: single.slice(0, at).map(idOf), behind: single.slice(at + 1).map(idOf) },
    specialCount: (pair) => (pair ? special.pair : special.single),
    idOf: (token) => tokenizer.token_to_id(token),
    content: (text) => tokensOf(text).map(idOf),
    encode({ text, text_pair }, maxLength) {
      const first = tokensOf(text);
      const second = text_pair === undefined ? null : tokensOf(text_pair);
      const room = maxLength - (second === null ? special.single : special.pair);
      const [a, b] =
        second === null ? [Math.min(first.length, room), 0] : longestFirst(first.length, second.length, room);
      const { tokens, typeIds } = wrap(keep(first, a, side), second === null ? null : keep(second, b, side));
      return {
        ids: tokens.map(idOf),
        typeIds,
        truncated: first.length + (second?.length ?? 0) > Math.max(room, 0),
        content: a + b,
      };
    },
    decode(ids, { skipSpecial = false } = {}) {
      const known = ids.filter((id) => tokenizer.id_to_token(id) !== undefined);
      return known.length === 0
        ? ""
        : tokenizer.decode(known, {
            skip_special_tokens: skipSpecial,
            clean_up_tokenization_spaces: tidy,
          });
    },
  };
}
