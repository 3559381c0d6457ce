/** Samples as the core takes them: flat arrays of ids, ragged, with lengths. */
import { IterisError } from "../errors.ts";
import { LONGEST_SAMPLE, OPTIONS } from "../generated.ts";
import { checkRange } from "../options.ts";
import { placedOf, type SampleSet } from "../samples/read.ts";
import type { TokenizedSamples } from "../wasm-interface.ts";
import type { Codec } from "./codec.ts";
import { encodeSample } from "./encode-sample.ts";
import type { EncodedSample, Lengths } from "./encoded.ts";

/**
 * The length samples are cut to: what the caller asks for, or as much as tokenizer and model can take, up to
 * {@link LONGEST_SAMPLE}.
 *
 * @throws IterisError `option_invalid` if more is asked for than the model has positions
 */
export function resolveMaxLength(asked: number | null | undefined, { tokenizer, facts }: Codec): number {
  if (asked === null || asked === undefined) {
    return Math.min(tokenizer.maxLength ?? Number.POSITIVE_INFINITY, facts.maxLength, LONGEST_SAMPLE);
  }
  checkRange("maxLength", asked, OPTIONS.maxLength.range);
  if (asked > facts.maxLength) {
    throw new IterisError(
      "option_invalid",
      `maxLength ${asked} is more than the model can read, which is ${facts.maxLength} tokens.`,
    );
  }
  return asked;
}

/** Lists one after another. */
export function flat(lists: readonly (readonly number[])[]): Uint32Array {
  return Uint32Array.from(lists.flat());
}

/** How long each is. */
export function lengthsOf(lists: readonly (readonly number[])[]): Uint32Array {
  return Uint32Array.from(lists, ({ length }) => length);
}

/** What only models that write have. */
function answersOf(encoded: readonly EncodedSample[], lengths: Lengths): Partial<TokenizedSamples> {
  const answers = encoded.map(({ answer }) => answer);
  const labels = encoded.map(({ label }) => label);
  return {
    prompts: Uint8Array.from(encoded, ({ writes }) => (writes ? 1 : 0)),
    answers: flat(answers),
    answerLengths: lengthsOf(answers),
    ...(lengths.labels ? { labelIds: flat(labels), labelLengths: lengthsOf(labels) } : {}),
  };
}

/** Encodes every sample of a task. */
export function tokenise(set: SampleSet, codec: Codec, lengths: Lengths): TokenizedSamples {
  const { tokenizer, facts } = codec;
  const pairs = set.samples.some((sample) => "text_pair" in sample && sample.text_pair !== undefined);
  const special = tokenizer.specialCount(pairs);
  if (lengths.maxLength <= special) {
    throw new IterisError(
      "option_invalid",
      `maxLength ${lengths.maxLength} leaves no room for text beside ${special} special tokens.`,
    );
  }
  const encoded = placedOf(set).map(({ sample, place }) => encodeSample(sample, codec, lengths, place));
  const ids = encoded.map((one) => one.ids);
  const labels = set.samples.map(({ label }) => label ?? null);
  const truncated = encoded.filter((one) => one.truncated).length;
  return {
    ids: flat(ids),
    typeIds: flat(encoded.map(({ typeIds }) => typeIds)),
    lengths: lengthsOf(ids),
    truncated,
    ...(labels.some((label) => label !== null) ? { labels } : {}),
    ...(set.name === null ? {} : { source: set.name }),
    ...(set.path === undefined ? {} : { path: set.path }),
    ...(facts.kind === "encoder" ? {} : answersOf(encoded, lengths)),
    ...(facts.kind === "encoder" || truncated === 0 ? {} : { notes: [cutNote(codec)] }),
  };
}

function cutNote({ tokenizer }: Codec): string {
  const where = tokenizer.side === "right" ? "end" : "beginning";
  return `samples that are too long lost their ${where} (truncation_side of the tokenizer: ${tokenizer.side})`;
}
