/**
 * Tokenizers and chat templates of the kinds that language models have, against what transformers does with them
 * (`language/make.py` wrote its ids and texts), and the rules for prompts, completions, targets and chats.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseSamples } from "../../www/lib/samples/read.ts";
import { type Codec, type CodecFacts, loadCodec } from "../../www/lib/tokens/codec.ts";
import { encodeSample } from "../../www/lib/tokens/encode-sample.ts";
import type { Lengths } from "../../www/lib/tokens/encoded.ts";
import { encodePrompt } from "../../www/lib/tokens/prompts.ts";
import { tokenise } from "../../www/lib/tokens/tokenise.ts";
import type { ChatMessage, Sample } from "../../www/lib/types.ts";
import type { SourceFile } from "../../www/lib/wasm-interface.ts";
import { sourceFile } from "./fixtures.ts";

const data = join(import.meta.dirname, "language/data");

interface Expected {
  special: Record<string, string>;
  texts: { text: string; ids: number[]; decoded: string; plain: string }[];
  /** Of `a` and `b`. */
  pair: { ids: number[]; type_ids: number[] };
  prompts: {
    prompt: string;
    completion: string;
    prompt_ids: number[];
    joined_ids: number[];
    completion_ids: number[];
    labels: number[];
  }[];
  chats: ({ messages: ChatMessage[] } & (
    | { prompt: string; prompt_ids: number[]; whole: string; whole_ids: number[]; error: undefined }
    | { error: string }
  ))[];
}

const expectedOf = (name: string): Expected =>
  JSON.parse(readFileSync(join(data, name, "expected.json"), "utf8"));

const json = (name: string, value: unknown): SourceFile => {
  const blob = new Blob([JSON.stringify(value)]);
  return { name, size: blob.size, blob };
};

/** A folder of `data` as a base model of a kind; `stops` go into its generation_config.json. */
function codecOf(name: string, facts: Partial<CodecFacts> = {}, stops?: number | number[]): Promise<Codec> {
  const folder = join(data, name);
  const files = readdirSync(folder).map((file) => sourceFile(join(folder, file), file));
  const generation = stops === undefined ? [] : [json("generation_config.json", { eos_token_id: stops })];
  return loadCodec([...files, ...generation], { kind: "decoder", maxLength: 2048, vocabSize: 500, ...facts });
}

const all = ["chatml", "thinking", "llama3", "mistral", "gemma", "t5", "bart"];
const chatting = ["chatml", "thinking", "llama3", "mistral", "gemma"];
const place = { file: "a.jsonl", line: 3 };
const lengths: Lengths = { maxLength: 512, maxNewTokens: 16, labels: false };
const encode = (sample: Sample, codec: Codec, more: Partial<Lengths> = {}) =>
  encodeSample(sample, codec, { ...lengths, ...more }, place);
const invalid = (message: string) =>
  expect.objectContaining({ code: "samples_invalid", message: expect.stringContaining(message) });

describe.each(all)("the tokenizer %s", (name) => {
  const expected = expectedOf(name);

  it("gives the ids of transformers, and its texts back", async () => {
    const { tokenizer } = await codecOf(name);
    for (const { text, ids, decoded, plain } of expected.texts) {
      expect(tokenizer.encode({ text }, 512).ids, text).toEqual(ids);
      expect(tokenizer.decode(ids), text).toBe(decoded);
      expect(tokenizer.decode(ids, { skipSpecial: true }), text).toBe(plain);
    }
  });

  it("has the special tokens of transformers", async () => {
    const { tokenizer } = await codecOf(name);
    expect(tokenizer.specialTokens).toEqual(expected.special);
  });

  it("decodes ids that no token has to nothing", async () => {
    const { tokenizer } = await codecOf(name);
    expect(tokenizer.decode([100_000])).toBe("");
    expect(tokenizer.decode([])).toBe("");
  });
});

// A RoBERTa has one segment, and ids beyond it no embedding.
it.each(["bart", "t5", "llama3"])("a pair is one segment to the tokenizer %s", async (name) => {
  const { tokenizer } = await codecOf(name);
  const { ids, typeIds } = tokenizer.encode({ text: "a", text_pair: "b" }, 64);
  const { pair } = expectedOf(name);
  expect({ ids, type_ids: typeIds }).toEqual(pair);
});

describe.each(chatting)("the chat template %s", (name) => {
  it("writes what transformers' apply_chat_template writes, and refuses what it refuses", async () => {
    const { chat, tokenizer } = await codecOf(name);
    for (const found of expectedOf(name).chats) {
      const { messages } = found;
      const asked = messages.at(-1)?.role === "assistant" ? messages.slice(0, -1) : messages;
      if (found.error !== undefined) {
        expect(() => chat?.render(asked, true)).toThrowError(found.error);
        continue;
      }
      expect(chat?.render(asked, true)).toBe(found.prompt);
      expect(chat?.render(messages, false)).toBe(found.whole);
      expect(tokenizer.content(found.prompt)).toEqual(found.prompt_ids);
      expect(tokenizer.content(found.whole)).toEqual(found.whole_ids);
    }
  });
});

describe("a chat template", () => {
  const files = (...more: SourceFile[]) => [
    sourceFile(join(data, "t5/tokenizer.json"), "tokenizer.json"),
    ...more,
  ];
  const facts = { kind: "decoder", maxLength: 64, vocabSize: 400 } as const;
  const user = [{ role: "user", content: "x" }];
  const text = (name: string, source: string) => ({ name, size: source.length, blob: new Blob([source]) });
  const renderedBy = async (...more: SourceFile[]) =>
    (await loadCodec(files(...more), facts)).chat?.render(user, true);

  it("of its own file counts for more than the configuration's", async () => {
    const config = json("tokenizer_config.json", { chat_template: "config" });
    expect(await renderedBy(text("chat_template.jinja", "file"), config)).toBe("file");
    expect(await renderedBy(config)).toBe("config");
    expect(await renderedBy(json("chat_template.json", { chat_template: "older" }))).toBe("older");
    expect(await renderedBy()).toBeUndefined();
  });

  it("is the one named default where there are several", async () => {
    const named = (...names: string[]) => names.map((name) => ({ name, template: `as ${name}` }));
    const config = (chat_template: unknown) => json("tokenizer_config.json", { chat_template });
    expect(await renderedBy(config(named("rag", "default")))).toBe("as default");
    expect(await renderedBy(config({ default: "by name" }))).toBe("by name");
    await expect(renderedBy(config(named("rag", "tool_use")))).rejects.toMatchObject({
      code: "config_invalid",
      message: expect.stringContaining("(rag, tool_use)"),
    });
  });

  it("finds tokens, dates and the absence of tools as transformers gives them", async () => {
    const source =
      "{{ bos_token }}{{ eos_token }}{{ strftime_now('%Y') }}{{ 'none' if tools is none and documents is none }}{{ 'prompt' if add_generation_prompt }}";
    const config = json("tokenizer_config.json", {
      bos_token: { content: "<s>", __type: "AddedToken" },
      eos_token: null,
    });
    const map = json("special_tokens_map.json", { eos_token: "</s>", bos_token: "ignored" });
    const written = await renderedBy(text("chat_template.jinja", source), config, map);
    expect(written).toBe(`<s>${new Date().getFullYear()}noneprompt`);
  });

  it("that cannot be parsed is refused by its file", async () => {
    await expect(renderedBy(text("chat_template.jinja", "{% for %}"))).rejects.toMatchObject({
      code: "config_invalid",
      message: expect.stringContaining("chat_template.jinja"),
    });
  });

  it("is missed by what to add", async () => {
    const codec = await loadCodec(files(), facts);
    expect(() => encode({ messages: user }, codec)).toThrowError(
      expect.objectContaining({ code: "missing", message: expect.stringContaining("chat_template.jinja") }),
    );
  });

  it("that refuses a chat is told with the place", async () => {
    const codec = await codecOf("gemma");
    const messages = [{ role: "system", content: "x" }, ...user];
    expect(() => encode({ messages }, codec)).toThrowError(
      invalid("a.jsonl line 3: the chat template does not take this chat: This model has no system turn"),
    );
  });
});

describe("a prompt with its completion", () => {
  it.each(["chatml", "llama3", "mistral", "gemma"])(
    "of %s are the ids of both together, if they begin with the prompt's",
    async (name) => {
      const codec = await codecOf(name);
      const outcomes = new Set<boolean>();
      for (const { prompt, completion, prompt_ids, joined_ids, completion_ids } of expectedOf(name).prompts) {
        const { ids, answer, writes } = encode({ prompt, completion }, codec);
        expect(ids).toEqual(prompt_ids);
        expect(writes).toBe(false);
        const begins = prompt_ids.every((id, i) => joined_ids[i] === id);
        outcomes.add(begins);
        // Else a token spans the two, and the completion is tokenised alone.
        const after = begins ? joined_ids.slice(prompt_ids.length) : completion_ids;
        expect(answer).toEqual([...after, codec.end]);
      }
      expect(outcomes).toEqual(new Set([true, false]));
    },
  );

  it("without one is for the adapter to write", async () => {
    const codec = await codecOf("llama3");
    const { ids, answer, writes } = encode({ prompt: "The answer is" }, codec);
    expect({ first: ids[0], answer, writes }).toEqual({
      first: codec.tokenizer.idOf("<|begin_of_text|>"),
      answer: [],
      writes: true,
    });
  });

  it("ends once, where the completion itself holds the end", async () => {
    const codec = await codecOf("chatml", {}, 348);
    expect(codec.tokenizer.idOf("<|im_end|>")).toBe(348);
    const { answer } = encode({ prompt: "Is it?", completion: " yes<|im_end|>\n" }, codec);
    expect(answer.filter((id) => id === 348)).toHaveLength(1);
    expect(answer.at(-1)).toBe(348);
  });

  it("may be called text and target", async () => {
    const codec = await codecOf("chatml");
    const sample = { prompt: "The answer is", completion: " yes" };
    expect(encode({ text: sample.prompt, target: sample.completion }, codec)).toEqual(encode(sample, codec));
  });

  it("loses the prompt's end if it is too long, or its beginning, and never the completion", async () => {
    const codec = await codecOf("llama3");
    const sample = { prompt: "Where is the house? The house is near the river.", completion: " yes no yes" };
    const whole = encode(sample, codec);
    const maxLength = whole.ids.length + whole.answer.length - 2;
    const right = encode(sample, codec, { maxLength });
    expect(right).toEqual({ ...whole, ids: whole.ids.slice(0, -2), typeIds: right.typeIds, truncated: true });
    const left = { ...codec, tokenizer: { ...codec.tokenizer, side: "left" as const } };
    const [bos, , , ...kept] = whole.ids;
    expect(encode(sample, left, { maxLength }).ids).toEqual([bos, ...kept]);
  });

  it("is refused where the completion alone is too long", async () => {
    const codec = await codecOf("llama3");
    const sample = { prompt: "Is it?", completion: " yes no yes" };
    const { answer } = encode(sample, codec);
    // One token begins the text and one of the prompt stays.
    const room = answer.length - 1;
    expect(() => encode(sample, codec, { maxLength: room + 2 })).toThrowError(
      invalid(
        `a.jsonl line 3: the answer has ${answer.length} tokens where maxLength ${room + 2} leaves room for ${room}`,
      ),
    );
    expect(encode(sample, codec, { maxLength: room + 3 }).ids).toHaveLength(2);
  });

  it("leaves room for what the adapter is to write", async () => {
    const codec = await codecOf("chatml", { maxLength: 24 });
    const prompt = "Where is the house? The house is near the river, near the market.";
    expect(encode({ prompt }, codec).ids).toHaveLength(8);
    expect(encode({ text: prompt }, codec, { maxLength: 24 }).ids.length).toBeGreaterThan(8);
    expect(() => encode({ prompt }, codec, { maxNewTokens: 24 })).toThrowError(
      expect.objectContaining({
        code: "option_invalid",
        message: expect.stringContaining(
          "maxNewTokens 24 and maxLength 512 leave no room for a prompt within the 24",
        ),
      }),
    );
  });

  it("leaves room in a comparison for what the adapter writes, whatever answer is given", async () => {
    const codec = await codecOf("chatml", { maxLength: 24 });
    const prompt = "Where is the house? The house is near the river, near the market.";
    const compared = { labels: true, maxLength: 24 };
    for (const sample of [{ text: prompt }, { prompt }, { prompt, completion: " yes" }]) {
      expect(encode(sample, codec, compared).ids).toHaveLength(24 - 16);
    }
    const label = "near near near near near near near near near near";
    const long = encode({ prompt, label }, codec, { ...compared, maxNewTokens: 1 });
    expect(long.ids).toHaveLength(24 - long.label.length);
  });

  it("that tokenises to nothing is refused", async () => {
    const codec = await codecOf("t5");
    expect(() =>
      encode({ prompt: "\u200b\u0000" }, { ...codec, tokenizer: { ...codec.tokenizer, content: () => [] } }),
    ).toThrowError(invalid("a.jsonl line 3: the prompt becomes no tokens"));
  });
});

describe("a chat", () => {
  it("is its prompt, and the assistant's last turn up to where the model stops", async () => {
    for (const name of ["chatml", "llama3"]) {
      const [found] = expectedOf(name).chats.filter(({ messages }) => messages.at(-1)?.role === "assistant");
      if (found === undefined || found.error !== undefined)
        throw new Error("the goldens lack an answered chat");
      const codec = await codecOf(name);
      const { ids, answer, writes } = encode({ messages: found.messages }, codec);
      expect(writes).toBe(false);
      expect(ids).toEqual(found.prompt_ids);
      const rest = found.whole_ids.slice(found.prompt_ids.length);
      expect(answer).toEqual(rest.slice(0, rest.indexOf(codec.end ?? -1) + 1));
      expect(answer.at(-1)).toBe(codec.end);
    }
  });

  it("whose template ends turns with a token at which the model does not stop keeps that one", async () => {
    const codec = await codecOf("gemma");
    const turn = codec.tokenizer.idOf("<end_of_turn>");
    const chat = {
      messages: [
        { role: "user", content: "Is it?" },
        { role: "assistant", content: "yes" },
      ],
    };
    const { answer } = encode(chat, codec);
    expect(answer).toContain(turn);
    expect(answer).not.toContain(codec.end);
    const stopping = await codecOf("gemma", {}, [2, turn ?? -1]);
    expect(encode(chat, stopping).answer.at(-1)).toBe(turn);
  });

  it("whose finished text does not begin with its prompt has the answer alone", async () => {
    const codec = await codecOf("thinking");
    const messages = [
      { role: "user", content: "Is it?" },
      { role: "assistant", content: "yes" },
    ];
    expect(encode({ messages }, codec).answer).toEqual([...codec.tokenizer.content("yes"), codec.end]);
  });

  it("without an answer is for the adapter to write", async () => {
    const codec = await codecOf("mistral");
    const messages = [{ role: "user", content: "Is it?" }];
    expect(encode({ messages }, codec)).toMatchObject({ writes: true, answer: [] });
  });
});

describe("a target", () => {
  it.each([
    ["t5", 1],
    ["bart", 348],
  ])("of %s is transformers' labels", async (name, end) => {
    const codec = await codecOf(name, { kind: "encoder-decoder" });
    expect(codec.end).toBe(end);
    for (const { prompt, completion, prompt_ids, labels } of expectedOf(name).prompts) {
      const expected = { ids: prompt_ids, answer: labels, writes: false, label: [] };
      expect(encode({ text: prompt, target: completion }, codec)).toMatchObject(expected);
      expect(encode({ prompt, completion }, codec)).toMatchObject(expected);
    }
    expect(encode({ text: "Where?" }, codec)).toMatchObject({ writes: true, answer: [] });
  });

  it("keeps a first token that is what the decoder starts with, as transformers' labels do", async () => {
    const codec = await codecOf("bart", { kind: "encoder-decoder" }, 348);
    const { answer } = encode({ text: "Where?", target: "yes" }, codec);
    expect([answer[0], answer.at(-1)]).toEqual([346, 348]);
  });

  it("is never cut; the text is", async () => {
    const codec = await codecOf("t5", { kind: "encoder-decoder" });
    const sample = { text: "Where is the house? The house is near.", target: "yes no" };
    const whole = encode(sample, codec);
    const cut = encode(sample, codec, { maxLength: whole.answer.length });
    expect(cut).toMatchObject({ answer: whole.answer, truncated: true });
    expect(cut.ids).toHaveLength(whole.answer.length);
    expect(cut.ids.at(-1)).toBe(1);
    expect(() => encode(sample, codec, { maxLength: whole.answer.length - 1 })).toThrowError(
      invalid("and answers are not cut"),
    );
  });

  it("of a chat needs a template", async () => {
    const codec = await codecOf("t5", { kind: "encoder-decoder" });
    const messages = [
      { role: "user", content: "Is it?" },
      { role: "assistant", content: "yes" },
    ];
    expect(() => encode({ messages }, codec)).toThrowError(expect.objectContaining({ code: "missing" }));
    const { chat } = await codecOf("mistral");
    const { ids, answer } = encode({ messages }, { ...codec, chat });
    expect(codec.tokenizer.decode(ids)).toContain("Is it?");
    expect(answer.at(-1)).toBe(codec.end);
  });
});

describe("the token that ends answers", () => {
  const end = async (stops: number | number[] | undefined, eos: string | null) => {
    const config = eos === null ? {} : { eos_token: eos };
    const files = [
      sourceFile(join(data, "chatml/tokenizer.json"), "tokenizer.json"),
      json("tokenizer_config.json", config),
      json("config.json", { eos_token_id: 7 }),
      ...(stops === undefined ? [] : [json("generation_config.json", { eos_token_id: stops })]),
    ];
    return (await loadCodec(files, { kind: "decoder", maxLength: 64, vocabSize: 400 })).end;
  };

  it("is the tokenizer's, if the model stops there", async () => {
    expect(await end([346, 348], "<|im_end|>")).toBe(348);
    expect(await end([346, 347], "<|im_end|>")).toBe(346);
    expect(await end(346, null)).toBe(346);
  });

  it("is the configuration's where generation_config.json has none", async () => {
    expect(await end(undefined, "<|im_end|>")).toBe(7);
    expect(await end([], null)).toBe(7);
  });

  it("is the tokenizer's where the model names none", async () => {
    const codec = await codecOf("chatml");
    expect(codec.end).toBe(348);
    expect(codec.stops).toEqual(new Set([348]));
  });
});

describe("samples of a language model on their way to the core", () => {
  const set = parseSamples(
    new TextEncoder().encode(
      [
        { text: "The house", label: "yes" },
        { prompt: "Is it?", completion: " yes" },
        { prompt: "Is it?", label: "no" },
        { messages: [{ role: "user", content: "Is it?" }], label: 1 },
      ]
        .map((line) => JSON.stringify(line))
        .join("\n"),
    ),
    "a.jsonl",
  );

  /** Cuts flat ids at their lengths, as text. */
  function texts(codec: Codec, ids: Uint32Array | undefined, lengths: Uint32Array | undefined) {
    let end = 0;
    return Array.from(lengths ?? [], (length) => {
      end += length;
      return codec.tokenizer.decode(Array.from(ids?.subarray(end - length, end) ?? []));
    });
  }

  it("say whose answers are given and whose are to be written", async () => {
    const codec = await codecOf("chatml");
    const found = tokenise(set, codec, lengths);
    expect(found.prompts).toEqual(Uint8Array.of(0, 0, 1, 1));
    expect(texts(codec, found.ids, found.lengths).slice(0, 3)).toEqual(["The house", "Is it?", "Is it?"]);
    expect(texts(codec, found.answers, found.answerLengths)).toEqual(["", " yes<|im_end|>", "", ""]);
    expect(found).not.toHaveProperty("labelIds");
    expect(found).not.toHaveProperty("notes");
  });

  it("bring labels along for a comparison, in which a text is a prompt", async () => {
    const codec = await codecOf("chatml");
    const found = tokenise(set, codec, { ...lengths, labels: true });
    expect(found.prompts).toEqual(Uint8Array.of(1, 0, 1, 1));
    expect(texts(codec, found.labelIds, found.labelLengths)).toEqual([
      " yes<|im_end|>",
      " yes<|im_end|>",
      " no<|im_end|>",
      "1<|im_end|>",
    ]);
  });

  it("tell which side was cut", async () => {
    const codec = await codecOf("chatml");
    const { truncated, notes } = tokenise(set, codec, { ...lengths, maxLength: 8 });
    expect(truncated).toBeGreaterThan(0);
    expect(notes).toEqual([
      expect.stringContaining("lost their end (truncation_side of the tokenizer: right)"),
    ]);
  });
});

describe("a prompt of generate", () => {
  it("begins as every text does and ends where something is to follow", async () => {
    for (const { prompt, prompt_ids } of expectedOf("gemma").prompts) {
      expect(encodePrompt({ prompt }, await codecOf("gemma"), 8, place)).toEqual(prompt_ids);
    }
    const t5 = await codecOf("t5", { kind: "encoder-decoder" });
    expect(encodePrompt({ text: "Where?" }, t5, 8, place).at(-1)).toBe(1);
  });

  it("may be empty where the tokenizer begins texts with a token", async () => {
    const bos = (await codecOf("llama3")).tokenizer.idOf("<|begin_of_text|>");
    expect(encodePrompt({ prompt: "" }, await codecOf("llama3"), 8, place)).toEqual([bos]);
    const chatml = await codecOf("chatml");
    expect(() => encodePrompt({ prompt: "" }, chatml, 8, place)).toThrowError(invalid("becomes no tokens"));
  });

  it("leaves an answer out", async () => {
    const codec = await codecOf("mistral");
    const messages = [
      { role: "user", content: "Is it?" },
      { role: "assistant", content: "yes" },
    ];
    const alone = encodePrompt({ messages: messages.slice(0, 1) }, codec, 8, place);
    expect(encodePrompt({ messages }, codec, 8, place)).toEqual(alone);
  });

  it("is never cut", async () => {
    const codec = await codecOf("llama3", { maxLength: 12 });
    expect(() => encodePrompt({ prompt: "Where is the house?" }, codec, 8, place)).toThrowError(
      invalid("tokens; the model reads 12 with the 8 that are to be written. Shorten it."),
    );
    const t5 = await codecOf("t5", { kind: "encoder-decoder", maxLength: 4 });
    expect(() => encodePrompt({ prompt: "Where is the house?" }, t5, 8, place)).toThrowError(
      invalid("the model reads 4. Shorten it."),
    );
  });

  it("holds only tokens that the model knows", async () => {
    const codec = await codecOf("llama3", { vocabSize: 300 });
    expect(() => encodePrompt({ prompt: "Where?" }, codec, 8, place)).toThrowError(
      invalid("is outside the base model's vocabulary of 300"),
    );
  });
});
