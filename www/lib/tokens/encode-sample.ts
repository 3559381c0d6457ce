/**
 * One sample as ids: what the model reads, what it is to write, and what would be right.
 *
 * What a sample means depends on the base model. An encoder reads texts. An encoder-decoder reads a text and
 * writes a target. A decoder-only model reads a text through, or a prompt that it continues.
 */
import { malformed, type Place } from "../samples/malformed.ts";
import type { Sample } from "../types.ts";
import type { Codec } from "./codec.ts";
import type { EncodedSample, Lengths } from "./encoded.ts";
import { encodeForDecoder } from "./for-decoder.ts";
import { encodeForEncoderDecoder } from "./for-encoder-decoder.ts";
import { checkVocabulary, encodeText } from "./text.ts";

/**
 * Encodes one sample for the base model it goes to.
 *
 * @throws IterisError `samples_invalid` that names the place
 */
export function encodeSample(sample: Sample, codec: Codec, lengths: Lengths, place: Place): EncodedSample {
  const encoded = encodeForKind(sample, codec, lengths, place);
  checkVocabulary([...encoded.ids, ...encoded.answer, ...encoded.label], codec, place);
  return encoded;
}

function encodeForKind(sample: Sample, codec: Codec, lengths: Lengths, place: Place): EncodedSample {
  const readThrough = (texts: { text: string; text_pair?: string }): EncodedSample => ({
    ...encodeText(texts, codec, lengths.maxLength, place),
    writes: false,
    answer: [],
    label: [],
  });
  switch (codec.facts.kind) {
    case "weights":
      throw malformed(place, "the base model cannot be run here, so that it reads no samples.");
    case "image-encoder":
    case "image-text-encoder":
    case "image-to-text":
      throw malformed(place, "the base model reads pictures; give a folder of them.");
    case "encoder":
      if (!("text" in sample)) {
        throw malformed(place, `the base model is an encoder, which reads a "text" and writes nothing.`);
      }
      if (sample.target !== undefined) {
        throw malformed(place, `the base model is an encoder and writes no "target"; a class is a "label".`);
      }
      return readThrough(sample);
    case "encoder-decoder":
      return encodeForEncoderDecoder(sample, codec, lengths, place);
    case "decoder":
      // To a comparison a text is a prompt: it looks at what follows.
      return "text" in sample && sample.target === undefined && !lengths.labels
        ? readThrough(sample)
        : encodeForDecoder(sample, codec, lengths, place);
  }
}
