/**
 * What can be tried with models that write: who writes, which prompts are at hand, what is still lacking, and
 * which answers are the same.
 */
import { type BaseFacts, GENERATE_OPTIONS, isInRange, type NamedBlob } from "../lib/index.ts";
import { freeName, namedBlobs, type Role } from "./recognise.ts";
import {
  type Adapter,
  type Base,
  baseFacts,
  type ChosenPicture,
  type Playground,
  type PlaygroundModels,
  type State,
  type Writer,
} from "./state.ts";

/** The base and its adapters; `undefined` where the base writes no text. */
export function playgroundModels(
  base: Base,
  adapters: readonly Adapter[],
  facts: BaseFacts,
): PlaygroundModels | undefined {
  if (!facts.generates) return undefined;
  const ofPictures = facts.picture !== undefined;
  const writers: Writer[] = [{ name: "Base", role: "base" }];
  for (const adapter of adapters) {
    if (adapter.facts.status !== "ready") continue;
    const taken = writers.map(({ name }) => name);
    writers.push({ name: freeName(adapter.name, taken), role: "adapter", files: namedBlobs(adapter.files) });
  }
  return { base: namedBlobs(base.files), writers, ofPictures };
}

/**
 * Lets a merged adapter write along. The method that was asked for stands last, as it does in the table; so what comes
 * after it goes before it.
 */
export function addWriter(
  models: PlaygroundModels | undefined,
  { name, files }: { name: string; files: NamedBlob[] },
  place?: "last",
): void {
  if (!models) return;
  const { writers } = models;
  const merged = place === "last" ? -1 : writers.findIndex(({ role }) => role === "merged");
  // An adapter may bear the name of a method.
  const own = freeName(
    name,
    writers.map((writer) => writer.name),
  );
  writers.splice(merged === -1 ? writers.length : merged, 0, { name: own, role: "merged", files });
}

/** Who can write now: what was merged with all that went into it, or what has been dropped so far. */
export function presentModels(state: State): PlaygroundModels | undefined {
  const made = state.result ?? state.methodComparison;
  if (made) return made.models;
  const facts = baseFacts(state);
  return state.base && facts ? playgroundModels(state.base, state.adapters, facts) : undefined;
}

/** A prompt that is at hand. */
export interface Suggestion {
  /** The adapter whose texts it is from. */
  task: string;
  text: string;
  chat: boolean;
}

const MOST_SUGGESTIONS = 6;

/** Prompts from held-out texts, else from calibration samples: the first of every task, then the second of each. */
export function suggestions({ adapters, base }: Pick<State, "adapters" | "base">): Suggestion[] {
  const perTask = adapters.map((adapter) => {
    const texts = readTexts(adapter, "heldOut") ?? readTexts(adapter, "samples");
    const chat = base?.chat === true && texts?.kinds.messages === texts?.count;
    return (texts?.preview ?? []).map((text): Suggestion => ({ task: adapter.name, text, chat }));
  });
  return inTurns(perTask).slice(0, MOST_SUGGESTIONS);
}

function readTexts(adapter: Adapter, role: Role) {
  const facts = adapter.texts[role]?.facts;
  return facts?.status === "ready" ? facts.value : undefined;
}

const MOST_PICTURES = 8;

/** Pictures that are at hand, in the order of {@link suggestions}. */
export function picturesAtHand({ adapters }: Pick<State, "adapters">): ChosenPicture[] {
  const perTask = adapters.map((adapter) => {
    const facts = readTexts(adapter, "heldOut") ?? readTexts(adapter, "samples");
    return (facts?.pictures ?? []).flatMap(({ name, blob }) => (blob ? [{ name, blob }] : []));
  });
  return inTurns(perTask).slice(0, MOST_PICTURES);
}

/** What captions are written of: what the person chose, else the first picture at hand. */
export const pictureOf = (state: State): ChosenPicture | undefined =>
  state.playground.picture ?? picturesAtHand(state)[0];

/** The first of every list, then the second of each. */
function inTurns<T>(lists: readonly (readonly T[])[]): T[] {
  const longest = Math.max(0, ...lists.map(({ length }) => length));
  const rows = Array.from({ length: longest }, (_, row) => lists.flatMap((list) => list.slice(row, row + 1)));
  return rows.flat();
}

/** What the form shows: what the person wrote, else the first prompt at hand. */
export function promptOf(state: State): { text: string; chat: boolean } {
  const { playground, base } = state;
  const [first] = suggestions(state);
  const chat = base?.chat ?? false;
  return {
    text: playground.prompt ?? first?.text ?? "",
    chat: chat && (playground.chat ?? (playground.prompt === null && first ? first.chat : chat)),
  };
}

/** Why nothing can be written now; `undefined` if it can. */
export function obstacle(state: State): string | undefined {
  const { work, playground } = state;
  if (work) {
    return work.task === "write" ? "The models are writing." : "The models can write when this work is done.";
  }
  if (baseFacts(state)?.hasTokenizer === false) return "Add the base model’s tokenizer.json first.";
  if (presentModels(state)?.ofPictures) {
    if (!pictureOf(state)) return "Choose a picture first.";
  } else if (promptOf(state).text.trim() === "") return "Write a prompt first.";
  return wrongNumber(playground);
}

function wrongNumber(playground: Playground): string | undefined {
  const names = Object.keys(GENERATE_OPTIONS) as (keyof typeof GENERATE_OPTIONS)[];
  const wrong = names.find((name) => !isInRange(playground[name], GENERATE_OPTIONS[name].range));
  return wrong && `${GENERATE_OPTIONS[wrong].field.label}: give ${GENERATE_OPTIONS[wrong].range.words}.`;
}

/** The adapters that wrote exactly what output `index` says; for those that are none themselves. */
export function echoes(
  outputs: readonly { name: string; role: Writer["role"]; text: string | undefined }[],
  index: number,
): string[] {
  const output = outputs[index];
  if (output?.text === undefined || output.role === "adapter") return [];
  return outputs
    .filter(({ role, text }) => role === "adapter" && text === output.text)
    .map(({ name }) => name);
}
