/** What a recipe wants and how far it is here, line by line. */
import type { Recipe } from "../lib/index.ts";
import { bytes, plural, setting } from "./format.ts";
import type { Followed } from "./recipe-match.ts";
import type { State } from "./state.ts";

export type Standing = "here" | "reading" | "lacking" | "differs";

export interface Line {
  what: string;
  name: string;
  /** More of it: weight, samples. */
  note: string;
  standing: Standing;
  /** What differs, if something does. */
  why?: string;
}

/** A line for the base model, and for each adapter. */
export function recipeLines(state: State, followed: Followed): Line[] {
  const { recipe } = followed;
  const lines = recipe.adapters.map((wanted, index): Line => {
    const card = state.adapters.find(({ id }) => id === followed.cards[index]);
    const why = difference(followed, wanted.name);
    return {
      what: "Adapter",
      name: wanted.name,
      note: noteOf(wanted),
      standing: !card ? "lacking" : why ? "differs" : "here",
      ...(why ? { why } : {}),
    };
  });
  if (!recipe.base) return lines;
  const why = difference(followed, "base model");
  const standing = !state.base ? "lacking" : why ? "differs" : followed.checking ? "reading" : "here";
  return [
    { what: "Base model", name: baseTitle(recipe.base), note: "", standing, ...(why ? { why } : {}) },
    ...lines,
  ];
}

function noteOf({ weight, samples }: Recipe["adapters"][number]): string {
  const parts = weight === 1 ? [] : [`weight ${setting(weight)}`];
  if (samples) {
    const number = plural(samples.count, "sample");
    parts.push(
      samples.self ? `${number}, self-written` : samples.source ? `${number} of ${samples.source}` : number,
    );
  }
  return parts.length > 0 ? `· ${parts.join(" · ")}` : "";
}

/** What to call the recipe's base model: a merge that was not told its folder knows only the files. */
export function baseTitle({ name, path, files }: NonNullable<Recipe["base"]>): string {
  if (path !== null) return path.split("/").at(-1) || name;
  if (name !== NAMELESS_BASE) return name;
  const weights = files.filter((file) => /\.safetensors$/i.test(file.name));
  const [largest] = [...weights].sort((a, b) => b.bytes - a.bytes);
  if (!largest) return name;
  const size = bytes(weights.reduce((sum, file) => sum + file.bytes, 0));
  return weights.length > 1
    ? `${plural(weights.length, "safetensors file")}, ${size}`
    : `${largest.name}, ${size}`;
}

/** What the core calls a base model whose folder has no name. */
const NAMELESS_BASE = "base model";

/** What of an input differs, in words. */
function difference({ differing }: Followed, input: string): string | undefined {
  const found = differing.filter((mismatch) => mismatch.input === input);
  if (found.length === 0) return undefined;
  return found
    .map(({ file, why }) =>
      why === "missing" ? `${file} is missing.` : `${file} is not the file of the recipe (another SHA-256).`,
    )
    .join(" ");
}
