/**
 * Captions of pictures as ids, and the classes that pictures are told apart by.
 *
 * A model that encodes both reads a caption as any text, with its special tokens. One that writes captions has a first token
 * of its own in the place of the tokenizer's, so that captions come without that, and with the one that ends them.
 */
import { IterisError } from "../errors.ts";
import { malformed, type Place } from "../samples/malformed.ts";
import type { Picture, PictureSet } from "../samples/pictures.ts";
import type { CandidateLabels, PictureSamples } from "../wasm-interface.ts";
import { checkFits } from "./answer.ts";
import type { Codec } from "./codec.ts";
import type { Lengths } from "./encoded.ts";
import { checkNotEmpty, checkVocabulary, encodeText } from "./text.ts";
import { flat, lengthsOf } from "./tokenise.ts";

/** Whether a tokenizer is needed for what is said of pictures. */
export function haveWords({ pictures }: PictureSet, { labels }: Pick<Lengths, "labels">): boolean {
  return pictures.some(({ caption, label }) => caption !== null || (labels && typeof label === "string"));
}

/**
 * The captions of pictures for a model that encodes pictures and texts, each cut to the longest that may be.
 *
 * @throws IterisError `samples_invalid` that names the picture whose caption becomes no tokens
 */
export function readCaptions(
  { pictures }: PictureSet,
  codec: Codec,
  { maxLength }: Pick<Lengths, "maxLength">,
): Pick<PictureSamples, "ids" | "lengths" | "truncated"> {
  const encoded = pictures.map(({ file, caption }) =>
    caption === null ? null : encodeWhole(caption, codec, maxLength, file.name),
  );
  const ids = encoded.map((one) => one?.ids ?? []);
  return {
    ids: flat(ids),
    lengths: lengthsOf(ids),
    truncated: encoded.filter((one) => one?.truncated).length,
  };
}

/**
 * The captions of pictures for a model that writes them. What a picture lacks its adapter is to write; what is right is the
 * caption, or else the name of the class.
 *
 * @param codec - `null` where no picture has words, see {@link haveWords}
 * @throws IterisError `samples_invalid` that names the picture whose caption becomes no tokens, or more than fit
 */
export function givenCaptions(
  { pictures }: PictureSet,
  codec: Codec | null,
  lengths: Lengths,
): Partial<PictureSamples> {
  const write = (text: string | null, { file }: Picture) =>
    text === null || codec === null ? [] : encodeWritten(text, codec, lengths, file.name);
  const answers = pictures.map((picture) => write(picture.caption, picture));
  const right = ({ caption, label }: Picture) => caption ?? (typeof label === "string" ? label : null);
  const labels = lengths.labels ? pictures.map((picture) => write(right(picture), picture)) : null;
  return {
    prompts: Uint8Array.from(answers, ({ length }) => (length === 0 ? 1 : 0)),
    answers: flat(answers),
    answerLengths: lengthsOf(answers),
    ...(labels === null ? {} : { labelIds: flat(labels), labelLengths: lengthsOf(labels) }),
    truncated: 0,
  };
}

/**
 * Classes to choose from as the model reads them.
 *
 * @throws IterisError `samples_invalid` for one that becomes no tokens
 */
export function encodeLabels(texts: readonly string[], codec: Codec, maxLength: number): CandidateLabels {
  const ids = texts.map((text, i) => encodeWhole(text, codec, maxLength, "labels", i + 1).ids);
  return { texts: [...texts], ids: flat(ids), lengths: lengthsOf(ids) };
}

/**
 * The beginning of a caption, which may be nothing.
 *
 * @throws IterisError `samples_invalid` if it leaves no room for a token behind it
 */
export function encodeBeginning(text: string, codec: Codec, place: Place): number[] {
  const ids = codec.tokenizer.content(text);
  if (roomBehind(ids, codec) < 1) {
    throw malformed(
      place,
      `the beginning of the caption has ${ids.length} tokens, and the model reads ${codec.facts.maxLength} with the one that it ` +
        "puts before them. Shorten it.",
    );
  }
  checkVocabulary(ids, codec, place);
  return ids;
}

/** Tokens that can be written behind the beginning of a caption. The model's own first token stands before it. */
export function roomBehind(beginning: readonly number[], { facts }: Codec): number {
  return facts.maxLength - 1 - beginning.length;
}

function encodeWhole(text: string, codec: Codec, maxLength: number, file: string, item?: number) {
  const place = item === undefined ? { file } : { file, item };
  const encoded = encodeText({ text }, codec, maxLength, place);
  checkVocabulary(encoded.ids, codec, place);
  return encoded;
}

function encodeWritten(text: string, codec: Codec, lengths: Lengths, file: string): number[] {
  const place = { file };
  const content = codec.tokenizer.content(text);
  checkNotEmpty(content.length, "text", place);
  const ids = [...content, endOf(codec)];
  checkFits(ids, lengths.maxLength, lengths, place);
  checkVocabulary(ids, codec, place);
  return ids;
}

/** The token that ends a caption: `[SEP]`. Of such models `eos_token_id` is another one, at which nothing ends. */
function endOf({ tokenizer }: Codec): number {
  const named = tokenizer.idOf(tokenizer.specialTokens.sep_token ?? "[SEP]");
  const end = named ?? tokenizer.around.behind.at(-1);
  if (end !== undefined) return end;
  throw new IterisError(
    "config_invalid",
    "The tokenizer has no token that ends a caption; add tokenizer_config.json with its sep_token: tokenizer.json",
  );
}
