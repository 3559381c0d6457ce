import { describe, expect, it } from "vitest";
import { factsOf } from "../../www/lib/samples/facts.ts";
import { parseSamples, readTexts } from "../../www/lib/samples/read.ts";
import { readSelf } from "../../www/lib/samples/self.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const parse = (text: string, name: string) => parseSamples(bytes(text), name).samples;
const failure = (message: string) =>
  expect.objectContaining({ code: "samples_invalid", message: expect.stringContaining(message) });

describe(".txt", () => {
  it("holds one sample a line, whatever ends the lines, and skips blank ones", () => {
    expect(parse("\uFEFFone\r\n\r\n two \rthree\n \t\n", "a.txt")).toEqual([
      { text: "one" },
      { text: " two " },
      { text: "three" },
    ]);
  });

  it("does not split at separators that occur inside texts", () => {
    expect(parse("one\u2028still one\n", "a.txt")).toEqual([{ text: "one\u2028still one" }]);
  });
});

describe(".jsonl", () => {
  it("holds a text or an object a line", () => {
    const text =
      '{"text": "one", "label": "joy", "id": 7}\n\n"two"\n{"text": "three", "text_pair": "3", "label": 2}';
    expect(parse(text, "a.jsonl")).toEqual([
      { text: "one", label: "joy" },
      { text: "two" },
      { text: "three", text_pair: "3", label: 2 },
    ]);
  });

  it("holds prompts with completions, texts with targets, and chats, mixed as they come", () => {
    const chat = [
      { role: "user", content: "Where?", name: "ignored" },
      { role: "assistant", content: "Here." },
    ];
    const lines = [
      { prompt: "Where?", completion: " Here." },
      { prompt: "Where?", completion: null, label: 3 },
      { text: "Translate: a", target: "b" },
      { messages: chat, label: "x" },
    ];
    expect(parse(lines.map((line) => JSON.stringify(line)).join("\n"), "a.jsonl")).toEqual([
      { prompt: "Where?", completion: " Here.", label: null },
      { prompt: "Where?", label: 3 },
      { text: "Translate: a", target: "b", label: null },
      { messages: chat.map(({ role, content }) => ({ role, content })), label: "x" },
    ]);
  });

  it.each([
    [
      '{"text": "a", "completion": "b"}',
      `"completion" does not go with "text"; beside "text" the answer is "target".`,
    ],
    ['{"prompt": "a", "target": "b"}', `"target" does not go with "prompt"; beside "prompt" the answer is`],
    [
      '{"prompt": "a", "text_pair": "b"}',
      `"text_pair" does not go with "prompt"; "text_pair" belongs to "text".`,
    ],
    ['{"messages": [], "completion": "b"}', "in a chat the answer is a last message of the assistant"],
    ['{"prompt": "a", "text": "b"}', 'it has both "text" and "prompt"; a sample is one of the two.'],
    ['{"prompt": [{"role": "user"}]}', `must be a text, not a list. A chat is given as "messages".`],
    ['{"prompt": "a", "completion": " "}', '"completion" is empty.'],
    ['{"messages": {}}', '"messages" must be a list, not an object.'],
    ['{"messages": []}', '"messages" is empty.'],
    ['{"messages": ["hello"]}', 'message 1 must be an object with "role" and "content".'],
    ['{"messages": [{"content": "a"}]}', 'message 1: "role" must be a text'],
    ['{"messages": [{"role": "user", "content": [1]}]}', 'message 1: "content" must be a text, not a list.'],
    ['{"messages": [{"role": "assistant", "content": "a"}]}', "the chat has only the assistant's answer"],
    [
      '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}',
      "the assistant's last message is empty",
    ],
  ])("refuses %s", (text, message) => {
    expect(() => parse(`\n${text}`, "a.jsonl")).toThrowError(failure(`a.jsonl line 2: `));
    expect(() => parse(text, "a.jsonl")).toThrowError(failure(message));
  });

  it.each([
    ['{"text": "a"}\n\n{"text": ', "emoint.jsonl line 3: not valid JSON"],
    [
      '{"text": "a"}\n{"sentence": "b"}',
      'emoint.jsonl line 2: one of "text", "prompt" and "messages" is needed; it has "sentence".',
    ],
    ['{"text": 5}', 'emoint.jsonl line 1: "text" must be a text, not a number.'],
    ['{"text": " "}', 'emoint.jsonl line 1: "text" is empty.'],
    ['{"text": "a", "label": 1.5}', 'emoint.jsonl line 1: "label" must be a name or an index'],
    ['{"text": "a", "label": true}', "not true"],
    ["[1]", "emoint.jsonl line 1: a sample must be a text or an object"],
  ])("names the malformed line of %j", (text, message) => {
    expect(() => parse(text, "emoint.jsonl")).toThrowError(failure(message));
  });
});

describe(".json", () => {
  it("holds a list, or an object with a list of samples", () => {
    const expected = [{ text: "one" }, { text: "two", label: "x" }];
    expect(parse('["one", {"text": "two", "label": "x"}]', "a.json")).toEqual(expected);
    expect(parse('{"samples": ["one", {"text": "two", "label": "x"}]}', "a.json")).toEqual(expected);
  });

  it("names the malformed item", () => {
    expect(() => parse('["one", 2]', "a.json")).toThrowError(failure("a.json item 2:"));
    expect(() => parse('{"texts": []}', "a.json")).toThrowError(failure("must be a list of samples"));
    expect(() => parse('["one",\n "two",\n oops]', "a.json")).toThrowError(failure("not valid JSON"));
  });
});

describe(".csv and .tsv", () => {
  it("are read by the columns of their header", () => {
    const table =
      '\uFEFFid,Text,label\r\n1,"one, ""quoted""",joy\r\n2,"two\r\nlines",\r\n\r\n3,three,fear\r\n';
    expect(parse(table, "a.csv")).toEqual([
      { text: 'one, "quoted"', label: "joy" },
      { text: "two\r\nlines", label: null },
      { text: "three", label: "fear" },
    ]);
    expect(parse("text\tlabel\n一、二\tx\n", "a.tsv")).toEqual([{ text: "一、二", label: "x" }]);
  });

  it("leave labels as they are written: an index among them is a text too", () => {
    expect(parse("text,label\na,1\nb,none\n", "a.csv").map(({ label }) => label)).toEqual(["1", "none"]);
  });

  it("read prompts and targets, spaces of an answer as they are, kinds mixed by empty cells", () => {
    const rows = "text,target,prompt,completion,label\na,b,,,\n,,c, d ,x\n,,e, ,\n";
    expect(parse(rows, "a.csv")).toEqual([
      { text: "a", target: "b", label: null },
      { prompt: "c", completion: " d ", label: "x" },
      { prompt: "e", label: null },
    ]);
  });

  it("read pairs", () => {
    expect(parse("text,text_pair\na,b\nc,\n", "a.csv")).toEqual([
      { text: "a", text_pair: "b", label: null },
      { text: "c", label: null },
    ]);
  });

  it.each([
    ["id,messages\n1,x\n", "a.csv line 1: chats do not fit into a table"],
    ["text,prompt,completion\nx,,y\n", `a.csv line 2: "completion" does not go with "text"; beside "text"`],
    ["prompt,completion\na,b\n,c\n", 'a.csv line 3: one of "text", "prompt" and "messages" is needed'],
    ['text,label\n"two\nlines",x\nb\n', "a.csv line 4: 1 columns where the first line has 2"],
    ['text,label\na,x\n"open,y\nz,z\n', "a.csv line 3: Quoted field unterminated"],
    ['text,label\n"a"b,x\n', "a.csv line 2: Trailing quote"],
    ["sentence,label\na,x\n", 'one of them "text" or "prompt"; it has "sentence", "label"'],
    ["text,text\na,b\n", 'the column "text" occurs twice'],
    ["text,label\na,x\n,y\n", "a.csv line 3:"],
  ])("name the malformed line of %j", (table, message) => {
    expect(() => parse(table, "a.csv")).toThrowError(failure(message));
  });
});

describe("a file of samples", () => {
  it.each(["a.txt", "a.jsonl", "a.csv", "a.tsv"])("that is empty is refused: %s", (name) => {
    expect(() => parse("\n\n", name)).toThrowError(failure(`${name}`));
    expect(() => parse("", name)).toThrowError(failure(`${name}: holds no samples.`));
  });

  it("with a header and no rows is refused", () => {
    expect(() => parse("text,label\n", "a.csv")).toThrowError(failure("a.csv: holds no samples."));
    expect(() => parse("[]", "a.json")).toThrowError(failure("a.json: holds no samples."));
  });

  it("that is not UTF-8 is refused with the line where it stops being so", () => {
    const latin1 = Uint8Array.from([...bytes("good\nf"), 0xfc, ...bytes("r\n")]);
    expect(() => parseSamples(latin1, "a.txt")).toThrowError(failure("a.txt line 2: not valid UTF-8"));
    const utf16 = Uint8Array.of(0xff, 0xfe, 0x61, 0x00);
    expect(() => parseSamples(utf16, "a.txt")).toThrowError(failure("a.txt line 1: not valid UTF-8"));
  });

  it("of another kind is refused", () => {
    expect(() => parse("x", "a.docx")).toThrowError(failure("a.docx"));
  });

  it("without a name goes by its media type", () => {
    expect(parseSamples(bytes('["one"]'), null, "application/json; charset=utf-8").format).toBe("json");
    expect(parseSamples(bytes("one"), null, "").format).toBe("txt");
  });
});

describe("samples given directly", () => {
  it("are checked like a file's", async () => {
    const set = await readTexts({ list: ["one", { text: "two", label: 1 }] });
    expect(set).toEqual({
      name: null,
      format: "list",
      samples: [{ text: "one" }, { text: "two", label: 1 }],
      places: [
        { file: "samples", item: 1 },
        { file: "samples", item: 2 },
      ],
    });
    await expect(readTexts({ list: [] })).rejects.toMatchObject({ code: "samples_invalid" });
    await expect(readTexts({ list: ["one", ""] })).rejects.toEqual(failure("samples item 2"));
  });
});

describe("facts of samples", () => {
  it("tell counts, labels and the first texts", () => {
    const set = parseSamples(bytes("text,label,text_pair\na,x,bb\nb,,\nc,y,\nd,x,\n"), "a.csv");
    expect(factsOf(set)).toEqual({
      name: "a.csv",
      format: "csv",
      count: 4,
      labelled: 3,
      labels: ["x", "y"],
      pairs: 1,
      kinds: { text: 4, prompt: 0, messages: 0 },
      answers: 0,
      longestCharacters: 3,
      preview: ["a", "b", "c"],
    });
  });
});

describe("facts of prompts and chats", () => {
  it("tell kinds and answers, and what was asked", () => {
    const lines = [
      { prompt: "abc", completion: "de" },
      { prompt: "abc" },
      {
        messages: [
          { role: "system", content: "s" },
          { role: "user", content: "asked" },
          { role: "assistant", content: "said" },
        ],
      },
      { text: "in", target: "out" },
    ];
    const set = parseSamples(bytes(JSON.stringify(lines)), "a.json");
    expect(set.places[2]).toEqual({ file: "a.json", item: 3 });
    expect(factsOf(set)).toMatchObject({
      count: 4,
      kinds: { text: 1, prompt: 2, messages: 1 },
      answers: 3,
      longestCharacters: 10,
      preview: ["abc", "abc", "asked"],
    });
  });
});

describe("self-written samples", () => {
  it("have defaults, as one word or as options", () => {
    const self = { count: 32, prompt: null, seed: 0, temperature: 1, topP: 1, maxNewTokens: null };
    expect(readSelf("self")).toEqual({ self });
    expect(readSelf({ self: true })).toEqual({ self });
    expect(readSelf({ self: { count: 4, prompt: "A review:" } })).toEqual({
      self: { ...self, count: 4, prompt: "A review:" },
    });
  });

  it.each([
    [{ count: 0 }, "count must be a whole number from 1 on, not 0."],
    [{ seed: -1 }, "seed must be a whole number from 0 on"],
    [{ temperature: 0 }, "At temperature 0 all self-written samples would be the same."],
    [{ temperature: Number.NaN }, "temperature must be 0 or more"],
    [{ topP: 1.5 }, "topP must be above 0 and at most 1"],
    [{ maxNewTokens: 1.5 }, "maxNewTokens must be a whole number from 1 on"],
  ])("refuse %j", (options, message) => {
    expect(() => readSelf({ self: options })).toThrowError(
      expect.objectContaining({ code: "option_invalid", message: expect.stringContaining(message) }),
    );
  });
});
