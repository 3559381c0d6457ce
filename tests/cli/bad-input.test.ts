/** Every bad input has its code and a message that names the culprit, through the whole package, in Node. */
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { IterisError, merge, type NodeMergeRequest } from "../../www/node/index.ts";
import { type Tiny, writeTiny } from "../tiny.ts";
import { run } from "./command.ts";

let folder: string;
let tiny: Tiny;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-bad-"));
  tiny = writeTiny(folder);
});
afterEach(() => rmSync(folder, { recursive: true }));

const mergeTiny = (more: Partial<NodeMergeRequest> = {}) => merge({ ...tiny, device: "cpu", ...more });

interface TensorEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}
interface SafetensorsFile {
  header: Record<string, TensorEntry>;
  data: Buffer;
}

/** Changes a safetensors file in a way that its writers never would. */
function damage(path: string, change: (file: SafetensorsFile) => void): void {
  const bytes = readFileSync(path);
  const end = 8 + Number(bytes.readBigUInt64LE(0));
  const { __metadata__, ...header } = JSON.parse(bytes.subarray(8, end).toString());
  const file: SafetensorsFile = { header, data: bytes.subarray(end) };
  change(file);
  const text = Buffer.from(JSON.stringify(file.header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, file.data]));
}

const baseWeights = () => join(tiny.base, "model.safetensors");
const adapterWeights = () => join(tiny.adapters[0]?.files ?? "", "adapter_model.safetensors");

describe("a damaged file:", () => {
  test("one that ends early", async () => {
    const bytes = readFileSync(baseWeights());
    writeFileSync(baseWeights(), bytes.subarray(0, bytes.length - 16));
    await expect(mergeTiny()).rejects.toMatchObject({
      code: "file_truncated",
      message: expect.stringContaining("model.safetensors"),
    });
  });

  test("one whose header is longer than the file", async () => {
    const bytes = readFileSync(baseWeights());
    bytes.writeBigUInt64LE(BigInt(bytes.length), 0);
    writeFileSync(baseWeights(), bytes);
    const refused = mergeTiny();
    await expect(refused).rejects.toThrow("model.safetensors");
    await expect(refused).rejects.toSatisfy(
      ({ code }: IterisError) => code === "file_truncated" || code === "header_invalid",
    );
  });

  test("one whose tensors overlap", async () => {
    damage(baseWeights(), ({ header }) => {
      const [first, second] = Object.values(header).sort((a, b) => a.data_offsets[0] - b.data_offsets[0]);
      if (!first || !second) throw new Error("the file has too few tensors");
      const length = second.data_offsets[1] - second.data_offsets[0];
      second.data_offsets = [first.data_offsets[0], first.data_offsets[0] + length];
    });
    await expect(mergeTiny()).rejects.toMatchObject({ code: "offsets_overlap" });
  });

  test("one with NaN among the weights, which names the tensor", async () => {
    let damaged = "";
    damage(adapterWeights(), ({ header, data }) => {
      const [name, entry] = Object.entries(header).find(([name]) => name.includes("lora_B")) ?? ["", null];
      data.writeFloatLE(Number.NaN, entry?.data_offsets[0] ?? 0);
      damaged = name;
    });
    await expect(mergeTiny()).rejects.toMatchObject({
      code: "not_finite",
      message: expect.stringContaining(damaged),
    });
  });

  test.each([[[]], [["--energy", "0.9"]]])(
    "one with NaN in its last layer, read when others are written, leaves nothing %j",
    async (more: string[]) => {
      let damaged = "";
      damage(adapterWeights(), ({ header, data }) => {
        damaged =
          Object.keys(header)
            .filter((name) => name.includes("lora_B"))
            .sort()
            .at(-1) ?? "";
        data.writeFloatLE(Number.NaN, header[damaged]?.data_offsets[0] ?? 0);
      });
      const before = readdirSync(folder);
      const adapters = tiny.adapters.flatMap(({ files }) => ["--adapter", files]);
      const out = join(folder, "merged");
      const { code, stderr } = await run("merge", "--method", "linear", ...adapters, "--out", out, ...more);
      expect(code).toBe(2);
      expect(stderr).toContain(damaged);
      expect(stderr).toContain("adapter_model.safetensors");
      expect(readdirSync(folder)).toEqual(before);
    },
  );

  test("a configuration that is no JSON", async () => {
    writeFileSync(join(tiny.base, "config.json"), "{");
    await expect(mergeTiny()).rejects.toMatchObject({ code: "config_invalid" });
  });
});

describe("the wrong file:", () => {
  test("a pickle", async () => {
    renameSync(baseWeights(), join(tiny.base, "pytorch_model.bin"));
    await expect(mergeTiny()).rejects.toMatchObject({ code: "pickle_refused" });
  });

  test("an adapter of another base, which names tensor and shapes", async () => {
    let shape = "";
    damage(adapterWeights(), (file) => {
      const [name, entry] = Object.entries(file.header).find(([name]) => name.includes("lora_A")) ?? [];
      if (!name || !entry) throw new Error("the adapter has no factors");
      const [rank = 0, width = 0] = entry.shape;
      // As many numbers in another shape: the file itself is sound.
      entry.shape = [rank * 2, width / 2];
      shape = String(width / 2);
    });
    await expect(mergeTiny()).rejects.toMatchObject({
      code: "shape_mismatch",
      message: expect.stringContaining(shape),
    });
  });

  test("a base without its tokenizer", async () => {
    rmSync(join(tiny.base, "tokenizer.json"));
    await expect(mergeTiny()).rejects.toMatchObject({
      code: "missing",
      message: expect.stringContaining("tokenizer.json"),
    });
  });

  test("a folder that is not there", async () => {
    await expect(mergeTiny({ base: join(folder, "nowhere") })).rejects.toMatchObject({
      code: "read_failed",
      message: expect.stringContaining("nowhere"),
    });
  });

  test("an adapter whose base was changed by LoftQ", async () => {
    const path = join(tiny.adapters[0]?.files ?? "", "adapter_config.json");
    writeFileSync(
      path,
      JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), init_lora_weights: "loftq" }),
    );
    await expect(mergeTiny()).rejects.toMatchObject({
      code: "adapter_unsupported",
      message: expect.stringMatching(/loftq/i),
    });
  });
});

describe("the wrong number of things:", () => {
  test("no adapter", async () => {
    await expect(mergeTiny({ adapters: [] })).rejects.toMatchObject({ code: "no_adapters" });
  });

  test("one name for two adapters", async () => {
    const [one, two] = tiny.adapters;
    const adapters = one && two ? [one, { ...two, name: one.name }] : [];
    await expect(mergeTiny({ adapters })).rejects.toMatchObject({
      code: "duplicate",
      message: expect.stringContaining(one?.name ?? ""),
    });
  });

  test("one file twice", async () => {
    const file = { name: "config.json", blob: new Blob(["{}"]) };
    await expect(mergeTiny({ base: [file, file] })).rejects.toMatchObject({ code: "duplicate" });
  });

  test("a weight of nothing", async () => {
    const adapters = tiny.adapters.map((adapter) => ({ ...adapter, weight: Number.NaN }));
    await expect(mergeTiny({ adapters })).rejects.toMatchObject({ code: "option_invalid" });
  });

  test("a ridge out of range", async () => {
    await expect(mergeTiny({ options: { alpha1: 7 } })).rejects.toMatchObject({ code: "option_invalid" });
  });
});

describe("samples", () => {
  test("that are an empty file are refused by its name", async () => {
    writeFileSync(tiny.adapters[0]?.samples ?? "", "\n");
    await expect(mergeTiny()).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining("qv.txt"),
    });
  });

  test("that are missing are refused by the adapter's name", async () => {
    const adapters = tiny.adapters.map(({ name, files }) => ({ name, files }));
    await expect(mergeTiny({ adapters })).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining("qv"),
    });
  });

  test("longer than the maximum are cut, with a note in the report", async () => {
    const long = Array.from({ length: 100 }, (_, i) => `w${5 + (i % 80)}`).join(" ");
    const adapters = tiny.adapters.map((adapter) => ({ ...adapter, samples: [long, "w9 w10"] }));
    const { report } = await mergeTiny({ adapters });
    expect(report.options.max_length).toBe(32);
    expect(report.adapters[0]?.samples).toMatchObject({ count: 2, truncated: 1, tokens: 32 + 4 });
    expect(report.notes.join("\n")).toMatch(/qv.*1 of 2.*32/);
  });

  test("longer than asked for are cut to what was asked", async () => {
    const { report } = await mergeTiny({ options: { maxLength: 4 } });
    expect(report.options.max_length).toBe(4);
    expect(report.adapters[0]?.samples?.truncated).toBeGreaterThan(0);
    await expect(mergeTiny({ options: { maxLength: 65 } })).rejects.toMatchObject({ code: "option_invalid" });
  });
});

test("after all that the module still merges", async () => {
  await expect(mergeTiny({ adapters: [] })).rejects.toBeInstanceOf(IterisError);
  const { files } = await mergeTiny();
  expect(files.map(({ name }) => name)).toContain("adapter_model.safetensors");
});

test("a merge cancelled within a layer leaves the module in order", async () => {
  const stop = new AbortController();
  const onProgress = ({ stage }: { stage: string }) => stage !== "load" && stop.abort();
  await expect(mergeTiny({ signal: stop.signal, onProgress })).rejects.toMatchObject({ code: "cancelled" });
  await expect(mergeTiny()).resolves.toBeDefined();
});

test("a merge cancelled while many micro-batches wait for each other ends as soon", async () => {
  for (const { samples } of tiny.adapters) {
    writeFileSync(samples, `${readFileSync(samples, "utf8").trim()}\n`.repeat(1000));
  }
  const stop = new AbortController();
  let aborted = 0;
  const onProgress = ({ stage }: { stage: string }) => {
    if (stage !== "solve" || aborted > 0) return;
    aborted = performance.now();
    stop.abort();
  };
  await expect(mergeTiny({ signal: stop.signal, onProgress })).rejects.toMatchObject({ code: "cancelled" });
  // Less than the patience after which it would have been ended by force.
  expect(performance.now() - aborted).toBeLessThan(9500);
});
