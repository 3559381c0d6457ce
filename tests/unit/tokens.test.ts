import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { parseSamples } from "../../www/lib/samples/read.ts";
import { type Codec, loadCodec } from "../../www/lib/tokens/codec.ts";
import { resolveMaxLength, tokenise } from "../../www/lib/tokens/tokenise.ts";
import { loadTokenizer } from "../../www/lib/tokens/tokenizer.ts";
import { longestFirst } from "../../www/lib/tokens/truncate.ts";
import type { SourceFile } from "../../www/lib/wasm-interface.ts";
import { findMiniLm } from "../minilm.mjs";
import { emotionFolder, readIntegers, sourceFile } from "./fixtures.ts";

const miniLm = findMiniLm();
if (miniLm === null || emotionFolder === null) {
  console.warn(
    "Tokens are not compared with the oracle's: run node tests/minilm.mjs, and see ../shared/fixtures",
  );
}

function jsonFile(name: string, value: unknown): SourceFile {
  const blob = new Blob([JSON.stringify(value)]);
  return { name, size: blob.size, blob };
}

const vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "##s"];
/** A WordPiece tokenizer as BERT's, of eight tokens, with the truncation that MiniLM's file also carries. */
const tiny = {
  version: "1.0",
  truncation: { max_length: 3, strategy: "LongestFirst", stride: 0 },
  padding: { strategy: { Fixed: 3 }, direction: "Right", pad_id: 0, pad_type_id: 0, pad_token: "[PAD]" },
  added_tokens: ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map((content, id) => ({
    id,
    content,
    special: true,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  })),
  normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, lowercase: true },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: {
    type: "TemplateProcessing",
    single: [
      { SpecialToken: { id: "[CLS]", type_id: 0 } },
      { Sequence: { id: "A", type_id: 0 } },
      { SpecialToken: { id: "[SEP]", type_id: 0 } },
    ],
    pair: [
      { SpecialToken: { id: "[CLS]", type_id: 0 } },
      { Sequence: { id: "A", type_id: 0 } },
      { SpecialToken: { id: "[SEP]", type_id: 0 } },
      { Sequence: { id: "B", type_id: 1 } },
      { SpecialToken: { id: "[SEP]", type_id: 1 } },
    ],
    special_tokens: {},
  },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
  },
};

const tinyFiles = (config: object) => [
  jsonFile("tokenizer.json", tiny),
  jsonFile("tokenizer_config.json", config),
];
const tinyTokenizer = (config: object = {}) => loadTokenizer(tinyFiles(config));

const encoder = { kind: "encoder", maxLength: 512, vocabSize: 30522 } as const;
const tinyCodec = (config: object = {}, facts = {}) => loadCodec(tinyFiles(config), { ...encoder, ...facts });
const upTo = (maxLength: number) => ({ maxLength, maxNewTokens: 16, labels: false });

describe("a tokenizer", () => {
  it("keeps the special tokens around what it cuts", async () => {
    const { encode } = await tinyTokenizer();
    expect(encode({ text: "a b c as" }, 4)).toEqual({
      ids: [2, 4, 5, 3],
      typeIds: [0, 0, 0, 0],
      truncated: true,
      content: 2,
    });
  });

  it("does not apply the truncation and padding of tokenizer.json", async () => {
    const { encode } = await tinyTokenizer();
    expect(encode({ text: "A b c" }, 16)).toEqual({
      ids: [2, 4, 5, 6, 3],
      typeIds: [0, 0, 0, 0, 0],
      truncated: false,
      content: 3,
    });
  });

  it("cuts on the left where its configuration says so", async () => {
    const { encode } = await tinyTokenizer({ truncation_side: "left" });
    expect(encode({ text: "a b c" }, 4).ids).toEqual([2, 5, 6, 3]);
  });

  it("gives the second text of a pair its own segment", async () => {
    const { encode } = await tinyTokenizer();
    expect(encode({ text: "a as", text_pair: "c" }, 16)).toEqual({
      ids: [2, 4, 4, 7, 3, 6, 3],
      typeIds: [0, 0, 0, 0, 0, 1, 1],
      truncated: false,
      content: 4,
    });
  });

  it("stands for an unknown word with [UNK]", async () => {
    const { encode } = await tinyTokenizer();
    expect(encode({ text: "a zebra" }, 16).ids).toEqual([2, 4, 1, 3]);
  });

  it("takes 1e30 as no limit at all", async () => {
    expect((await tinyTokenizer({ model_max_length: 1e30 })).maxLength).toBeNull();
    expect((await tinyTokenizer({ model_max_length: 512 })).maxLength).toBe(512);
  });

  it("is missed by name", async () => {
    await expect(loadTokenizer([jsonFile("config.json", {})])).rejects.toMatchObject({
      code: "missing",
      message: expect.stringContaining("tokenizer.json"),
    });
  });

  it("that cannot be parsed or run is refused", async () => {
    const broken = { name: "tokenizer.json", size: 1, blob: new Blob(["{"]) };
    await expect(loadTokenizer([broken])).rejects.toMatchObject({ code: "config_invalid" });
    const unknown = jsonFile("tokenizer.json", { ...tiny, model: { type: "Telepathy" } });
    await expect(loadTokenizer([unknown])).rejects.toMatchObject({ code: "config_invalid" });
  });
});

describe("truncation of a pair", () => {
  // What `tokenizers` 0.23.3 (Python) keeps of two texts of these lengths with `longest_first`.
  it.each([
    [3, 4, 10, [3, 4]],
    [2, 20, 10, [2, 8]],
    [20, 2, 10, [8, 2]],
    [6, 9, 9, [4, 5]],
    [9, 6, 9, [5, 4]],
    [20, 20, 9, [4, 5]],
  ])("of %i and %i tokens to %i keeps %j", (a, b, room, kept) => {
    expect(longestFirst(a, b, room)).toEqual(kept);
  });
});

describe("tokenised samples", () => {
  const set = parseSamples(new TextEncoder().encode("a b c\na\n"), "texts.txt");

  it("are ragged, and tell how many were cut", async () => {
    expect(tokenise(set, await tinyCodec(), upTo(4))).toEqual({
      ids: Uint32Array.of(2, 4, 5, 3, 2, 4, 3),
      typeIds: new Uint32Array(7),
      lengths: Uint32Array.of(4, 3),
      truncated: 1,
      source: "texts.txt",
    });
  });

  it("need room beside the special tokens", async () => {
    const codec = await tinyCodec();
    expect(() => tokenise(set, codec, upTo(2))).toThrowError(
      expect.objectContaining({ code: "option_invalid" }),
    );
  });

  it("that the tokenizer leaves nothing of are refused by their line", async () => {
    const empty = parseSamples(new TextEncoder().encode("a\n\n\u200b\n"), "texts.txt");
    const codec = await tinyCodec();
    expect(() => tokenise(empty, codec, upTo(8))).toThrowError(
      expect.objectContaining({
        code: "samples_invalid",
        message: expect.stringContaining("texts.txt line 3: the text becomes no tokens"),
      }),
    );
  });

  it("with tokens that the model has no embedding for are refused by their line", async () => {
    const codec = await tinyCodec({}, { vocabSize: 6 });
    expect(() => tokenise(set, codec, upTo(8))).toThrowError(
      expect.objectContaining({
        code: "samples_invalid",
        message: expect.stringContaining(
          'texts.txt line 1: token 6 ("c") is outside the base model\'s vocabulary of 6',
        ),
      }),
    );
  });

  it.each([
    [{ prompt: "a" }, 'the base model is an encoder, which reads a "text"'],
    [{ messages: [{ role: "user", content: "a" }] }, 'the base model is an encoder, which reads a "text"'],
    [{ text: "a", target: "b" }, 'an encoder and writes no "target"; a class is a "label"'],
  ])("of an encoder are texts: %j", async (sample, message) => {
    const codec = await tinyCodec();
    const written = parseSamples(new TextEncoder().encode(JSON.stringify(sample)), "a.jsonl");
    expect(() => tokenise(written, codec, upTo(8))).toThrowError(
      expect.objectContaining({
        code: "samples_invalid",
        message: expect.stringContaining("a.jsonl line 1: the base model is an encoder"),
      }),
    );
    expect(() => tokenise(written, codec, upTo(8))).toThrowError(message);
  });

  it("are as long as tokenizer and model both allow, unless asked otherwise", async () => {
    const codec = await tinyCodec({ model_max_length: 128 });
    expect(resolveMaxLength(null, codec)).toBe(128);
    expect(resolveMaxLength(undefined, await tinyCodec({}, { maxLength: 64 }))).toBe(64);
    expect(resolveMaxLength(256, codec)).toBe(256);
    for (const asked of [513, 0, 1.5]) {
      expect(() => resolveMaxLength(asked, codec)).toThrowError(
        expect.objectContaining({ code: "option_invalid" }),
      );
    }
  });

  it("are at most 512 tokens long where nobody says otherwise, however much the model reads", async () => {
    const codec = await tinyCodec({ model_max_length: 1e30 }, { maxLength: 131072 });
    expect(resolveMaxLength(null, codec)).toBe(512);
    expect(resolveMaxLength(4096, codec)).toBe(4096);
  });
});

describe.skipIf(miniLm === null || emotionFolder === null)("MiniLM's tokenizer", () => {
  let codec: Codec;
  beforeAll(async () => {
    const names = ["tokenizer.json", "tokenizer_config.json"];
    codec = await loadCodec(
      names.map((name) => sourceFile(join(String(miniLm), name), name)),
      encoder,
    );
  });

  it.each(["emoint", "emotion-cause", "isear"])("gives the oracle's ids for every text of %s", (task) => {
    const name = `${task}.samples.txt`;
    const set = parseSamples(readFileSync(join(String(emotionFolder), name)), name);
    const { ids, lengths } = tokenise(set, codec, upTo(64));
    const expected = join(String(emotionFolder), `${task}.ids.safetensors`);
    const mask = readIntegers(expected, "attention_mask");
    const theirs = readIntegers(expected, "input_ids").map((row, i) =>
      row.filter((_, j) => mask[i]?.[j] === 1),
    );
    let end = 0;
    const ours = Array.from(lengths, (length) => {
      end += length;
      return Array.from(ids.subarray(end - length, end));
    });
    expect(ours).toHaveLength(50);
    expect(ours).toEqual(theirs);
  });
});
