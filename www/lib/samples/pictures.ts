/**
 * Samples that are pictures: files of a folder, which the core decodes and preprocesses as the base model's
 * `preprocessor_config.json` says.
 */
import { IterisError } from "../errors.ts";
import type { SourceFile } from "../wasm-interface.ts";
import type { SampleSet } from "./read.ts";

/** Pictures of one task; never empty. */
export interface PictureSet {
  /** The folder's name, or that of the one file; `null` where nobody knows it. */
  name: string | null;
  /** Where it is, from the folder that the report is written to, if there is one. */
  path?: string | undefined;
  /** By name. */
  pictures: SourceFile[];
  /** Names of files beside them that are no pictures, which a note tells. */
  others: string[];
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
 * The pictures among files, in the order of their names.
 *
 * @throws IterisError `samples_invalid` if there are none
 */
export function picturesOf(files: readonly SourceFile[], name: string | null): PictureSet {
  const pictures = files.filter((file) => isPicture(file.name));
  if (pictures.length === 0) {
    const where = name === null ? "the files" : name;
    throw new IterisError(
      "samples_invalid",
      `There is no picture (.png, .jpg, .webp, .gif, .bmp) among ${files.length} files; samples are a folder of pictures or one file of texts: ${where}`,
    );
  }
  const others = files.filter((file) => !isPicture(file.name)).map((file) => file.name);
  return { name, pictures: pictures.sort((a, b) => (a.name < b.name ? -1 : 1)), others };
}

/**
 * Samples that are to be texts, such as prompts.
 *
 * @throws IterisError `samples_invalid` for pictures
 */
export function textsOf(set: TaskSet | null): SampleSet | null {
  if (set === null || !arePictures(set)) return set;
  const where = set.name ?? set.pictures[0]?.name ?? "";
  throw new IterisError("samples_invalid", `Prompts are texts, and these are pictures: ${where}`);
}

/** What a report is to tell of files that are left out; nothing where there are none. */
export function othersNote({ others }: PictureSet): string[] {
  if (others.length === 0) return [];
  const shown = others.slice(0, 5).join(", ");
  const more = others.length > 5 ? ` and ${others.length - 5} more` : "";
  return [`files beside the pictures are not read: ${shown}${more}`];
}
