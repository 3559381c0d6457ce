/** Pictures with what stands beside them: captions, classes, tables. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { factsOf } from "../../www/lib/samples/facts.ts";
import { openSamples } from "../../www/lib/samples/open.ts";
import { arePictures, type PictureSet, unreadNotes } from "../../www/lib/samples/pictures.ts";
import { readAll } from "../../www/lib/sources/open.ts";
import { OpenFiles } from "../../www/node/files.ts";
import { depthOfGlob, folderOfGlob, matcherOf } from "../../www/node/glob.ts";

type Contents = Record<string, string | Uint8Array<ArrayBuffer>>;

async function open(contents: Contents): Promise<PictureSet> {
  const pictures = Object.entries(contents).map(([name, content]) => ({ name, blob: new Blob([content]) }));
  const set = await openSamples({ pictures, name: "animals" });
  if (!arePictures(set)) throw new Error("these are texts");
  return set;
}

/** Name, caption and label of each picture. */
const told = ({ pictures }: PictureSet) =>
  pictures.map(({ file, caption, label }) => [file.name, caption, label]);

const failure = (message: string) =>
  expect.objectContaining({ code: "samples_invalid", message: expect.stringContaining(message) });

const two = { "a.png": "", "b.jpg": "" };
const parquet = (name: string) =>
  new Uint8Array(readFileSync(new URL(`pictures/${name}`, import.meta.url))) as Uint8Array<ArrayBuffer>;

describe("metadata.jsonl", () => {
  it("gives captions and labels by the names of pictures, from the folder that it is in", async () => {
    const set = await open({
      "one/a.png": "",
      "one/metadata.jsonl": '{"file_name": "./a.png", "text": "a cat", "label": 0}\n',
      "two/b.webp": "",
      "two/deep/c.gif": "",
      "two/metadata.jsonl":
        '\n{"file_name": "deep/c.gif", "caption": "a dog", "label": "dog", "bbox": [1]}\n{"file_name": "b.webp"}',
    });
    expect(told(set)).toEqual([
      ["one/a.png", "a cat", 0],
      ["two/b.webp", null, null],
      ["two/deep/c.gif", "a dog", "dog"],
    ]);
    expect(set.notes).toEqual(["columns of two/metadata.jsonl that are not read: bbox"]);
    expect(unreadNotes(set, { readsCaptions: false })).toEqual([
      "columns of two/metadata.jsonl that are not read: bbox",
      "the model reads no captions: those of 2 pictures are not read",
    ]);
    expect(unreadNotes(set, { readsCaptions: true })).toEqual([
      "columns of two/metadata.jsonl that are not read: bbox",
    ]);
  });

  it("leaves pictures that it does not name, and says so", async () => {
    const set = await open({ ...two, "metadata.jsonl": '{"file_name": "b.jpg", "text": "a cat"}' });
    expect(told(set)).toEqual([
      ["a.png", null, null],
      ["b.jpg", "a cat", null],
    ]);
    expect(set.notes).toEqual(["pictures that no metadata names: a.png"]);
  });

  it.each([
    [
      '{"file_name": "a.png"}\n{"file_name": "c.png"}',
      "metadata.jsonl line 2: the picture that it names is not there: c.png",
    ],
    ['{"file_name": "a.png"}\n\n{"file_name": ', "metadata.jsonl line 3: not valid JSON"],
    [
      '{"file_name": "a.png"}\n{"file_name": "b.jpg"}\n{"file_name": "a.png"}',
      "metadata.jsonl line 3: metadata.jsonl line 1 already names this picture: a.png",
    ],
    ['{"text": "a cat"}', 'metadata.jsonl line 1: "file_name" is missing'],
    ['["a.png"]', 'metadata.jsonl line 1: it must be an object with "file_name", not a list.'],
    ['{"file_name": "a.png", "text": 5}', 'metadata.jsonl line 1: "text" must be a text, not a number.'],
    ['{"file_name": "a.png", "text": " "}', 'metadata.jsonl line 1: "text" is empty.'],
    [
      '{"file_name": "a.png", "text": "a", "caption": "b"}',
      'metadata.jsonl line 1: it has both "text" and "caption"',
    ],
    ['{"file_name": "a.png", "label": 1.5}', 'metadata.jsonl line 1: "label" must be a name or an index'],
  ])("names the line of %j", async (text, message) => {
    await expect(open({ ...two, "metadata.jsonl": text })).rejects.toThrowError(failure(message));
  });

  it("in another encoding is refused with its line", async () => {
    const bytes = new Uint8Array([...new TextEncoder().encode('{"file_name": "a.png"}\n{"text": "'), 0xe9]);
    await expect(open({ ...two, "metadata.jsonl": bytes })).rejects.toThrowError(
      failure("metadata.jsonl line 2: not valid UTF-8"),
    );
  });
});

describe("metadata.csv", () => {
  it("says the same in columns", async () => {
    const table = 'file_name,text,label,id\r\nb.jpg,"a dog,\r\nasleep",dog,7\r\na.png,,cat,8\r\n';
    const set = await open({ ...two, "metadata.csv": table });
    expect(told(set)).toEqual([
      ["a.png", null, "cat"],
      ["b.jpg", "a dog,\r\nasleep", "dog"],
    ]);
    expect(set.notes).toEqual(["columns of metadata.csv that are not read: id"]);
  });

  it.each([
    [
      "file_name,text\na.png,x\nc.png,y\n",
      "metadata.csv line 3: the picture that it names is not there: c.png",
    ],
    [
      'file_name,text\na.png,"x\ny"\na.png,z\n',
      "metadata.csv line 4: metadata.csv line 2 already names this picture",
    ],
    ["file_name,text\na.png\n", "metadata.csv line 2: 1 columns where the first line has 2"],
    ["name,text\na.png,x\n", 'metadata.csv line 2: "file_name" is missing'],
    ["file_name,file_name\na.png,a.png\n", 'metadata.csv line 1: the column "file_name" occurs twice.'],
  ])("names the line of %j", async (text, message) => {
    await expect(open({ ...two, "metadata.csv": text })).rejects.toThrowError(failure(message));
  });
});

describe("folders", () => {
  it("are classes where there are several, all as deep", async () => {
    expect(told(await open({ "train/dog/1.png": "", "train/cat/1.png": "", "train/cat/2.png": "" }))).toEqual(
      [
        ["train/cat/1.png", null, "cat"],
        ["train/cat/2.png", null, "cat"],
        ["train/dog/1.png", null, "dog"],
      ],
    );
  });

  it.each([
    ["of one name", { "images/1.png": "", "images/2.png": "" }],
    ["of several depths", { "cat/1.png": "", "2.png": "", "dog/3.png": "" }],
    ["with metadata", { "cat/1.png": "", "dog/1.png": "", "metadata.jsonl": '{"file_name": "cat/1.png"}' }],
  ])("%s are none", async (_, contents) => {
    expect((await open(contents as Contents)).pictures.map(({ label }) => label)).not.toContain("cat");
  });
});

describe("a text beside a picture", () => {
  it("is its caption; another text is named in a note", async () => {
    const set = await open({ "x/a.b.png": "", "x/a.b.txt": " a cat\n", "y/c.png": "", "y/notes.txt": "?" });
    expect(told(set)).toEqual([
      ["x/a.b.png", "a cat", "x"],
      ["y/c.png", null, "y"],
    ]);
    expect(unreadNotes(set, { readsCaptions: false })).toEqual([
      "files beside the pictures are not read: y/notes.txt",
      "the model reads no captions: those of 1 pictures are not read",
    ]);
  });

  it("is refused where it is empty, no text, or says what the metadata says otherwise", async () => {
    await expect(open({ ...two, "a.txt": " \n" })).rejects.toThrowError(
      failure("a.txt: the caption is empty: a.png"),
    );
    await expect(open({ ...two, "a.txt": new Uint8Array([0x61, 0x0a, 0xff]) })).rejects.toThrowError(
      failure("a.txt line 2: not valid UTF-8"),
    );
    await expect(
      open({ ...two, "a.txt": "a cat", "metadata.jsonl": '{"file_name": "a.png", "text": "a dog"}' }),
    ).rejects.toThrowError(failure("a.txt: its picture has a caption in the metadata too"));
  });
});

describe(".parquet", () => {
  it("holds pictures with captions and the names of their classes, in the order of its rows", async () => {
    const set = await open({ "train.parquet": parquet("train.parquet") });
    expect(told(set)).toEqual(
      Array.from({ length: 12 }, (_, i) => [
        `train.parquet item ${String(i + 1).padStart(2, "0")}`,
        i % 3 === 2 ? null : `picture ${i}`,
        ["cat", "dog", null][i % 3],
      ]),
    );
    expect(set.notes).toEqual(["columns of train.parquet that are not read: id"]);
    const files = await Promise.all(set.pictures.map(({ file }) => readAll(file)));
    expect(new Set(files.map((bytes) => String(bytes))).size).toBe(12);
    for (const [i, bytes] of files.entries()) {
      expect(bytes.subarray(1, 4)).toEqual(new TextEncoder().encode("PNG"));
      expect(bytes.length).toBe(set.pictures[i]?.file.size);
    }
  });

  it("is read as the one file that is given, and among pictures", async () => {
    const blob = new Blob([parquet("train.parquet")]);
    const alone = await openSamples({ name: "train.parquet", blob });
    expect(factsOf(alone)).toMatchObject({
      name: "train.parquet",
      format: "pictures",
      count: 12,
      labelled: 8,
      labels: ["cat", "dog"],
      answers: 8,
      preview: [
        "train.parquet item 01: picture 0",
        "train.parquet item 02: picture 1",
        "train.parquet item 03",
      ],
      pictures: Array.from({ length: 12 }, (_, i) => ({
        name: `train.parquet item ${String(i + 1).padStart(2, "0")}`,
        caption: i % 3 === 2 ? null : `picture ${i}`,
        label: ["cat", "dog", null][i % 3],
        blob: expect.any(Blob),
      })),
    });
    expect((await open({ "train.parquet": parquet("train.parquet"), "z.png": "" })).pictures).toHaveLength(
      13,
    );
  });

  it("is refused by name where it is cut, packed otherwise, or has no pictures in it", async () => {
    const refused = (bytes: Uint8Array<ArrayBuffer>, message: string) =>
      expect(open({ "x.parquet": bytes })).rejects.toThrowError(failure(message));
    await refused(parquet("train.parquet").subarray(0, 900), "x.parquet: it cannot be read as parquet");
    await refused(new Uint8Array(), "x.parquet: it cannot be read as parquet");
    await refused(parquet("zstd.parquet"), "ZSTD); write it again, plain or packed with Snappy.");
    await refused(
      parquet("external.parquet"),
      "x.parquet item 1: it has a picture's address instead of its bytes",
    );
  });

  it("never ends in anything but an error of the samples, whatever its bytes", async () => {
    const whole = parquet("train.parquet");
    for (let seed = 1, i = 0; i < 200; i += 1) {
      const damaged = whole.slice();
      for (let change = 0; change < 3; change += 1) {
        seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
        damaged[(seed >>> 8) % damaged.length] = seed >>> 24;
      }
      const begin = performance.now();
      const outcome = await open({ "x.parquet": damaged }).catch((error: unknown) => error);
      expect(performance.now() - begin).toBeLessThan(2000);
      if (outcome instanceof Error) expect(outcome).toEqual(failure("x.parquet"));
    }
  });
});

describe("the order of pictures", () => {
  it("is that of their characters, as the core has it", async () => {
    const set = await open({ "\u{1f408}.png": "", "\uff21.png": "", "a.png": "" });
    expect(set.pictures.map(({ file }) => file.name)).toEqual(["a.png", "\uff21.png", "\u{1f408}.png"]);
  });
});

describe("a path", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "iteris-samples-"));
    mkdirSync(join(folder, "cat/old"), { recursive: true });
    mkdirSync(join(folder, "dog"));
    for (const name of [
      "cat/1.png",
      "cat/2.jpg",
      "cat/old/3.png",
      "dog/1.png",
      "dog/.hidden.png",
      "dog/[x].png",
    ]) {
      writeFileSync(join(folder, name), "");
    }
    writeFileSync(join(folder, "cat/1.txt"), "a cat");
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const names = async (path: string) => {
    const set = await new OpenFiles().samples(join(folder, path));
    return arePictures(set) ? set.pictures.map(({ file }) => file.name) : set.samples;
  };

  it.each([
    ["cat", ["1.png", "2.jpg", "old/3.png"]],
    ["cat/1.png", ["1.png"]],
    ["cat/*.png", ["1.png"]],
    ["cat/[!2].*", ["1.png"]],
    ["*/1.png", ["cat/1.png", "dog/1.png"]],
    ["**/*.png", ["cat/1.png", "cat/old/3.png", "dog/1.png", "dog/[x].png"]],
    ["cat/?.jpg", ["2.jpg"]],
    ["dog/[x].png", ["[x].png"]],
    ["cat/*.txt", [{ text: "a cat" }]],
  ])("may be a folder, a file or a pattern: %s", async (path, found) => {
    expect(await names(path)).toEqual(found);
  });

  it("that matches nothing is refused with the pattern", async () => {
    await expect(names("cat/*.gif")).rejects.toMatchObject({
      code: "read_failed",
      message: expect.stringContaining("no file matches the pattern"),
    });
  });

  it("as a pattern is walked no deeper than it can match", () => {
    expect([folderOfGlob("/a/b/*.png"), depthOfGlob("/a/b/*.png")]).toEqual(["/a/b", 1]);
    expect(depthOfGlob("/a/*/b/?.png")).toBe(3);
    expect(depthOfGlob("/a/**/x")).toBe(Number.POSITIVE_INFINITY);
    expect(["x.png", "y/x.png", ".x.png"].map(matcherOf("/a/**/*.png"))).toEqual([true, true, false]);
    expect(["a+b.png", "aab.png"].map(matcherOf("/a/a+?.png"))).toEqual([true, false]);
  });
});
