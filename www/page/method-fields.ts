/**
 * The options that belong to some methods: those that a person sets to get another result stand beside the method,
 * those that tune a solver are folded away.
 */
import { nothing, type TemplateResult } from "lit-html";
import type { MethodName, MethodOption } from "../lib/index.ts";
import { numberField, select, tick } from "./fields.ts";
import { optionsOf } from "./settings.ts";
import type { Store } from "./state.ts";

/** The largest rank among the adapters, which PEFT cuts to; 0 while none is known. */
export const largestRank = (store: Store): number =>
  Math.max(0, ...store.state.adapters.map(({ facts }) => (facts.status === "ready" ? facts.value.rank : 0)));

type Field = (store: Store) => TemplateResult | typeof nothing;

/** In the order in which they are shown. */
const BESIDE: readonly (readonly [MethodOption, Field])[] = [
  ["scale", (store) => numberField(store, "scale", { label: "Scale", step: "any" })],
  [
    "nonDiagonal",
    (store) =>
      numberField(store, "nonDiagonal", {
        label: "Non-diagonal a",
        step: "any",
        min: "0",
        max: "1",
        hint: "0: diagonals alone, 1: whole Gram matrices.",
      }),
  ],
  [
    "density",
    (store) =>
      numberField(store, "density", {
        label: "Density",
        step: "any",
        min: "0",
        max: "1",
        hint: "Share of numbers kept.",
      }),
  ],
  [
    "majoritySignMethod",
    (store) =>
      select(store, "majoritySignMethod", "Sign by", [
        ["total", "Sum"],
        ["frequency", "Count"],
      ]),
  ],
  [
    "svdRank",
    (store) => {
      const rank = largestRank(store);
      return numberField(store, "svdRank", {
        label: "Rank of the cut",
        step: "1",
        min: "1",
        empty: rank > 0 ? `${rank}, the largest` : "the largest",
      });
    },
  ],
  ["seed", (store) => numberField(store, "seed", { label: "Seed", step: "1", min: "0" })],
];

const FOLDED: readonly (readonly [MethodOption, Field])[] = [
  [
    "schedule",
    (store) =>
      select(store, "schedule", "Schedule", [
        ["sweep", "Sweep: every layer once, in order"],
        ["iterate", "Iterate: whole passes, as in the paper"],
      ]),
  ],
  [
    "maxIter",
    (store) =>
      store.state.settings.schedule === "iterate"
        ? numberField(store, "maxIter", { label: "Passes", step: "1", min: "1" })
        : nothing,
  ],
  [
    "target",
    (store) =>
      select(store, "target", "Solve for", [
        ["delta", "The adapters’ changes"],
        ["full", "The changed weights"],
      ]),
  ],
  [
    "alpha1",
    (store) =>
      numberField(store, "alpha1", { label: "Alpha 1 (ridge of the cross terms)", step: "any", min: "0" }),
  ],
  [
    "alpha2",
    (store) =>
      numberField(store, "alpha2", { label: "Alpha 2 (ridge of the Gram matrices)", step: "any", min: "0" }),
  ],
  [
    "padding",
    (store) =>
      select(store, "padding", "Padding tokens", [
        ["exclude", "Left out"],
        ["include", "Counted, as in the published code"],
      ]),
  ],
  [
    "adaptiveWeights",
    (store) =>
      tick(
        store,
        "adaptiveWeights",
        "Adaptive weights",
        "Evens out tasks whose layers work at different scales.",
      ),
  ],
];

const shown = (
  fields: readonly (readonly [MethodOption, Field])[],
  store: Store,
  methods: readonly MethodName[],
): (TemplateResult | typeof nothing)[] => {
  const options = optionsOf(methods);
  return fields.filter(([option]) => options.has(option)).map(([, field]) => field(store));
};

/** The fields that stand beside the methods. */
export const methodFields = (store: Store, methods: readonly MethodName[]) => shown(BESIDE, store, methods);

/** The fields that are folded away. */
export const solverFields = (store: Store, methods: readonly MethodName[]) => shown(FOLDED, store, methods);
