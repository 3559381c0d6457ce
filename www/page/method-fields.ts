/**
 * The options that belong to some methods: those that a person sets to get another result stand beside the method,
 * those that tune a solver are folded away.
 */
import type { MethodName, OptionName } from "../lib/index.ts";
import { optionField, optionsAt } from "./option-fields.ts";
import type { Store } from "./state.ts";

/** The largest rank among the adapters, which PEFT cuts to; 0 while none is known. */
export const largestRank = (store: Store): number =>
  Math.max(0, ...store.state.adapters.map(({ facts }) => (facts.status === "ready" ? facts.value.rank : 0)));

function field(store: Store, name: OptionName) {
  const rank = name === "svdRank" ? largestRank(store) : 0;
  return optionField(store, name, rank > 0 ? `${rank}, the largest` : undefined);
}

const shown = (place: "beside" | "folded", store: Store, methods: readonly MethodName[]) =>
  optionsAt(place, store.state.settings, methods).map((name) => field(store, name));

/** The fields that stand beside the methods. */
export const methodFields = (store: Store, methods: readonly MethodName[]) => shown("beside", store, methods);

/** The fields that are folded away. */
export const foldedFields = (store: Store, methods: readonly MethodName[]) => shown("folded", store, methods);
