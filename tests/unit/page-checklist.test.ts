import { describe, expect, it } from "vitest";
import type { AdapterFacts, BaseFacts, SamplesFacts } from "../../www/lib/types.ts";
import { checklist, isReady } from "../../www/page/checklist.ts";
import { type Adapter, type State, Store } from "../../www/page/state.ts";

const baseFacts: BaseFacts = {
  family: "bert",
  architecture: "BertModel",
  parameters: 1,
  hiddenSize: 1,
  layers: 1,
  heads: 1,
  maxLength: 8,
  vocabSize: 9,
  dtype: "F32",
  bytes: 1,
  hasTokenizer: true,
  hasPooler: true,
};
const samplesFacts: SamplesFacts = {
  name: "a.txt",
  format: "txt",
  count: 50,
  labelled: 0,
  labels: [],
  pairs: 0,
  longestCharacters: 9,
  preview: [],
};

function adapter(name: string): Adapter {
  return {
    id: name,
    name,
    folder: name,
    files: [],
    weight: 1,
    facts: { status: "ready", value: {} as AdapterFacts },
    texts: {
      samples: {
        dropped: { path: "a.txt", file: new File(["x"], "a.txt") },
        facts: { status: "ready", value: samplesFacts },
      },
    },
  };
}

/** A state in which everything is there, and one change to it. */
function state(change: (state: State) => void = () => undefined): State {
  const { state } = new Store();
  state.base = { name: "bert", files: [], facts: { status: "ready", value: baseFacts } };
  state.adapters = [adapter("mood"), adapter("topic")];
  change(state);
  return state;
}

/** The texts of what is not done. */
const lacking = (state: State): string[] =>
  checklist(state)
    .filter(({ status }) => status !== "done")
    .map(({ text }) => text);

const first = (state: State): Adapter => {
  const [found] = state.adapters;
  if (!found) throw new Error("no adapter");
  return found;
};

describe("checklist", () => {
  it("is ready when everything is there", () => {
    expect(isReady(checklist(state()))).toBe(true);
    expect(checklist(state()).map(({ text }) => text)).toEqual([
      "Base model: bert",
      "2 adapters",
      "100 samples",
    ]);
  });

  it("names at once everything that an empty page lacks", () => {
    expect(lacking(new Store().state)).toEqual([
      "Drop the base model’s folder.",
      "Drop at least two adapter folders.",
      "Drop a file of sample texts for each adapter.",
    ]);
  });

  it("names the adapter without samples, and asks for none where the method needs none", () => {
    const without = (s: State): void => {
      first(s).texts = {};
    };
    expect(lacking(state(without))).toEqual(["Samples are missing for mood."]);
    const linear = state((s) => {
      without(s);
      s.settings.method = "linear";
    });
    expect(isReady(checklist(linear))).toBe(true);
  });

  it("asks for the tokenizer only where texts are read", () => {
    const bare = (s: State): void => {
      s.base = {
        name: "b",
        files: [],
        facts: { status: "ready", value: { ...baseFacts, hasTokenizer: false } },
      };
    };
    expect(lacking(state(bare))[0]).toContain("tokenizer.json");
    const linear = state((s) => {
      bare(s);
      s.settings.method = "linear";
    });
    expect(isReady(checklist(linear))).toBe(true);
  });

  const cases: [string, string, (s: State) => void][] = [
    ["one adapter", "Drop at least one more adapter.", (s) => s.adapters.pop()],
    [
      "a name twice",
      "Two adapters are called topic: rename one.",
      (s) => Object.assign(first(s), { name: "topic" }),
    ],
    ["no name", "Give every adapter a name.", (s) => Object.assign(first(s), { name: " " })],
    ["no weight", "Give mood a weight above zero.", (s) => Object.assign(first(s), { weight: Number.NaN })],
    [
      "half a rank",
      "The output rank is a whole number from 1",
      (s) => Object.assign(s.settings, { rank: 0.5 }),
    ],
    ["no alpha", "Alpha 1 and alpha 2 are numbers", (s) => Object.assign(s.settings, { alpha1: Number.NaN })],
    [
      "a broken adapter",
      "Remove or replace mood",
      (s) => Object.assign(first(s), { facts: { status: "failed", problem: { code: "x", message: "y" } } }),
    ],
    [
      "a base being read",
      "Reading the base",
      (s) => Object.assign(s.base ?? {}, { facts: { status: "reading" } }),
    ],
  ];

  it.each(cases)("is not ready with %s", (_, text, change) => {
    expect(lacking(state(change)).join("\n")).toContain(text);
  });
});
