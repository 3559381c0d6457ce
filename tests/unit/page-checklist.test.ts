import { describe, expect, it } from "vitest";
import type { AdapterFacts, BaseFacts, SamplesFacts } from "../../www/lib/types.ts";
import { checklist, isReady } from "../../www/page/checklist.ts";
import { type Adapter, type State, Store } from "../../www/page/state.ts";

const baseFacts: BaseFacts = {
  family: "bert",
  kind: "encoder",
  generates: false,
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
  kinds: { text: 50, prompt: 0, messages: 0 },
  answers: 0,
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
    self: undefined,
  };
}

/** A state in which everything is there, and one change to it. */
function state(change: (state: State) => void = () => undefined): State {
  const { state } = new Store();
  state.base = { name: "bert", files: [], facts: { status: "ready", value: baseFacts }, chat: false };
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
        chat: false,
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

describe("checklist of a model that writes", () => {
  /** A decoder-only base, with or without a tokenizer and a chat template. */
  function writer(change: (state: State) => void, { hasTokenizer = true, chat = false } = {}): State {
    return state((s) => {
      const value: BaseFacts = { ...baseFacts, kind: "decoder", generates: true, hasTokenizer };
      s.base = { name: "llama", files: [], facts: { status: "ready", value }, chat };
      change(s);
    });
  }
  const letWrite = (s: State, more: Partial<Adapter["self"]> = {}): void => {
    Object.assign(first(s), { texts: {}, self: { count: 32, prompt: "", seed: 0, ...more } });
  };
  const give = (s: State, kinds: SamplesFacts["kinds"]): void => {
    const { samples } = first(s).texts;
    if (samples) samples.facts = { status: "ready", value: { ...samplesFacts, kinds } };
  };

  it("offers that the adapter writes its samples, and counts them", () => {
    const without = writer((s) => Object.assign(first(s), { texts: {} }));
    expect(lacking(without)).toEqual([
      "Samples are missing for mood. Drop a file, or let the adapter write them.",
    ]);
    const items = checklist(writer((s) => letWrite(s)));
    expect(isReady(items)).toBe(true);
    expect(items.map(({ text }) => text)).toContain("82 samples, 32 of them written by the adapters");
  });

  it("needs no tokenizer where every adapter writes from nothing", () => {
    const all = (prompt: string) =>
      writer(
        (s) => {
          letWrite(s, { prompt });
          const [, other] = s.adapters;
          Object.assign(other ?? {}, { texts: {}, self: { count: 8, prompt: "", seed: 1 } });
        },
        { hasTokenizer: false },
      );
    expect(checklist(all("")).map(({ text }) => text)).toContain("40 samples, written by the adapters");
    expect(isReady(checklist(all("")))).toBe(true);
    expect(lacking(all("Dear"))[0]).toContain("tokenizer.json");
  });

  it("wants whole numbers", () => {
    expect(lacking(writer((s) => letWrite(s, { count: Number.NaN })))[0]).toContain(
      "Let mood write at least",
    );
    expect(lacking(writer((s) => letWrite(s, { seed: 0.5 })))[0]).toContain("seed");
    const short = writer((s) => Object.assign(s.settings, { maxNewTokens: 0 }));
    expect(lacking(short)).toEqual(["The longest answer is a whole number of tokens from 1."]);
  });

  it("says at once which texts are not for this base model", () => {
    const prompts = { text: 0, prompt: 50, messages: 0 };
    expect(lacking(state((s) => give(s, prompts)))[0]).toContain("The texts of mood hold prompts or chats");
    expect(lacking(writer((s) => give(s, prompts)))).toEqual([]);
    const chats = (s: State): void => give(s, { text: 0, prompt: 0, messages: 50 });
    expect(lacking(writer(chats))[0]).toContain(
      "The texts of mood are chats: add the base model’s chat template",
    );
    expect(lacking(writer(chats, { chat: true }))).toEqual([]);
    const encoder = state((s) => letWrite(s));
    expect(lacking(encoder)[0]).toContain("This base model writes no text: mood cannot write samples.");
  });
});
