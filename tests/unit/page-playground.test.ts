import { describe, expect, it } from "vitest";
import type { AdapterFacts, BaseFacts, SamplesFacts } from "../../www/lib/types.ts";
import { hasChatTemplate } from "../../www/page/chat.ts";
import { sampleCounts } from "../../www/page/format.ts";
import {
  echoes,
  obstacle,
  playgroundModels,
  presentModels,
  promptOf,
  suggestions,
} from "../../www/page/playground.ts";
import { DEFAULTS, mergeOptions } from "../../www/page/settings.ts";
import { type Adapter, type State, Store } from "../../www/page/state.ts";

const facts = { kind: "decoder", generates: true, hasTokenizer: true } as BaseFacts;
const counts: SamplesFacts = {
  name: "a.jsonl",
  format: "jsonl",
  count: 3,
  labelled: 0,
  labels: [],
  pairs: 0,
  kinds: { text: 0, prompt: 3, messages: 0 },
  answers: 0,
  longestCharacters: 9,
  preview: [],
};

function adapter(
  name: string,
  prompts: Partial<Record<"samples" | "heldOut", string[]>> = {},
  chats = false,
): Adapter {
  const text = (preview: string[] = []) => ({
    dropped: { path: "a", file: new File(["x"], "a") },
    facts: {
      status: "ready" as const,
      value: { ...counts, preview, kinds: { text: 0, prompt: chats ? 0 : 3, messages: chats ? 3 : 0 } },
    },
  });
  return {
    id: name,
    name,
    folder: "",
    files: [],
    weight: 1,
    facts: { status: "ready", value: {} as AdapterFacts },
    texts: Object.fromEntries(Object.entries(prompts).map(([role, preview]) => [role, text(preview)])),
    self: undefined,
  };
}

function state(
  adapters: Adapter[],
  { chat = false, ...more }: Partial<BaseFacts> & { chat?: boolean } = {},
): State {
  const { state } = new Store();
  state.base = { name: "llama", files: [], facts: { status: "ready", value: { ...facts, ...more } }, chat };
  state.adapters = adapters;
  return state;
}

describe("who writes", () => {
  it("is the base and every adapter that was read, each under a name of its own", () => {
    const broken: Adapter = { ...adapter("broken"), facts: { status: "reading" } };
    const models = presentModels(state([adapter("base"), adapter("past"), broken]));
    expect(models?.writers.map(({ name, role }) => [name, role])).toEqual([
      ["Base", "base"],
      ["base 2", "adapter"],
      ["past", "adapter"],
    ]);
    expect(models?.writers[0]?.files).toBeUndefined();
  });

  it("is nobody where the base model writes no text", () => {
    expect(presentModels(state([adapter("past")], { generates: false }))).toBeUndefined();
    expect(presentModels(new Store().state)).toBeUndefined();
  });

  it("is what was merged, whatever is dropped afterwards", () => {
    const merged = state([adapter("past")]);
    const { base } = merged;
    if (!base) throw new Error("no base");
    merged.result = { models: playgroundModels(base, merged.adapters, facts) } as NonNullable<
      State["result"]
    >;
    merged.adapters = [];
    expect(presentModels(merged)?.writers).toHaveLength(2);
  });
});

describe("prompts at hand", () => {
  const past = adapter("past", { samples: ["s"], heldOut: ["p1", "p2", "p3"] });
  const question = adapter("question", { samples: ["q1", "q2"] });

  it("are of every task in turn, held-out ones first of all", () => {
    expect(suggestions(state([past, question])).map(({ task, text }) => `${task}: ${text}`)).toEqual([
      "past: p1",
      "question: q1",
      "past: p2",
      "question: q2",
      "past: p3",
    ]);
    expect(suggestions(state([past, past, past]))).toHaveLength(6);
  });

  it("fill the form until the person writes something else", () => {
    const shown = state([past, question]);
    expect(promptOf(shown).text).toBe("p1");
    shown.playground.prompt = "";
    expect(promptOf(shown).text).toBe("");
    expect(obstacle(shown)).toBe("Write a prompt first.");
  });

  it("are messages of a chat where the model has a template and the texts are chats", () => {
    const chats = adapter("past", { heldOut: ["hello"] }, true);
    expect(promptOf(state([chats], { chat: true }))).toEqual({ text: "hello", chat: true });
    expect(promptOf(state([chats]))).toEqual({ text: "hello", chat: false });
    expect(promptOf(state([past], { chat: true })).chat).toBe(false);
    // A chat model without a text at hand is asked as one.
    expect(promptOf(state([], { chat: true }))).toEqual({ text: "", chat: true });
  });
});

describe("what keeps the models from writing", () => {
  const ready = () => state([adapter("past", { heldOut: ["p"] })]);

  it("is nothing where all is there", () => {
    expect(obstacle(ready())).toBeUndefined();
  });

  it("is a missing tokenizer, or work that is running", () => {
    expect(obstacle(state([], { hasTokenizer: false }))).toContain("tokenizer.json");
    const busy = ready();
    busy.work = { task: "compare" } as NonNullable<State["work"]>;
    expect(obstacle(busy)).toContain("when this work is done");
  });

  it.each([
    ["maxNewTokens", 0, "longest answer"],
    ["temperature", Number.NaN, "temperature"],
    ["topP", 0, "Top-p"],
    ["topP", 1.1, "Top-p"],
    ["seed", -1, "seed"],
  ] as const)("is %s of %s", (key, value, text) => {
    const wrong = ready();
    wrong.playground[key] = value;
    expect(obstacle(wrong)).toContain(text);
  });
});

it("tells which adapters a merged one writes like, word for word", () => {
  const outputs = [
    { name: "Base", role: "base", text: "x" },
    { name: "past", role: "adapter", text: "ran" },
    { name: "tense", role: "adapter", text: "ran" },
    { name: "IterIS", role: "merged", text: "ran" },
    { name: "Linear average", role: "merged", text: "run" },
  ] as const;
  expect(outputs.map((_, index) => echoes(outputs, index))).toEqual([[], [], [], ["past", "tense"], []]);
  const waiting = outputs.map((output) => ({ ...output, text: undefined }));
  expect(echoes(waiting, 3)).toEqual([]);
});

it("counts samples of every kind, and their answers", () => {
  expect(sampleCounts(counts)).toBe("3 prompts · no answers");
  expect(sampleCounts({ ...counts, answers: 3, labelled: 1 })).toBe(
    "3 prompts · all with answers · 1 labelled",
  );
  expect(sampleCounts({ ...counts, kinds: { text: 1, prompt: 1, messages: 1 }, answers: 1 })).toBe(
    "1 text · 1 prompt · 1 chat · 1 with answers",
  );
  const texts = { ...counts, kinds: { text: 3, prompt: 0, messages: 0 } };
  expect(sampleCounts({ ...texts, pairs: 2, labelled: 3 })).toBe("3 texts · 2 pairs · all labelled");
});

it("finds a chat template wherever a model may keep it", async () => {
  const files = (name: string, text: string) => [{ path: name, file: new File([text], name) }];
  expect(await hasChatTemplate(files("chat_template.jinja", "{{ x }}"))).toBe(true);
  expect(await hasChatTemplate(files("tokenizer_config.json", `{"chat_template": "{{ x }}"}`))).toBe(true);
  expect(await hasChatTemplate(files("tokenizer_config.json", `{"chat_template": null}`))).toBe(false);
  expect(await hasChatTemplate(files("tokenizer_config.json", "not JSON"))).toBe(false);
  expect(await hasChatTemplate(files("tokenizer.json", "{}"))).toBe(false);
});

it("keeps choices for another kind of base model out of a merge", () => {
  const chosen = { ...DEFAULTS, decoderInputs: "start", positions: "completion" } as const;
  expect(mergeOptions(chosen, "decoder")).toMatchObject({ decoderInputs: "own", positions: "completion" });
  expect(mergeOptions(chosen, "encoder-decoder")).toMatchObject({ decoderInputs: "start", positions: "all" });
  expect(mergeOptions(chosen, "encoder")).toMatchObject({ decoderInputs: "own", positions: "all" });
});
