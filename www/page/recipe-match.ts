/**
 * Which of the cards are a recipe's adapters, and what is here that is not the recipe's.
 *
 * A name is no proof. Adapters are told by what their files hold (SHA-256) first, then by name, and whatever was found
 * by name alone is held against the recipe's digests all the same.
 */
import {
  type MergeReport,
  type Mismatch,
  mismatches,
  type Recipe,
  type ReportFile,
  samplesMismatches,
} from "../lib/index.ts";
import { list } from "./format.ts";

/** A recipe that is followed. */
export interface Followed {
  /** The file it was read from. */
  file: string;
  recipe: Recipe;
  /** The card of each of its adapters, in its order, once it is there. */
  cards: readonly (string | undefined)[];
  /** Files that are here and are not the recipe's. */
  differing: readonly Mismatch[];
  /** Whether files are being read to hold them against the recipe. */
  checking: boolean;
}

/** A card as far as matching looks at it. */
export interface Card {
  id: string;
  name: string;
  /** The folder that it was dropped from, or the one file. */
  source: string;
  digests: readonly ReportFile[];
}

const WEIGHTS = /\.(safetensors|bin|pt)$/i;
const plain = (name: string): string => name.trim().toLowerCase();
const lastPart = (path: string | null): string => plain((path ?? "").split("/").at(-1) ?? "");

/**
 * The card of each adapter of the recipe. What has been found stays found, whatever it is called by now.
 *
 * @param known what was found before, in the recipe's order
 */
export function matchCards(
  recipe: Recipe,
  cards: readonly Card[],
  known: readonly (string | undefined)[] = [],
): (string | undefined)[] {
  const found = recipe.adapters.map((_, index) => cards.find(({ id }) => id === known[index])?.id);
  const take = (fits: (card: Card, adapter: Recipe["adapters"][number]) => boolean): void => {
    for (const [index, adapter] of recipe.adapters.entries()) {
      found[index] ??= cards.find((card) => !found.includes(card.id) && fits(card, adapter))?.id;
    }
  };
  take(({ digests }, { files }) => {
    const wanted = files.filter(({ name }) => WEIGHTS.test(name));
    return (
      wanted.length > 0 && wanted.every(({ sha256 }) => digests.some((digest) => digest.sha256 === sha256))
    );
  });
  take(({ name }, adapter) => plain(name) === plain(adapter.name));
  take(({ source }, { path }) => path !== null && plain(source) === lastPart(path));
  return found;
}

/** What of the files that are here is not the recipe's; what is not here yet is not told. */
export function differingFiles(
  recipe: Recipe,
  base: readonly ReportFile[] | undefined,
  cards: readonly Card[],
  matched: readonly (string | undefined)[],
): Mismatch[] {
  const here = recipe.adapters.flatMap(({ name }, index) => {
    const card = cards.find(({ id }) => id === matched[index]);
    return card && card.digests.length > 0 ? [{ name, files: card.digests }] : [];
  });
  const looked = new Set(here.map(({ name }) => name));
  return mismatches(
    {
      ...recipe,
      base: base ? recipe.base : null,
      adapters: recipe.adapters.filter(({ name }) => looked.has(name)),
    },
    { base: base ?? null, adapters: here },
  );
}

/** The recipe's adapters that are not here, by name. */
export const lackingAdapters = ({ recipe, cards }: Followed): string[] =>
  recipe.adapters.filter((_, index) => cards[index] === undefined).map(({ name }) => name);

/** What the recipe knows of the adapter that a card holds. */
export const recipeOfCard = (followed: Followed | undefined, id: string) =>
  followed?.recipe.adapters.find((_, index) => followed.cards[index] === id);

/** What a merge by a recipe came to. */
export interface Repetition {
  same: boolean;
  text: string;
}

/**
 * Whether a merge has written what the recipe's merge wrote. The card and the report itself tell times and places, so
 * only weights count.
 */
export function repetition(
  { recipe, differing }: Pick<Followed, "recipe" | "differing">,
  report: MergeReport,
): Repetition {
  const weights = recipe.output.filter(({ name }) => WEIGHTS.test(name));
  const others = weights.filter(
    ({ name, sha256 }) => !report.output.some((file) => file.name === name && file.sha256 === sha256),
  );
  if (weights.length > 0 && others.length === 0) {
    return { same: true, text: "The same as the recipe’s merge, byte for byte." };
  }
  const samples = samplesMismatches(recipe, report).map(({ input }) => input);
  const inputs = [...new Set(differing.map(({ input }) => input))];
  const why =
    inputs.length > 0
      ? ` Other files were given for ${list(inputs)}.`
      : samples.length > 0
        ? ` Other samples were given for ${list(samples)}.`
        : recipe.device !== report.device
          ? " The recipe’s merge ran on another device, which rounds differently."
          : recipe.workers !== (report.workers ?? 1)
            ? ` The recipe’s merge ran on another number of cores (${recipe.workers}), which add up in another order.`
            : "";
  return { same: false, text: `Not the same bytes as the recipe’s merge.${why}` };
}
