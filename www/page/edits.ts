/**
 * Changes of what is on the cards: base model, adapters and their texts are set, inspected by the worker, removed.
 *
 * Inspections end in any order, and the person may have removed or replaced a card in the meantime. So a result is
 * written only while the very object it was asked for is still shown.
 */
import { inspectAdapter, inspectBase, inspectSamples, SELF_OPTIONS } from "../lib/index.ts";
import { hasChatTemplate } from "./chat.ts";
import { describe } from "./problem.ts";
import { type Dropped, namedBlobs, type Role, roleOf, samplesOf } from "./recognise.ts";
import {
  type Adapter,
  adapterById,
  type Base,
  type Loadable,
  type SelfWriting,
  type State,
  type Store,
  type Text,
} from "./state.ts";

export function inspectBaseInto(store: Store, name: string, files: Dropped[]): void {
  const base: Base = { name, files, facts: { status: "reading" }, chat: false };
  store.change((state) => {
    state.base = base;
    changeModels(state);
  });
  const looked = hasChatTemplate(files).then((chat) => {
    base.chat = chat;
    return inspectBase(namedBlobs(files));
  });
  void settle(store, looked, (facts) => {
    base.facts = facts;
  });
}

export function inspectAdapterInto(store: Store, adapter: Adapter, files: Dropped[]): void {
  store.change((state) => {
    adapter.files = files;
    adapter.facts = { status: "reading" };
    changeModels(state);
  });
  void settle(store, inspectAdapter(namedBlobs(files)), (facts) => {
    if (adapter.files === files) adapter.facts = facts;
  });
}

/** Gives an adapter its samples or its held-out texts. */
export function setText(store: Store, id: string, role: Role, dropped: Dropped): void {
  const text: Text = { dropped, facts: { status: "reading" } };
  store.change((state) => {
    const adapter = adapterById(state, id);
    if (!adapter) return;
    adapter.texts[role] = text;
    if (role === "samples") adapter.self = undefined;
    state.open = state.open.filter((other) => other !== dropped);
    outdate(state);
  });
  void settle(store, inspectSamples(samplesOf(dropped)), (facts) => {
    text.facts = facts;
  });
}

export function removeText(store: Store, id: string, role: Role): void {
  store.change((state) => {
    delete adapterById(state, id)?.texts[role];
    outdate(state);
  });
}

/** Lets an adapter write its own samples, or changes how; `undefined` takes that back. */
export function setSelf(store: Store, id: string, change: Partial<SelfWriting> | undefined): void {
  store.change((state) => {
    const adapter = adapterById(state, id);
    if (!adapter) return;
    adapter.self = change && { ...(adapter.self ?? SELF_DEFAULTS), ...change };
    outdate(state);
  });
}

/** The library's own defaults; the form shows them. */
const SELF_DEFAULTS: Readonly<SelfWriting> = {
  count: SELF_OPTIONS.count.default,
  prompt: "",
  seed: SELF_OPTIONS.seed.default,
};

export function removeBase(store: Store): void {
  store.change((state) => {
    state.base = undefined;
    forget(state, "base model");
    changeModels(state);
  });
}

export function removeAdapter(store: Store, id: string): void {
  store.change((state) => {
    const { recipe } = state;
    if (recipe) {
      const index = recipe.cards.indexOf(id);
      recipe.cards = recipe.cards.map((card) => (card === id ? undefined : card));
      forget(state, recipe.recipe.adapters[index]?.name);
    }
    state.adapters = state.adapters.filter((adapter) => adapter.id !== id);
    changeModels(state);
  });
}

/** What is not here any more differs from nothing. */
function forget({ recipe }: State, input: string | undefined): void {
  if (recipe) recipe.differing = recipe.differing.filter((mismatch) => mismatch.input !== input);
}

/** Gives an open file to an adapter, in the role its name suggests unless that place is taken. */
export function giveOpen(store: Store, dropped: Dropped, id: string): void {
  const adapter = adapterById(store.state, id);
  if (!adapter) return;
  const wanted = roleOf(dropped.path);
  const role = adapter.texts[wanted] ? (wanted === "samples" ? "heldOut" : "samples") : wanted;
  setText(store, id, role, dropped);
}

/** A shown result belongs to what was there when it was made. */
export function outdate(state: State): void {
  if (state.result) state.result.stale = true;
  if (state.methodComparison) state.methodComparison.stale = true;
}

/** Other models: what was written before a merge is not theirs. */
function changeModels(state: State): void {
  if (!state.result && !state.methodComparison) delete state.playground.written;
  outdate(state);
}

async function settle<T>(store: Store, work: Promise<T>, write: (facts: Loadable<T>) => void): Promise<void> {
  let facts: Loadable<T>;
  try {
    facts = { status: "ready", value: await work };
  } catch (thrown) {
    facts = { status: "failed", problem: describe(thrown) };
  }
  store.change(() => {
    write(facts);
  });
}
