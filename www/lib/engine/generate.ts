/** Prompts on their way to the core, and what it wrote on its way back. */
import { IterisError } from "../errors.ts";
import type { Placed } from "../samples/record.ts";
import type { Sampling } from "../sampling.ts";
import { type Codec, loadCodec } from "../tokens/codec.ts";
import { encodePrompt } from "../tokens/prompts.ts";
import type { BaseFacts, GenerateResult } from "../types.ts";
import type { Generated, GenerateSource, SourceFile } from "../wasm-interface.ts";
import type { JobPlace } from "./place.ts";

/** A generation, all inputs opened and parsed. */
export interface GenerateJob extends JobPlace {
  base: SourceFile[];
  variants: { name: string; files?: SourceFile[] }[];
  /** Texts, prompts or chats; answers among them are left out. */
  prompts: Placed[];
  options: Sampling;
}

/**
 * Tokenises the prompts.
 *
 * @throws IterisError `model_unsupported` if the base model writes no text, `duplicate` for two variants of one
 * name, `samples_invalid` for a prompt that cannot be read
 */
export async function preparePrompts(
  job: GenerateJob,
  facts: BaseFacts,
): Promise<{ codec: Codec; prompts: GenerateSource["prompts"] }> {
  if (!facts.generates) {
    throw new IterisError(
      "model_unsupported",
      `The base model writes no text: ${facts.architecture} has no language-modelling head.`,
    );
  }
  const names = job.variants.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) {
    throw new IterisError("duplicate", `Two variants have the same name; give each its own: ${twice}`);
  }
  const codec = await loadCodec(job.base, facts);
  const ids = job.prompts.map(({ sample, place }) =>
    encodePrompt(sample, codec, job.options.maxNewTokens, place),
  );
  return {
    codec,
    prompts: { ids: Uint32Array.from(ids.flat()), lengths: Uint32Array.from(ids, ({ length }) => length) },
  };
}

/** The texts of what was written. */
export function readTexts(
  { variants }: Pick<Generated, "variants">,
  { tokenizer }: Codec,
): GenerateResult["variants"] {
  return variants.map(({ name, ids, lengths, finished }) => {
    let start = 0;
    const texts = Array.from(lengths, (length) => {
      const written = Array.from(ids.subarray(start, start + length));
      start += length;
      return tokenizer.decode(written, { skipSpecial: true });
    });
    return { name, texts, finished };
  });
}
