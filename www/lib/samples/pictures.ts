/**
 * Samples that are pictures: files of a folder, which the core decodes and preprocesses as the base model's
 * `preprocessor_config.json` says.
 */
import { IterisError } from "../errors.ts";
import type { SourceFile } from "../wasm-interface.ts";
import type { SampleSet } from "./read.ts";

/** A class by its name or index. */
export type Label = string | number | null;

/** A picture, and what is said of it. */
export interface Picture {
  file: SourceFile;
  caption: string | null;
  label: Label;
}

/** Pictures of one task; never empty. */
export interface PictureSet {
  /** The folder's name, or that of the one file; `null` where nobody knows it. */
  name: string | null;
  /** Where it is, from the folder that the report is written to, if there is one. */
  path?: string | undefined;
  /** By name, each of which there is once. */
  pictures: Picture[];
  /** Names of files beside them that are not read, which a note tells. */
  others: string[];
  /** What else a report is to tell of how they were found. */
  notes: string[];
}

/** Samples of one task, texts or pictures. */
export type TaskSet = SampleSet | PictureSet;

/** Whether samples are pictures. */
export function arePictures<T extends object>(set: T | PictureSet): set is PictureSet {
  return "pictures" in set;
}

/** Whether a file is a picture by its name. Those that cannot be decoded are refused later, by name. */
export function isPicture(name: string): boolean {
  return /\.(png|jpe?g|webp|gif|bmp|tiff?|avif|hei[cf])$/i.test(name);
}

/**
 * Samples that are to be texts, such as prompts.
 *
 * @throws IterisError `samples_invalid` for pictures
 */
export function textsOf(set: TaskSet | null): SampleSet | null {
  if (set === null || !arePictures(set)) return set;
  const where = set.name ?? set.pictures[0]?.file.name ?? "";
  throw new IterisError(
    "samples_invalid",
    `Prompts are texts, and these are pictures; give them as "image": ${where}`,
  );
}

/** The first few of many names. */
export function someOf(names: readonly string[]): string {
  const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
  return names.slice(0, 5).join(", ") + more;
}

/** What a report is to tell of what was given and is not read. */
export function unreadNotes(
  { pictures, others, notes }: PictureSet,
  { readsCaptions }: { readsCaptions: boolean },
): string[] {
  const captions = readsCaptions ? 0 : pictures.filter(({ caption }) => caption !== null).length;
  return [
    ...(others.length === 0 ? [] : [`files beside the pictures are not read: ${someOf(others)}`]),
    ...notes,
    ...(captions === 0 ? [] : [`the model reads no captions: those of ${captions} pictures are not read`]),
  ];
}
