/** Which classes a model of pictures and texts chooses from in a comparison. */
import { IterisError } from "../errors.ts";
import type { PictureSet } from "./pictures.ts";

/** Classes that are taken from captions, at most. */
const MOST_CAPTIONS = 100;

/** Classes, and where they are from where nobody named them. */
export interface Classes {
  texts: string[];
  /** Where they are captions, that of a picture is its right class. */
  areCaptions: boolean;
  note?: string;
}

/**
 * The classes that the caller names; else the names of the pictures' own classes; else their captions. `null` where
 * there are not two of them.
 */
export function classesOf(asked: readonly string[] | undefined, sets: readonly PictureSet[]): Classes | null {
  if (asked !== undefined) return { texts: checkLabels(asked), areCaptions: false };
  const pictures = sets.flatMap((set) => set.pictures);
  const labels = distinct(pictures.map(({ label }) => label));
  if (labels.length > 1) {
    const note = `classes to choose from: the ${labels.length} labels of the pictures`;
    return { texts: labels, areCaptions: false, note };
  }
  const captions = distinct(pictures.map(({ caption }) => caption));
  if (captions.length < 2) return null;
  const texts = captions.slice(0, MOST_CAPTIONS);
  const of =
    texts.length < captions.length ? `the first ${texts.length} of ${captions.length}` : texts.length;
  return { texts, areCaptions: true, note: `classes to choose from: ${of} captions of the pictures` };
}

function distinct(values: readonly (string | number | null)[]): string[] {
  return [...new Set(values.filter((value) => typeof value === "string"))];
}

/**
 * Labels as a caller gives them, without the spaces around them.
 *
 * @throws IterisError `option_invalid` for fewer than two, one that is empty, or one that is there twice
 */
export function checkLabels(labels: readonly string[]): string[] {
  const texts = labels.map((label: unknown, i) => {
    if (typeof label === "string" && label.trim() !== "") return label.trim();
    throw new IterisError("option_invalid", `labels item ${i + 1} must be a text that is not empty.`);
  });
  const twice = texts.find((text, i) => texts.indexOf(text) !== i);
  if (twice !== undefined) {
    throw new IterisError("option_invalid", `labels names a class twice; leave one of them: ${twice}`);
  }
  if (texts.length < 2) {
    throw new IterisError("option_invalid", "labels must name at least two classes to choose from.");
  }
  return texts;
}
