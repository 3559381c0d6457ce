/** Folders of pictures as samples, in the command line and the library, against an f64 oracle's numbers. */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { inspectBase, inspectSamples, merge } from "../../www/node/index.ts";
import { deltasOf, productsOf, relativeError } from "../deltas.ts";
import { writeTiny } from "../tiny.ts";
import { run } from "./command.ts";

const vit = join(import.meta.dirname, "../../../shared/fixtures/images/vit");
const present = existsSync(vit);
if (!present) console.warn("skipped: ../shared/fixtures/images/vit is not here");

/** Of merged deltas, relative Frobenius error: f32 features move them by 1e-5. */
const TOLERANCE = 2e-4;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-pictures-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const adapter = (name: string, samples = join(vit, `${name}.samples`)) => ({
  name,
  files: join(vit, name),
  samples,
});

/** A merge of the fixture's two adapters, the first on samples of one's own. */
const mergeOn = (samples: string) =>
  merge({ base: join(vit, "base"), adapters: [adapter("a", samples), adapter("b")], device: "cpu" });

/** A folder of copies of the fixture's pictures and of what else is to be in it. */
function pictures(more: Record<string, Buffer | string> = {}): string {
  const path = join(folder, "pictures");
  mkdirSync(path);
  for (const name of ["000.png", "001.png", "002.png"]) {
    copyFileSync(join(vit, "a.samples", name), join(path, name));
  }
  for (const [name, content] of Object.entries(more)) writeFileSync(join(path, name), content);
  return path;
}

/** A PNG of one colour that claims its size; its rows are there, so that only the size is at fault. */
function png(width: number, height: number): Buffer {
  const chunk = (type: string, data: Buffer): Buffer => {
    const named = Buffer.concat([Buffer.from(type, "latin1"), data]);
    const around = Buffer.alloc(8);
    around.writeUInt32BE(data.length, 0);
    around.writeUInt32BE(crc(named), 4);
    return Buffer.concat([around.subarray(0, 4), named, around.subarray(4)]);
  };
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  return Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(Buffer.alloc(Math.min(height * (width + 1), 1 << 16)))),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

function crc(bytes: Buffer): number {
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit += 1) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return (sum ^ 0xffffffff) >>> 0;
}

describe.skipIf(!present)("a vision transformer", () => {
  test.each([
    ["base", "a", "b"],
    ["base-v4", "a-v4", "b-v4"],
  ])("is merged by the command line as the oracle merges it: %s", async (base, first, second) => {
    const out = join(folder, "merged");
    const { code, stdout, stderr } = await run(
      ...["merge", "--base", join(vit, base), "--out", out, "--device", "cpu", "--json"],
      ...["--adapter", join(vit, first), "--samples", join(vit, "a.samples")],
      ...["--adapter", join(vit, second), "--samples", join(vit, "b.samples")],
    );
    expect({ code, stderr: stderr.includes("running the model") }).toEqual({ code: 0, stderr: true });
    const { report } = JSON.parse(stdout);
    expect(report.adapters.map((read: { samples: unknown }) => read.samples)).toEqual([
      expect.objectContaining({ count: 8, source: "a.samples" }),
      expect.objectContaining({ count: 8, source: "b.samples" }),
    ]);
    const written = [...deltasOf(readFileSync(join(out, "adapter_model.safetensors"))).values()];
    const oracle = productsOf(readFileSync(join(vit, "expected.a-b.safetensors")), "sweep/", "");
    expect(written).toHaveLength(oracle.size);
    // The two spellings name a layer otherwise, and no two layers are alike.
    for (const [module, expected] of oracle) {
      const errors = written.map((delta) => relativeError(delta, expected));
      expect(Math.min(...errors), module).toBeLessThan(TOLERANCE);
    }
  });

  test("is merged and compared by the library, which tells its pictures", async () => {
    const { report, comparison } = await merge({
      base: join(vit, "base"),
      adapters: ["a", "b"].map((name) => ({ ...adapter(name), heldOut: join(vit, `${name}.samples`) })),
      device: "cpu",
    });
    expect(report.layers).toHaveLength(18);
    expect(comparison?.tasks.map(({ task }) => task)).toEqual(["a", "b"]);
    expect(await inspectBase(join(vit, "base"))).toMatchObject({
      kind: "image-encoder",
      picture: { channels: 3, height: 32, width: 32 },
    });
    expect(await inspectSamples(join(vit, "a.samples"))).toMatchObject({
      name: "a.samples",
      format: "pictures",
      count: 8,
      preview: ["000.png", "001.png", "002.png"],
    });
    const { code, stdout } = await run("inspect", join(vit, "a.samples"));
    expect({ code, stdout }).toEqual({
      code: 0,
      stdout: expect.stringMatching(/a\.samples: samples\n(.*\n)*.*pictures/),
    });
  });

  test("is told of files beside the pictures", async () => {
    const { report } = await mergeOn(pictures({ "notes.txt": "a cat\n" }));
    expect(report.notes).toContain("a: files beside the pictures are not read: notes.txt");
  });

  test("is compared by the labels of pictures, whatever the order they are given in", async () => {
    // What the first adapter says of them by transformers (`a.out.own.logits` of the fixture).
    const said = { "000.png": 2, "001.png": 2, "002.png": 0 };
    const compared = async (labels: Record<string, number>) => {
      const lines = Object.entries(labels).map(([file_name, label]) => JSON.stringify({ file_name, label }));
      const heldOut = pictures({ "metadata.jsonl": lines.reverse().join("\n") });
      const { comparison } = await merge({
        base: join(vit, "base"),
        adapters: [
          { ...adapter("a"), heldOut },
          { ...adapter("b"), heldOut: join(vit, "b.samples") },
        ],
        device: "cpu",
      });
      rmSync(heldOut, { recursive: true });
      const own = comparison?.tasks[0]?.variants.find(({ variant }) => variant === "adapter");
      return { labelled: comparison?.tasks[0]?.labelled, accuracy: own?.accuracy };
    };
    expect(await compared(said)).toEqual({ labelled: 3, accuracy: 1 });
    expect(await compared({ ...said, "000.png": 0, "002.png": 1 })).toEqual({ labelled: 3, accuracy: 1 / 3 });
    expect(await compared({ "002.png": 0 })).toEqual({ labelled: 1, accuracy: 1 });
  });

  test("tells what it does not read: captions, columns, pictures without a line", async () => {
    const metadata = '{"file_name": "001.png", "text": "a cat", "bbox": []}\n';
    const { report } = await mergeOn(pictures({ "metadata.jsonl": metadata }));
    expect(report.notes).toEqual(
      expect.arrayContaining([
        "a: columns of metadata.jsonl that are not read: bbox",
        "a: pictures that no metadata names: 000.png, 002.png",
        "a: the model reads no captions: those of 1 pictures are not read",
      ]),
    );
  });

  test("is given by a pattern, which the command line leaves as it is", async () => {
    const samples = pictures({ "003.txt": "no picture" });
    const { report } = await mergeOn(join(samples, "00[01].*"));
    expect(report.adapters[0]?.samples).toMatchObject({ count: 2, source: "00[01].*" });
  });

  test("reads pictures out of a table", async () => {
    const table = join(import.meta.dirname, "../unit/pictures/train.parquet");
    const { report } = await mergeOn(table);
    expect(report.adapters[0]?.samples).toMatchObject({ count: 12, source: "train.parquet" });
    expect(report.notes).toContain("a: the model reads no captions: those of 8 pictures are not read");
    const { code, stdout } = await run("inspect", table);
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/labels: cat, dog\n/) });
  });

  test("is told by inspect what a folder of classes has", async () => {
    for (const name of ["cat", "dog"]) {
      mkdirSync(join(folder, "classes", name), { recursive: true });
      copyFileSync(join(vit, "a.samples/000.png"), join(folder, "classes", name, "1.png"));
    }
    expect(await run("inspect", join(folder, "classes"))).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/classes: samples\n(.*\n)* {2}labels: cat, dog\n/),
    });
  });

  test("refuses metadata of a picture that is missing, by file and line", async () => {
    await expect(mergeOn(pictures({ "metadata.jsonl": '\n{"file_name": "9.png"}' }))).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining(
        "metadata.jsonl line 2: the picture that it names is not there: 9.png",
      ),
    });
  });

  test.each([
    ["cannot be decoded", "cut.png", () => png(8, 8).subarray(0, 40)],
    ["is none", "cat.jpg", () => Buffer.from("not a picture")],
    ["has no pixels", "empty.png", () => png(0, 4)],
    ["is larger than 40 megapixels", "large.png", () => png(8000, 5001)],
  ])("refuses a picture that %s, by name", async (_, name, content) => {
    await expect(mergeOn(pictures({ [name]: content() }))).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining(name),
    });
  });

  test("refuses texts, and a text model refuses pictures, each by the adapter", async () => {
    const texts = join(folder, "a.txt");
    writeFileSync(texts, "a cat\n");
    await expect(mergeOn(texts)).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining(
        "reads pictures (ViTForImageClassification), and the samples are texts",
      ),
    });
    const tiny = writeTiny(folder);
    const [first, second] = tiny.adapters;
    if (!first || !second) throw new Error("the tiny model has two adapters");
    const adapters = [{ ...first, samples: pictures() }, second];
    await expect(merge({ ...tiny, adapters, device: "cpu" })).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining("and the samples are pictures"),
    });
  });

  test("refuses a folder without a picture", async () => {
    await expect(mergeOn(join(vit, "a"))).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining(
        "no picture (.png, .jpg, .webp, .gif, .bmp) and no .parquet among 2 files",
      ),
    });
  });
});
