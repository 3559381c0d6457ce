/** The adapters of a job as the core takes them: their samples tokenised for the base model. */
import { IterisError } from "../errors.ts";
import { arePictures, type PictureSet, type TaskSet, unreadNotes } from "../samples/pictures.ts";
import type { SelfRequest } from "../samples/self.ts";
import { givenCaptions, haveWords, readCaptions } from "../tokens/captions.ts";
import { type Codec, loadCodec } from "../tokens/codec.ts";
import { encodeSelf } from "../tokens/self.ts";
import { resolveMaxLength, tokenise } from "../tokens/tokenise.ts";
import type { BaseFacts, MergeOptions } from "../types.ts";
import type {
  AdapterSource,
  PictureSamples,
  SelfSamples,
  SourceFile,
  TokenizedSamples,
} from "../wasm-interface.ts";

/** One adapter of a job. */
export interface JobAdapter {
  name: string;
  files: SourceFile[];
  /** Where the files are, from the folder that the report is written to, if there is one. */
  path?: string | undefined;
  samples: TaskSet | SelfRequest | null;
  weight?: number | undefined;
}

/** What is to be prepared, and what for. */
export interface Preparation {
  base: SourceFile[];
  adapters: JobAdapter[];
  /** What the samples are used for; averages need none. */
  use: "none" | "calibrate" | "compare";
  maxLength: number | null;
  /** `null` takes the model's own. */
  maxNewTokens: number | null;
  options?: Pick<Partial<MergeOptions>, "decoderInputs" | "positions">;
}

/** What samples were read with. */
export interface Reading {
  facts: BaseFacts;
  /** Loads the tokenizer, once. */
  codec(): Promise<Codec>;
}

/**
 * Tokenises the samples of every adapter.
 *
 * @param breathe - called between adapters; rejects if the call was cancelled
 * @returns the adapters; the length samples were cut to, `null` where none were; and what they were read with, `null` where
 * there was nothing to read
 * @throws IterisError `samples_invalid`, `missing`, `option_invalid`
 */
export async function prepareAdapters(
  job: Preparation,
  inspect: () => Promise<BaseFacts>,
  breathe: () => Promise<void>,
): Promise<{ adapters: AdapterSource[]; maxLength: number | null; reading: Reading | null }> {
  const untokenised = job.adapters.map(({ name, files, path, weight }) => ({
    name,
    files,
    ...(path === undefined ? {} : { path }),
    ...(weight === undefined ? {} : { weight }),
  }));
  if (job.use === "none" || job.adapters.length === 0) {
    return { adapters: untokenised, maxLength: null, reading: null };
  }
  const facts = await inspect();
  if (facts.kind === "weights") {
    const what = job.use === "compare" ? "a comparison runs it" : "choose a method that needs no samples";
    throw new IterisError(
      "model_unsupported",
      `This base model cannot be run here; ${what}. Its architecture: ${facts.architecture}`,
    );
  }
  checkKind(job.options ?? {}, facts);
  // Loaded when the first samples need it: self-written ones may not.
  let loaded: Promise<Codec> | null = null;
  const codec = () => {
    loaded ??= loadCodec(job.base, facts);
    return loaded;
  };
  const adapters: AdapterSource[] = [];
  for (const [i, adapter] of untokenised.entries()) {
    await breathe();
    const samples = await tokeniseFor(adapter.name, job.adapters[i]?.samples ?? null, job, facts, codec);
    adapters.push({ ...adapter, samples });
  }
  return {
    adapters,
    maxLength: loaded === null ? job.maxLength : resolveMaxLength(job.maxLength, await codec()),
    reading: { facts, codec },
  };
}

/** Options that are for another kind of model would do nothing, and whoever gives them expects something. */
function checkKind(
  { decoderInputs, positions }: NonNullable<Preparation["options"]>,
  facts: BaseFacts,
): void {
  if (decoderInputs === "start" && facts.kind !== "encoder-decoder") {
    throw new IterisError(
      "option_invalid",
      `decoderInputs "start" is for encoder-decoders; this base model is one of kind ${facts.kind}.`,
    );
  }
  if (positions === "completion" && facts.kind !== "decoder") {
    throw new IterisError(
      "option_invalid",
      `positions "completion" is for decoder-only models; this base model is one of kind ${facts.kind}.`,
    );
  }
}

async function tokeniseFor(
  name: string,
  samples: TaskSet | SelfRequest | null,
  job: Preparation,
  facts: BaseFacts,
  codec: () => Promise<Codec>,
): Promise<TokenizedSamples | PictureSamples | SelfSamples> {
  if (samples === null) {
    const what = facts.picture === undefined ? "texts" : "pictures";
    const or =
      facts.generates && facts.picture === undefined ? ', or "self" to let the adapter write them' : "";
    throw new IterisError(
      "samples_invalid",
      `Give samples of the task, about 50 ${what}${or}; there are none for the adapter: ${name}`,
    );
  }
  if ("self" in samples) {
    checkSelf(name, job, facts);
    return encodeSelf(samples, facts, codec);
  }
  if (arePictures(samples) !== (facts.picture !== undefined)) {
    const [reads, given] = facts.picture === undefined ? ["texts", "pictures"] : ["pictures", "texts"];
    const where = samples.name === null ? "" : ` (${samples.name})`;
    throw new IterisError(
      "samples_invalid",
      `The base model reads ${reads} (${facts.architecture}), and the samples are ${given}${where}; give ${reads} for: ${name}`,
    );
  }
  if (arePictures(samples)) {
    return {
      pictures: samples.pictures.map(({ file }) => file),
      ...(job.use === "compare" ? { labels: samples.pictures.map(({ label }) => label) } : {}),
      ...(samples.name === null ? {} : { source: samples.name }),
      ...(samples.path === undefined ? {} : { path: samples.path }),
      ...(await captionsFor(samples, job, facts, codec)),
      notes: unreadNotes(samples, { readsCaptions: facts.kind !== "image-encoder" }),
    };
  }
  const found = await codec();
  return tokenise(samples, found, {
    maxLength: resolveMaxLength(job.maxLength, found),
    maxNewTokens: job.maxNewTokens ?? facts.answerLength,
    labels: job.use === "compare",
  });
}

/** The captions of pictures as far as the model reads any. */
async function captionsFor(
  set: PictureSet,
  job: Preparation,
  facts: BaseFacts,
  codec: () => Promise<Codec>,
): Promise<Partial<PictureSamples>> {
  if (facts.kind !== "image-text-encoder" && facts.kind !== "image-to-text") return {};
  const labels = job.use === "compare";
  const found = haveWords(set, { labels }) ? await codec() : null;
  const maxLength = found === null ? facts.maxLength : resolveMaxLength(job.maxLength, found);
  if (facts.kind === "image-to-text") {
    return givenCaptions(set, found, {
      maxLength,
      maxNewTokens: job.maxNewTokens ?? facts.answerLength,
      labels,
    });
  }
  if (found === null) {
    return { ids: new Uint32Array(), lengths: new Uint32Array(set.pictures.length), truncated: 0 };
  }
  return readCaptions(set, found, { maxLength });
}

function checkSelf(name: string, job: Preparation, facts: BaseFacts): void {
  if (job.use === "compare") {
    throw new IterisError(
      "samples_invalid",
      `A comparison needs samples of the task; text that the adapter writes itself is none: ${name}`,
    );
  }
  if (facts.picture !== undefined && facts.generates) {
    throw new IterisError(
      "samples_invalid",
      `The base model writes captions of pictures, and no pictures; give pictures without captions, and the adapter writes those, for: ${name}`,
    );
  }
  if (!facts.generates) {
    throw new IterisError(
      "samples_invalid",
      `The base model writes no text (${facts.architecture}), so give samples of the task for: ${name}`,
    );
  }
}
