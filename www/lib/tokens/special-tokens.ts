/** The special tokens that a tokenizer's configuration names, and the tokens at which a model stops writing. */
import type { SourceFile } from "../wasm-interface.ts";
import { readJson } from "./json-file.ts";

const names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/** A token is written as its text, or as an object around it. */
function contentOf(token: unknown): string | null {
  if (typeof token === "string") return token;
  const content = (token as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : null;
}

/**
 * `bos_token`, `eos_token` and so on by their names, as transformers hands them to a chat template.
 *
 * @param config - `tokenizer_config.json`; what it does not name is looked up in `special_tokens_map.json`
 */
export async function readSpecialTokens(
  files: readonly SourceFile[],
  config: Record<string, unknown>,
): Promise<Record<string, string>> {
  const map = (await readJson(files, "special_tokens_map.json")) ?? {};
  const found: Record<string, string> = {};
  for (const name of names) {
    // `null` in the configuration is an answer: this tokenizer has none.
    const token = contentOf(name in config ? config[name] : map[name]);
    if (token !== null) found[name] = token;
  }
  return found;
}

function idsOf(value: unknown): number[] {
  const list = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => Number.isInteger(id) && id >= 0);
}

/** `eos_token_id` of `generation_config.json`, or else of `config.json`: an id or a list of them. */
export async function readStopTokens(files: readonly SourceFile[]): Promise<number[]> {
  const generation = idsOf((await readJson(files, "generation_config.json"))?.eos_token_id);
  return generation.length > 0 ? generation : idsOf((await readJson(files, "config.json"))?.eos_token_id);
}
