/** Prompts on their way to the core, and what it wrote on its way back. */
import { IterisError } from "../errors.ts";
import { malformed } from "../samples/malformed.ts";
import type { Placed } from "../samples/record.ts";
import type { Sampling } from "../sampling.ts";
import { compareNames } from "../sources/names.ts";
import { encodeBeginning, roomBehind } from "../tokens/captions.ts";
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
  /** Pictures that captions are written of, for a model that does; prompts are how those begin then. */
  images?: SourceFile[] | undefined;
  options: Sampling;
}

/** A generation as the core takes it. */
export interface Prepared {
  codec: Codec;
  /** What is asked, of pictures one prompt for each, in the caller's order. */
  asked: Placed[];
  /** For each prompt of `source` which of `asked` it is. */
  order: number[];
  source: Pick<GenerateSource, "prompts" | "images" | "options">;
  notes: string[];
}

/**
 * Tokenises the prompts.
 *
 * @throws IterisError `model_unsupported` if the base model writes no text, `duplicate` for two variants of one
 * name, `samples_invalid` for a prompt that cannot be read, or pictures for a model that reads texts, or the other way round
 */
export async function preparePrompts(job: GenerateJob, facts: BaseFacts): Promise<Prepared> {
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
  const asked = askedOf(job, facts);
  const codec = await loadCodec(job.base, facts);
  const { maxNewTokens } = job.options;
  const pictures = job.images && byName(job.images);
  const ids = asked.map(({ sample, place }) =>
    pictures === undefined
      ? encodePrompt(sample, codec, maxNewTokens, place)
      : encodeBeginning("prompt" in sample ? sample.prompt : "", codec, place),
  );
  // Captions end where the model's positions do, which of small models is before what is asked for by default.
  const room = pictures === undefined ? [] : ids.map((beginning) => roomBehind(beginning, codec));
  const most = Math.min(maxNewTokens, ...room);
  const order = pictures?.order ?? ids.map((_, i) => i);
  const sorted = order.map((i) => ids[i] ?? []);
  return {
    codec,
    asked,
    order,
    notes: most < maxNewTokens ? [`captions have at most ${most} tokens: the model reads no more`] : [],
    source: {
      options: { ...job.options, maxNewTokens: most },
      prompts: {
        ids: Uint32Array.from(sorted.flat()),
        lengths: Uint32Array.from(sorted, ({ length }) => length),
      },
      ...(pictures === undefined ? {} : { images: pictures.files }),
    },
  };
}

/** Pictures as the core takes them, by name and each name once, and which of those that were given each of them is. */
function byName(images: readonly SourceFile[]): { files: SourceFile[]; order: number[] } {
  const names = images.map(({ name }) => name);
  const taken = new Set<string>(names);
  const unique = names.map((name, i) => {
    if (names.indexOf(name) === i) return name;
    let number = 2;
    while (taken.has(`${name} (${number})`)) number += 1;
    taken.add(`${name} (${number})`);
    return `${name} (${number})`;
  });
  const order = unique.map((_, i) => i).sort((a, b) => compareNames(unique[a] ?? "", unique[b] ?? ""));
  const files = order.flatMap((i) => {
    const file = images[i];
    return file === undefined ? [] : [{ ...file, name: unique[i] ?? file.name }];
  });
  return { files, order };
}

/** What is asked: the prompts, or with pictures how the caption of each begins. */
function askedOf({ images, prompts }: GenerateJob, facts: BaseFacts): Placed[] {
  if (images === undefined) {
    if (facts.picture === undefined) return prompts;
    throw new IterisError(
      "samples_invalid",
      `The base model writes captions of pictures (${facts.architecture}); give the pictures as image (--image).`,
    );
  }
  if (facts.picture === undefined) {
    throw new IterisError(
      "samples_invalid",
      `The base model reads texts (${facts.architecture}) and no pictures; give prompts, and leave image (--image) out: ${images[0]?.name}`,
    );
  }
  const unlike = prompts.find(({ sample }) => !("prompt" in sample));
  if (unlike !== undefined) {
    throw malformed(unlike.place, `of a picture a prompt is how its caption begins; give it as "prompt".`);
  }
  const [one] = prompts;
  if (prompts.length <= 1) {
    const beginning = one ?? { sample: { prompt: "" }, place: { file: "prompts" } };
    return images.map(() => beginning);
  }
  if (prompts.length === images.length) return prompts;
  throw new IterisError(
    "option_invalid",
    `There are ${prompts.length} prompts for ${images.length} pictures; give one for all, one for each, or none.`,
  );
}

/** The texts of what was written, in the caller's order. */
export function readTexts(
  { variants }: Pick<Generated, "variants">,
  { codec: { tokenizer }, order }: Pick<Prepared, "codec" | "order">,
): GenerateResult["variants"] {
  return variants.map(({ name, ids, lengths, finished }) => {
    let start = 0;
    const texts = Array.from(lengths, (length) => {
      const written = Array.from(ids.subarray(start, start + length));
      start += length;
      return tokenizer.decode(written, { skipSpecial: true });
    });
    const places = order.map((_, i) => order.indexOf(i));
    return {
      name,
      texts: places.map((place) => texts[place] ?? ""),
      finished: places.map((place) => finished[place] ?? true),
    };
  });
}
