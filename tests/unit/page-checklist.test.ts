import { describe, expect, it } from "vitest";
import type { BaseFacts, SamplesFacts } from "../../www/lib/types.ts";
import { checklist, isReady } from "../../www/page/checklist.ts";
import { type Adapter, type State, Store } from "../../www/page/state.ts";
import { adapter, baseFacts, samplesFacts, readyState as state } from "./page-state.ts";

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
      "Output rank: give a whole number above 0",
      (s) => Object.assign(s.settings, { rank: 0.5 }),
    ],
    [
      "no alpha",
      "Alpha 1 (ridge of the cross terms): give a number from 0 to 1.",
      (s) => Object.assign(s.settings, { alpha1: Number.NaN }),
    ],
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

describe("checklist of methods that need no samples", () => {
  const free = (change: (s: State) => void = () => undefined) =>
    state((s) => {
      s.settings.method = "ties";
      for (const adapter of s.adapters) adapter.texts = {};
      change(s);
    });

  it("goes without a base model, unless an adapter or the result needs it", () => {
    const without = (change: (s: State) => void = () => undefined) =>
      free((s) => {
        s.base = undefined;
        change(s);
      });
    expect(isReady(checklist(without()))).toBe(true);
    const dora = without((s) => {
      s.adapters = [adapter("sketch", { needsBase: true }), adapter("mood")];
    });
    expect(lacking(dora)).toEqual([
      "Drop the base model’s folder. sketch can only be told with its weights.",
    ]);
    const whole = without((s) => Object.assign(s.settings, { output: "base" }));
    expect(lacking(whole)[0]).toContain("The result is to be a whole model");
  });

  it("takes a base model that can only be read, and says which methods cannot", () => {
    const weights = (s: State): void => {
      const value: BaseFacts = { ...baseFacts, kind: "weights", hasTokenizer: false };
      s.base = { name: "unet", files: [], facts: { status: "ready", value }, chat: false };
    };
    expect(isReady(checklist(free(weights)))).toBe(true);
    expect(lacking(state(weights))[0]).toMatch(
      /^IterIS runs the model on samples, and this base model can only/,
    );
    const compared = free((s) => {
      weights(s);
      s.several = true;
    });
    expect(lacking(compared)[0]).toMatch(/^A comparison runs the models/);
  });

  it("lets one adapter be written anew, and weights be negative but not nothing", () => {
    const one = free((s) => void s.adapters.pop());
    expect(isReady(checklist(one))).toBe(true);
    const weighted = (weight: number) => free((s) => void Object.assign(first(s), { weight }));
    expect(lacking(weighted(-0.5))).toEqual([]);
    expect(lacking(weighted(0))).toEqual(["Give mood a weight other than zero."]);
    const iteris = state((s) => Object.assign(first(s), { weight: -0.5 }));
    expect(lacking(iteris)).toEqual(["Give mood a weight above zero."]);
  });

  it("takes no average of weights that cancel out", () => {
    const cancelling = (method: State["settings"]["method"]) =>
      free((s) => {
        s.settings.method = method;
        first(s).weight = -1;
      });
    expect(lacking(cancelling("average"))[0]).toContain("add up to zero");
    expect(lacking(cancelling("linear"))).toEqual([]);
  });

  it("looks only at options that the method has", () => {
    const dense = (method: State["settings"]["method"]) =>
      free((s) => Object.assign(s.settings, { method, density: 0 }));
    expect(lacking(dense("ties"))).toEqual(["Density: give a number above 0, at most 1."]);
    expect(lacking(dense("cat"))).toEqual([]);
    expect(lacking(free((s) => Object.assign(s.settings, { energy: 1.5 })))[0]).toContain("Share kept");
  });
});

describe("checklist of a comparison of methods", () => {
  const several = (change: (s: State) => void = () => undefined) =>
    state((s) => {
      s.several = true;
      change(s);
    });

  it("wants two methods, and texts of every task", () => {
    expect(isReady(checklist(several()))).toBe(true);
    expect(lacking(several((s) => Object.assign(s, { ticked: ["ties"] })))).toEqual([
      "Tick at least two methods to compare.",
    ]);
    const bare = several((s) => {
      s.ticked = ["ties", "average"];
      first(s).texts = {};
    });
    expect(lacking(bare)).toEqual(["Drop texts to compare on for mood: held-out texts, or samples."]);
  });

  it("wants samples where a method looks at them, and held-out texts are no samples", () => {
    const tested = several((s) => {
      const { samples } = first(s).texts;
      first(s).texts = samples ? { heldOut: samples } : {};
    });
    expect(lacking(tested)).toEqual(["Samples are missing for mood."]);
    tested.ticked = ["ties", "average"];
    expect(lacking(tested)).toEqual([]);
  });

  it("reads texts even where no method does", () => {
    const wordless = several((s) => {
      s.ticked = ["ties", "average"];
      const value: BaseFacts = { ...baseFacts, hasTokenizer: false };
      s.base = { name: "bert", files: [], facts: { status: "ready", value }, chat: false };
    });
    expect(lacking(wordless)[0]).toContain("tokenizer.json");
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
    expect(lacking(short)).toEqual([
      "Longest answer, in tokens: give a whole number above 0, at most 16384, or leave it empty for 16, captions 12.",
    ]);
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
