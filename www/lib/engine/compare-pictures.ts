/**
 * What a comparison on pictures needs, and gives, beside one on texts: the classes that a model of pictures and texts
 * chooses from, and what each variant says of single pictures.
 */
import { IterisError } from "../errors.ts";
import { classesOf } from "../samples/classes.ts";
import { arePictures } from "../samples/pictures.ts";
import { encodeLabels } from "../tokens/captions.ts";
import { resolveMaxLength } from "../tokens/tokenise.ts";
import type { CompareReport, SaidOfPicture } from "../types.ts";
import type { AdapterSource, CandidateLabels, CoreCompareReport, CoreSaid } from "../wasm-interface.ts";
import type { JobAdapter, Reading } from "./prepare.ts";

/** What is compared, as far as classes depend on it. */
export interface Choosing {
  adapters: readonly Pick<JobAdapter, "samples">[];
  maxLength: number | null;
  /** What the caller names. */
  labels?: readonly string[] | undefined;
}

/** Classes to choose from. */
export interface Chosen {
  labels: CandidateLabels;
  areCaptions: boolean;
  /** For the report. */
  notes: string[];
}

/**
 * The classes to choose from, as tokens, and what the report is to tell of them; `null` for a model that has classes of its
 * own, or none.
 *
 * @throws IterisError `option_invalid` for classes of a model that chooses from none
 */
export async function classesFor(
  { adapters, labels, maxLength }: Choosing,
  reading: Reading | null,
): Promise<Chosen | null> {
  if (reading === null) return null;
  const { facts } = reading;
  if (facts.kind !== "image-text-encoder") {
    if (labels === undefined) return null;
    throw new IterisError(
      "option_invalid",
      `labels are classes for models of pictures and texts (CLIP, SigLIP); this base model is one of kind ${facts.kind}. Leave them out.`,
    );
  }
  const sets = adapters.flatMap(({ samples }) => (samples && "pictures" in samples ? [samples] : []));
  const classes = classesOf(labels, sets);
  if (classes === null) return null;
  const codec = await reading.codec();
  const encoded = encodeLabels(classes.texts, codec, resolveMaxLength(maxLength, codec));
  const { areCaptions, note } = classes;
  return { labels: encoded, areCaptions, notes: note === undefined ? [] : [note] };
}

/** Samples with the captions of pictures as their labels. */
export function labelledByCaptions(
  adapters: readonly AdapterSource[],
  given: readonly Pick<JobAdapter, "samples">[],
): AdapterSource[] {
  return adapters.map((adapter, i) => {
    const set = given[i]?.samples;
    const { samples } = adapter;
    if (!set || !("pictures" in set) || !samples || !("pictures" in samples)) return adapter;
    return { ...adapter, samples: { ...samples, labels: set.pictures.map(({ caption }) => caption) } };
  });
}

/**
 * A core's report as it is handed on.
 *
 * @param samples - of each task, by its adapter's name
 * @param reading - whose tokenizer is loaded only where there are tokens
 */
export async function readReport(
  { tasks, ...rest }: CoreCompareReport,
  samples: ReadonlyMap<string, JobAdapter["samples"]>,
  reading: Reading | null,
): Promise<CompareReport> {
  const read = tasks.map(async ({ said, ...task }) => {
    const set = samples.get(task.task);
    if (!said || !set || "self" in set || !arePictures(set) || reading === null) return task;
    const read = said.map(async ({ sample, variants }): Promise<SaidOfPicture> => {
      const picture = set.pictures[sample];
      return {
        picture: picture?.file.name ?? `picture ${sample + 1}`,
        ...(picture?.label === null || picture === undefined ? {} : { label: picture.label }),
        ...(picture?.caption === null || picture === undefined ? {} : { caption: picture.caption }),
        variants: await Promise.all(variants.map((variant) => readVariant(variant, reading))),
      };
    });
    return { ...task, said: await Promise.all(read) };
  });
  return { ...rest, tasks: await Promise.all(read) };
}

async function readVariant(
  { variant, ids, classes }: CoreSaid["variants"][number],
  reading: Reading,
): Promise<SaidOfPicture["variants"][number]> {
  const text = ids
    ? (await reading.codec()).tokenizer.decode([...ids], { skipSpecial: true }).trim()
    : undefined;
  return { variant, ...(text === undefined ? {} : { text }), ...(classes ? { classes: [...classes] } : {}) };
}
