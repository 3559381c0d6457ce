/** Captions, classes and pictures on their way to the core, and what it says of pictures on its way back. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { classesOf } from "../../www/lib/samples/classes.ts";
import { arePictures } from "../../www/lib/samples/pictures.ts";
import { saysTheSame } from "../../www/lib/samples/said.ts";
import { givenCaptions, readCaptions } from "../../www/lib/tokens/captions.ts";
import { loadCodec } from "../../www/lib/tokens/codec.ts";
import type { BaseFacts, CompareReport, GenerateRequest, SaidOfPicture } from "../../www/lib/types.ts";
import type { AdapterSource, GenerateSource, PictureSamples } from "../../www/lib/wasm-interface.ts";
import { WorkerClient } from "../../www/lib/worker/client.ts";
import { saidTable } from "../../www/node/cli/said.ts";
import { OpenFiles } from "../../www/node/files.ts";
import {
  captioner,
  decoder,
  type FakeBehaviour,
  pairEncoder,
  type Seen,
  tinyBase,
  tinyCaptioner,
} from "./fake-wasm.ts";
import { imagesFolder, readIntegers, sourceFile } from "./fixtures.ts";
import { LocalWorker, startNoHelper } from "./local-worker.ts";

let behaviour: FakeBehaviour;
let seen: Seen[];
let calls: NonNullable<FakeBehaviour["compared"]>;
let client: WorkerClient;

beforeEach(() => {
  seen = [];
  calls = [];
  behaviour = { seen, compared: calls, facts: captioner };
  client = new WorkerClient(() => new LocalWorker(behaviour, () => null), startNoHelper);
});

const failure = (code: string, message: string) =>
  expect.objectContaining({ code, message: expect.stringContaining(message) });

/** Pictures with a line of metadata each. */
function pictures(...lines: { text?: string; label?: string | number }[]) {
  const names = lines.map((_, i) => `${i}.png`);
  const metadata = lines.map((line, i) => JSON.stringify({ file_name: names[i], ...line })).join("\n");
  return {
    pictures: [
      ...names.map((name) => ({ name, blob: new Blob([name]) })),
      { name: "metadata.jsonl", blob: new Blob([metadata]) },
    ],
  };
}

const picturesOf = (adapter: AdapterSource | undefined) => adapter?.samples as PictureSamples;
const numbers = (values: Uint32Array | Uint8Array | undefined) => values && [...values];

async function merged(samples: ReturnType<typeof pictures>) {
  await client.merge({
    base: tinyCaptioner(),
    adapters: [{ name: "one", files: [], samples }],
    device: "cpu",
  });
  return picturesOf(seen.at(-1)?.adapters[0]);
}

async function compared(
  samples: ReturnType<typeof pictures>,
  more: { labels?: string[]; maxLength?: number } = {},
) {
  const { labels, maxLength } = more;
  const { report } = await client.compare({
    base: tinyCaptioner(),
    adapters: [{ name: "one", files: [], samples }],
    merged: [],
    device: "cpu",
    ...(labels === undefined ? {} : { labels }),
    ...(maxLength === undefined ? {} : { options: { maxLength } }),
  });
  const call = calls.at(-1);
  return { report, samples: picturesOf(call?.adapters[0]), labels: call?.options?.labels };
}

describe("captions that a model writes", () => {
  it("are handed over without the token that begins texts and with the one that ends them", async () => {
    const samples = await merged(pictures({ text: "a red cat" }, {}, { text: "dog" }));
    expect(numbers(samples.answers)).toEqual([5, 8, 6, 3, 7, 3]);
    expect(numbers(samples.answerLengths)).toEqual([4, 0, 2]);
    expect(numbers(samples.prompts)).toEqual([0, 1, 0]);
    expect(samples).not.toHaveProperty("labelIds");
    expect(samples.notes).toEqual([]);
    expect(samples.pictures.map(({ name }) => name)).toEqual(["0.png", "1.png", "2.png"]);
  });

  it("are what is right in a comparison, or else the name of the class is", async () => {
    const { samples } = await compared(
      pictures({ text: "a cat", label: "dog" }, { label: "dog" }, { label: 1 }),
    );
    expect(numbers(samples.labelIds)).toEqual([5, 6, 3, 7, 3]);
    expect(numbers(samples.labelLengths)).toEqual([3, 2, 0]);
    expect(numbers(samples.prompts)).toEqual([0, 1, 1]);
    expect(samples.labels).toEqual(["dog", "dog", 1]);
  });

  it("need no tokenizer where there are none", async () => {
    const samples = pictures({}, {});
    const base = [{ name: "config.json", blob: new Blob(["{}"]) }];
    await client.merge({ base, adapters: [{ name: "one", files: [], samples }], device: "cpu" });
    expect(numbers(picturesOf(seen[0]?.adapters[0]).prompts)).toEqual([1, 1]);
    expect(numbers(picturesOf(seen[0]?.adapters[0]).answerLengths)).toEqual([0, 0]);
  });

  it("are refused by the picture's name where they are too long, or nothing", async () => {
    const long = pictures({ text: "a cat" }, { text: Array(16).fill("a").join(" ") });
    await expect(merged(long)).rejects.toThrowError(
      failure("samples_invalid", "1.png: the answer has 17 tokens where maxLength 16 leaves room for 16"),
    );
  });

  it("are not asked of adapters without pictures, nor texts taken for them", async () => {
    const one = (samples: "self" | string[]) =>
      client.merge({ base: tinyCaptioner(), adapters: [{ name: "one", files: [], samples }], device: "cpu" });
    await expect(one("self")).rejects.toThrowError(
      failure("samples_invalid", "give pictures without captions, and the adapter writes those, for: one"),
    );
    await expect(one(["a cat"])).rejects.toThrowError(
      failure("samples_invalid", "the samples are texts; give pictures for: one"),
    );
  });
});

describe("captions that a model encodes", () => {
  beforeEach(() => {
    behaviour.facts = pairEncoder;
  });

  it("are whole texts, cut to what the model reads; a picture without one has no tokens", async () => {
    const samples = await merged(pictures({ text: "a cat" }, {}, { text: "a red cat on a mat" }));
    expect(numbers(samples.ids)).toEqual([2, 5, 6, 3, 2, 5, 8, 6, 3]);
    expect(numbers(samples.lengths)).toEqual([4, 0, 5]);
    expect(samples.truncated).toBe(1);
    expect(samples).not.toHaveProperty("answers");
    expect(samples.notes).toEqual([]);
    expect(numbers((await merged(pictures({}, {}))).lengths)).toEqual([0, 0]);
  });

  it("are not read by a model of pictures alone, which says so", async () => {
    behaviour.facts = { ...pairEncoder, kind: "image-encoder" };
    const samples = await merged(pictures({ text: "a cat" }));
    expect(samples).not.toHaveProperty("ids");
    expect(samples.notes).toEqual(["the model reads no captions: those of 1 pictures are not read"]);
  });
});

describe("the classes that a comparison chooses from", () => {
  beforeEach(() => {
    behaviour.facts = pairEncoder;
  });
  const labelled = pictures({ text: "a mat", label: "cat" }, { text: "on", label: "dog" }, { label: "cat" });

  it("are those that are named, as texts with their special tokens", async () => {
    const { labels, report } = await compared(labelled, { labels: ["a red cat", " dog "] });
    expect(labels?.texts).toEqual(["a red cat", "dog"]);
    expect(numbers(labels?.ids)).toEqual([2, 5, 8, 6, 3, 2, 7, 3]);
    expect(numbers(labels?.lengths)).toEqual([5, 3]);
    expect(report.notes).toEqual([]);
  });

  it("are else the labels of the pictures, else their captions, which the report tells", async () => {
    const first = await compared(labelled);
    expect(first.labels?.texts).toEqual(["cat", "dog"]);
    expect(first.report.notes).toEqual(["classes to choose from: the 2 labels of the pictures"]);
    const second = await compared(
      pictures({ text: "a cat" }, { text: "a dog", label: 1 }, { text: "a cat" }),
    );
    expect(second.labels?.texts).toEqual(["a cat", "a dog"]);
    // What is right is a picture's own caption then.
    expect(second.samples.labels).toEqual(["a cat", "a dog", "a cat"]);
    expect(first.samples.labels).toEqual(["cat", "dog", "cat"]);
    expect((await compared(pictures({ text: "a cat" }, {}))).labels).toBeUndefined();
  });

  it("are at most a hundred captions", () => {
    const set = (count: number) => ({
      ...{ name: null, others: [], notes: [] },
      pictures: Array.from({ length: count }, (_, i) => ({
        ...{ file: { name: `${i}`, size: 0 }, caption: `picture ${i}`, label: null },
      })),
    });
    expect(classesOf(undefined, [set(60), set(130)])?.texts).toHaveLength(100);
    expect(classesOf(undefined, [set(60), set(130)])?.note).toContain("the first 100 of 130 captions");
  });

  it.each([
    [["cat"], "at least two"],
    [["cat", "cat "], "names a class twice; leave one of them: cat"],
    [["cat", " "], "labels item 2 must be a text that is not empty"],
  ])("are refused where they are %j", async (labels, message) => {
    await expect(compared(labelled, { labels })).rejects.toThrowError(failure("option_invalid", message));
  });

  it("are refused for a model that chooses from none", async () => {
    behaviour.facts = captioner;
    await expect(compared(labelled, { labels: ["cat", "dog"] })).rejects.toThrowError(
      failure("option_invalid", "this base model is one of kind image-to-text. Leave them out."),
    );
  });
});

describe("what variants say of pictures", () => {
  it("is told as texts, with the pictures' names, captions and labels", async () => {
    behaviour.said = [
      { sample: 0, variants: [{ variant: "base", ids: [4, 5, 6, 3] }] },
      { sample: 2, variants: [{ variant: "adapter", ids: Uint32Array.of(7, 3, 0) }] },
    ];
    const { report } = await compared(pictures({ text: "a cat", label: 3 }, {}, { label: "dog" }));
    expect(report.tasks[0]?.said).toEqual([
      { picture: "0.png", label: 3, caption: "a cat", variants: [{ variant: "base", text: "a cat" }] },
      { picture: "2.png", label: "dog", variants: [{ variant: "adapter", text: "dog" }] },
    ]);
  });

  it("is told as classes with their shares", async () => {
    behaviour.facts = pairEncoder;
    const classes = [
      { label: "cat", share: 0.75 },
      { label: "dog", share: 0.25 },
    ];
    behaviour.said = [{ sample: 1, variants: [{ variant: "base", ids: null, classes }] }];
    const { report } = await compared(pictures({ text: "a cat" }, {}));
    expect(report.tasks[0]?.said).toEqual([{ picture: "1.png", variants: [{ variant: "base", classes }] }]);
  });

  const said: SaidOfPicture = {
    picture: "0.png",
    caption: "a cat",
    variants: [
      { variant: "base", text: "a dog" },
      { variant: "adapter", text: "a red\ncat" },
      { variant: "iteris", text: "a red\ncat" },
    ],
  };

  it("is held against the task's own adapter", () => {
    expect(["base", "iteris", "absent"].map((variant) => saysTheSame(said, variant))).toEqual([
      false,
      true,
      null,
    ]);
    const classes = (...labels: string[]) =>
      labels.map((label, i) => ({ label, share: i === 0 ? 0.6 : 0.2 }));
    const shown: SaidOfPicture = {
      picture: "0.png",
      variants: [
        { variant: "base", classes: classes("dog", "cat") },
        { variant: "adapter", classes: classes("cat", "dog") },
        { variant: "iteris", classes: classes("cat", "mat") },
      ],
    };
    expect(["base", "iteris"].map((variant) => saysTheSame(shown, variant))).toEqual([false, true]);
  });

  it("is printed side by side, and counted", () => {
    const report = { tasks: [{ task: "cats", said: [said] }, { task: "texts" }] } as unknown as CompareReport;
    expect(saidTable(report)).toBe(
      [
        "",
        "what each says of the pictures of cats",
        "0.png (a cat)",
        "    base     a dog",
        "    adapter  a red cat",
        "  = iteris   a red cat",
        "= says what the task's own adapter says; of 1 pictures: base 0, iteris 1",
        "",
      ].join("\n"),
    );
  });
});

describe("pictures that captions are asked for", () => {
  let asked: GenerateSource[];
  beforeEach(() => {
    asked = [];
    behaviour.generated = asked;
  });
  const blob = (text: string) => new Blob([text]);
  const ask = (more: Partial<GenerateRequest>) =>
    client.generate({ base: tinyCaptioner(), device: "cpu", maxNewTokens: 4, ...more });

  it("go to the core by name and come back in order, each with how its caption begins", async () => {
    const { images, prompts, variants } = await ask({
      image: [
        new File(["x"], "cat.png"),
        blob("yy"),
        { name: "dog.png", blob: blob("zzz") },
        new File(["four"], "cat.png"),
      ],
      prompts: ["a", "", "a red", "on"],
    });
    expect(images).toEqual(["cat.png", "picture 2", "dog.png", "cat.png"]);
    expect(prompts.map((sample) => "prompt" in sample && sample.prompt)).toEqual(["a", "", "a red", "on"]);
    // The core takes them by name.
    expect(asked[0]?.images?.map(({ name, size }) => [name, size])).toEqual([
      ["cat.png", 1],
      ["cat.png (2)", 4],
      ["dog.png", 3],
      ["picture 2", 2],
    ]);
    expect(numbers(asked[0]?.prompts.ids)).toEqual([5, 9, 5, 8]);
    expect(numbers(asked[0]?.prompts.lengths)).toEqual([1, 1, 2, 0]);
    // Of the first it wrote three tokens and an end, of the others one and none; these come back in the caller's order.
    expect(variants[0]?.finished).toEqual([true, false, false, false]);
    expect(variants[0]?.texts).toHaveLength(4);
    const { variants: other } = await ask({
      image: [new File(["x"], "b.png"), new File(["y"], "a.png")],
    });
    expect(other[0]?.finished).toEqual([false, true]);
  });

  it("get captions as long as the model has positions for, which a note says", async () => {
    const { notes } = await ask({ image: [blob("x"), blob("y")], prompts: ["a", "a cat"], maxNewTokens: 40 });
    expect(asked[0]?.options.maxNewTokens).toBe(13);
    expect(notes).toEqual(["captions have at most 13 tokens: the model reads no more"]);
    expect((await ask({ image: blob("x"), maxNewTokens: 15 })).notes).toEqual([]);
    expect(asked[1]?.options.maxNewTokens).toBe(15);
  });

  it("share one beginning, or have none", async () => {
    await ask({ image: [blob("x"), blob("y")], prompts: "a cat" });
    expect(numbers(asked[0]?.prompts.ids)).toEqual([5, 6, 5, 6]);
    await ask({ image: blob("x") });
    expect(numbers(asked[1]?.prompts.lengths)).toEqual([0]);
  });

  it.each<[string, Partial<GenerateRequest>, string, string]>([
    ["none", { image: [] }, "option_invalid", "image holds no picture"],
    [
      "other prompts than pictures",
      { image: [new Blob(), new Blob(), new Blob()], prompts: ["a", "b"] },
      "option_invalid",
      "There are 2 prompts for 3 pictures; give one for all, one for each, or none.",
    ],
    [
      "chats",
      { image: new Blob(), messages: [{ role: "user", content: "a" }] },
      "option_invalid",
      "neither messages nor samples",
    ],
    [
      "a beginning without room",
      { image: new Blob(), prompts: Array(15).fill("a").join(" ") },
      "samples_invalid",
      "prompts item 1: the beginning of the caption has 15 tokens, and the model reads 16",
    ],
    ["texts instead", { prompts: "a" }, "samples_invalid", "give the pictures as image (--image)"],
  ])("are refused where there are %s", async (_, more, code, message) => {
    await expect(ask(more)).rejects.toThrowError(failure(code, message));
  });

  it("are refused by a model that reads texts", async () => {
    behaviour.facts = decoder;
    const request = { base: tinyBase(), image: new File(["x"], "cat.png"), device: "cpu" as const };
    await expect(client.generate(request)).rejects.toThrowError(
      failure("samples_invalid", "and leave image (--image) out: cat.png"),
    );
  });
});

describe("pictures by path", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "iteris-images-"));
    mkdirSync(join(folder, "more"));
    for (const name of ["b.png", "a.jpg", "notes.txt", "more/c.png"]) writeFileSync(join(folder, name), "");
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it.each([
    [["."], ["a.jpg", "b.png", "more/c.png"]],
    [
      ["b.png", "a.jpg"],
      ["b.png", "a.jpg"],
    ],
    [
      ["*.png", "more"],
      ["b.png", "c.png"],
    ],
    [["notes.txt"], ["notes.txt"]],
  ])("may be files, folders and patterns: %j", async (paths, names) => {
    const files = await new OpenFiles().images(paths.map((path) => join(folder, path)));
    expect(files.map(({ name }) => name)).toEqual(names);
  });

  it("are refused where there are none, or no such file", async () => {
    mkdirSync(join(folder, "empty"));
    await expect(new OpenFiles().images(join(folder, "empty"))).rejects.toMatchObject({
      code: "option_invalid",
    });
    await expect(new OpenFiles().images(join(folder, "x.png"))).rejects.toMatchObject({
      code: "read_failed",
    });
    await expect(new OpenFiles().images(join(folder, "*.gif"))).rejects.toMatchObject({
      code: "read_failed",
    });
  });
});

describe.skipIf(imagesFolder === null)("captions of the fixtures", () => {
  const folder = imagesFolder ?? "";

  /** The captions of a task as the core would get them. */
  async function captionsOf(model: "clip" | "blip", task: string) {
    const files = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
      .filter((name) => existsSync(join(folder, model, "base", name)))
      .map((name) => sourceFile(join(folder, model, "base", name), name));
    const facts = { clip: pairEncoder, blip: captioner }[model];
    const codec = await loadCodec(files, { ...(facts as BaseFacts), maxLength: 64, vocabSize: 1e6 });
    const set = await new OpenFiles().samples(join(folder, model, `${task}.samples`));
    if (!arePictures(set)) throw new Error("these are texts");
    return { set, codec };
  }

  /** The rows of the oracle without their padding. */
  function oracle(model: "clip" | "blip", tensor: string, task: string): number[][] {
    const golden = join(folder, model, "golden.safetensors");
    const masks = readIntegers(golden, `${task}.attention_mask`);
    return readIntegers(golden, `${task}.${tensor}`).map((row, i) =>
      row.filter((_, at) => masks[i]?.[at] === 1),
    );
  }

  const split = (ids: Uint32Array | undefined, lengths: Uint32Array | undefined) => {
    let start = 0;
    return Array.from(lengths ?? [], (length) => {
      start += length;
      return Array.from(ids?.subarray(start - length, start) ?? []);
    });
  };

  it.each(["a", "b"])("are CLIP's token ids: %s", async (task) => {
    const { set, codec } = await captionsOf("clip", task);
    const { ids, lengths } = readCaptions(set, codec, { maxLength: 64 });
    expect(split(ids, lengths)).toEqual(oracle("clip", "input_ids", task));
  });

  it("are BLIP's token ids, a place to the left, with the last one", async () => {
    const { set, codec } = await captionsOf("blip", "b");
    const lengths = { maxLength: 64, maxNewTokens: 12, labels: false };
    const given = givenCaptions(set, codec, lengths);
    const read = oracle("blip", "decoder_input_ids", "b").map((row) => [...row.slice(1), 3]);
    expect(split(given.answers, given.answerLengths)).toEqual(read);
  });
});
