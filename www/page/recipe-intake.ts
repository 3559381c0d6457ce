/**
 * Loads a recipe and follows it: sets the options, and gives each card that turns out to be one of its adapters the
 * recipe's name, weight and place.
 *
 * Files come in any order, and what a person changes afterwards is theirs. So a card is set once, when it is found,
 * and never again.
 */
import { digestFiles, type Recipe, type ReportFile, readRecipe, SELF_OPTIONS } from "../lib/index.ts";
import { outdate } from "./edits.ts";
import { list } from "./format.ts";
import { writeLayerWeights } from "./layer-weights.ts";
import { describe } from "./problem.ts";
import { type Card, differingFiles, type Followed, matchCards } from "./recipe-match.ts";
import { type Dropped, namedBlobs } from "./recognise.ts";
import { DEFAULTS } from "./settings.ts";
import type { Adapter, Base, State, Store, Tell } from "./state.ts";

/** Base models that are larger are told apart by the names and sizes of their files: reading them takes too long. */
const BASE_BYTES = 1 << 30;

/** Reads a recipe and sets its options. @returns what was taken, for the sentence that says so */
export async function takeRecipe(store: Store, dropped: Dropped, tell: Tell): Promise<string[]> {
  let recipe: Recipe;
  try {
    recipe = readRecipe(await dropped.file.text());
  } catch (thrown) {
    tell({ tone: "error", text: `${dropped.path} is no recipe.`, problem: describe(thrown) });
    return [];
  }
  const { layerWeights = {}, ...options } = recipe.options;
  store.change((state) => {
    const { device } = state.settings;
    // Others would add up in another order.
    const workers = recipe.workers <= navigator.hardwareConcurrency ? recipe.workers : DEFAULTS.workers;
    state.settings = { ...DEFAULTS, ...options, device, workers };
    state.layerText = writeLayerWeights(layerWeights);
    state.several = false;
    state.recipe = { file: dropped.file.name, recipe, cards: [], differing: [], checking: false };
    outdate(state);
  });
  return [`a recipe of ${list(recipe.adapters.map(({ name }) => name))}`];
}

export function leaveRecipe(store: Store): void {
  store.change((state) => {
    state.recipe = undefined;
  });
}

/** Looks for the recipe's adapters among the cards. Resolves when all are set; the base model is held against it later. */
export async function followRecipe(store: Store): Promise<void> {
  const { recipe: followed } = store.state;
  if (!followed) return;
  setChecking(store, followed, true);
  const cards = await Promise.all(store.state.adapters.map(cardOf));
  if (store.state.recipe !== followed) return;
  store.change((state) => {
    const matched = matchCards(followed.recipe, cards, followed.cards);
    for (const [index, id] of matched.entries()) {
      const adapter = state.adapters.find((adapter) => adapter.id === id);
      if (adapter && followed.cards[index] !== id) setCard(adapter, followed.recipe.adapters[index]);
    }
    followed.cards = matched;
    state.adapters = inOrder(state, matched);
    followed.differing = differingFiles(followed.recipe, undefined, cards, matched);
  });
  void checkBase(store, followed, cards);
}

async function checkBase(store: Store, followed: Followed, cards: readonly Card[]): Promise<void> {
  const { base } = store.state;
  const digests =
    base && followed.recipe.base ? await baseDigests(base, followed.recipe.base.files) : undefined;
  if (store.state.recipe !== followed || store.state.base !== base) return;
  store.change(() => {
    followed.differing = differingFiles(followed.recipe, digests, cards, followed.cards);
    followed.checking = false;
  });
}

function setChecking(store: Store, followed: Followed, checking: boolean): void {
  store.change(() => {
    followed.checking = checking;
  });
}

function setCard(adapter: Adapter, wanted: Recipe["adapters"][number] | undefined): void {
  if (!wanted) return;
  adapter.name = wanted.name;
  adapter.weight = wanted.weight;
  const self = wanted.samples?.self;
  if (self && !adapter.texts.samples) {
    adapter.self = {
      count: self.count ?? SELF_OPTIONS.count.default,
      prompt: self.prompt ?? "",
      seed: self.seed ?? SELF_OPTIONS.seed.default,
    };
  }
}

/** The recipe's adapters in its order, which weights of layers go by; then what else is there. */
function inOrder(state: State, matched: readonly (string | undefined)[]): Adapter[] {
  const first = matched.flatMap((id) => state.adapters.find((adapter) => adapter.id === id) ?? []);
  return [...first, ...state.adapters.filter((adapter) => !first.includes(adapter))];
}

async function cardOf(adapter: Adapter): Promise<Card> {
  const [file] = adapter.files;
  const lone = adapter.files.length === 1 ? file?.path : undefined;
  return {
    id: adapter.id,
    name: adapter.name,
    source: lastPart(lone ?? adapter.folder),
    digests: await digests(adapter.files),
  };
}

const lastPart = (path: string): string => path.slice(path.lastIndexOf("/") + 1);

/** By file: the same file is read once, whatever card it is on. */
const read = new WeakMap<File, Promise<ReportFile[]>>();

async function digests(files: readonly Dropped[]): Promise<ReportFile[]> {
  const all = files.map((dropped) => {
    const known = read.get(dropped.file) ?? digestFiles(namedBlobs([dropped])).catch(() => []);
    read.set(dropped.file, known);
    return known;
  });
  return (await Promise.all(all)).flat();
}

async function baseDigests(base: Base, wanted: readonly ReportFile[]): Promise<ReportFile[]> {
  const bytes = base.files.reduce((sum, { file }) => sum + file.size, 0);
  if (bytes <= BASE_BYTES) return digests(base.files);
  return namedBlobs(base.files).map(({ name, blob }) => {
    const same = wanted.find((file) => file.name === name && file.bytes === blob.size);
    return same ?? { name, bytes: blob.size, sha256: "" };
  });
}
