import { createHash } from "node:crypto";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { collectFiles, collectSamples } from "../../www/lib/sources/collect.ts";
import { withoutSharedFolder } from "../../www/lib/sources/names.ts";
import { MOST_HASHED_WHOLE, openFile, readAll } from "../../www/lib/sources/open.ts";
import { kindOfWeights } from "../../www/lib/sources/weights-kind.ts";
import { OpenFiles } from "../../www/node/files.ts";

const names = (files: { name: string }[]) => files.map(({ name }) => name);

/** A directory handle as browsers give it. */
function directory(name: string, children: object[]): FileSystemDirectoryHandle {
  return {
    kind: "directory",
    name,
    async *values() {
      yield* children;
    },
  } as unknown as FileSystemDirectoryHandle;
}
const file = (name: string) => ({ kind: "file", name, getFile: async () => new File(["x"], name) });

describe("names inside a folder", () => {
  it("lose the folder that all share, and no more", () => {
    const shared = [{ name: "m/config.json" }, { name: "m/1_Pooling/config.json" }];
    expect(names(withoutSharedFolder(shared))).toEqual(["config.json", "1_Pooling/config.json"]);
    expect(names(withoutSharedFolder([{ name: "a/x" }, { name: "b/x" }]))).toEqual(["a/x", "b/x"]);
    expect(names(withoutSharedFolder([{ name: "a/b/x" }]))).toEqual(["x"]);
    expect(withoutSharedFolder([])).toEqual([]);
  });

  it("have one spelling, so that a file given twice is seen", () => {
    expect(names(withoutSharedFolder([{ name: "./x.json" }, { name: "x.json" }]))).toEqual([
      "x.json",
      "x.json",
    ]);
  });
});

describe("a file that a person chose", () => {
  it("is hashed by the browser, unless it is too large to be held whole", async () => {
    const small = await openFile({ name: "a", blob: new Blob(["abc"]) });
    expect(await small.sha256?.()).toBe(createHash("sha256").update("abc").digest("hex"));
    const large = { size: MOST_HASHED_WHOLE + 1 } as Blob;
    expect(await openFile({ name: "a", blob: large })).toEqual({ name: "a", size: large.size, blob: large });
  });

  it("is left to the core where the browser has no room for it", async () => {
    const blob = { size: 3, arrayBuffer: () => Promise.reject(new RangeError("no room")) } as unknown as Blob;
    expect(await (await openFile({ name: "a", blob })).sha256?.()).toBeUndefined();
  });
});

describe("files", () => {
  it("are collected from a directory handle with everything below, sorted", async () => {
    const handle = directory("minilm", [
      file("tokenizer.json"),
      directory("1_Pooling", [file("config.json")]),
      directory(".git", [file("HEAD")]),
      file("config.json"),
    ]);
    const expected = ["1_Pooling/config.json", "config.json", "tokenizer.json"];
    expect(names(await collectFiles(handle))).toEqual(expected);
    expect(names(await collectFiles([handle]))).toEqual(expected);
  });

  it("are collected from a folder picker by their relative paths", async () => {
    const picked = ["b.json", "a.json"].map((name) =>
      Object.defineProperty(new File(["x"], name), "webkitRelativePath", { value: `folder/${name}` }),
    );
    expect(names(await collectFiles(picked))).toEqual(["a.json", "b.json"]);
  });

  it("may be a folder and a file that was added to it", async () => {
    const added = [directory("minilm", [file("config.json")]), file("tokenizer.json")];
    expect(names(await collectFiles(added as FileSystemDirectoryHandle[]))).toEqual([
      "config.json",
      "tokenizer.json",
    ]);
  });

  it("may be Blobs with names and addresses", async () => {
    const files = await collectFiles([
      { name: "config.json", blob: new Blob(["{}"]) },
      { url: "https://example.org/m/model%20a.safetensors?download=true" },
      { name: "tokenizer.json", url: new URL("https://example.org/t") },
    ]);
    expect(files).toEqual([
      { name: "config.json", blob: expect.any(Blob) },
      { name: "model a.safetensors", url: "https://example.org/m/model%20a.safetensors?download=true" },
      { name: "tokenizer.json", url: "https://example.org/t" },
    ]);
  });

  it("at no address are refused", async () => {
    await expect(collectFiles([{ url: "config.json" }])).rejects.toMatchObject({ code: "read_failed" });
  });
});

describe("a file of this machine", () => {
  it("is hashed in pieces, as a whole would be", async () => {
    const folder = await mkdtemp(join(tmpdir(), "iteris-hash-"));
    // More than one piece, and none that is full at the end; and nothing at all.
    const bytes = Buffer.alloc((9 << 20) + 5, "some weights ");
    await writeFile(join(folder, "a"), bytes);
    await writeFile(join(folder, "b"), "");
    const files = new OpenFiles();
    const found = await files.folder(folder);
    const expected = [bytes, ""].map((content) => createHash("sha256").update(content).digest("hex"));
    expect(await Promise.all(found.map((file) => file.sha256?.()))).toEqual(expected);
    await truncate(join(folder, "a"), 100);
    await expect(found[0]?.sha256?.()).rejects.toMatchObject({
      code: "read_failed",
      message: expect.stringContaining("it ends after 100 bytes"),
    });
    files.close();
    await rm(folder, { recursive: true });
  });
});

describe("samples", () => {
  it("are taken from files, handles, addresses and lists", async () => {
    expect(await collectSamples(["a"])).toEqual({ list: ["a"] });
    expect(await collectSamples(new File(["a"], "a.txt"))).toEqual({ name: "a.txt", blob: expect.any(Blob) });
    expect(await collectSamples(new Blob(["a"]))).toEqual({ name: null, blob: expect.any(Blob) });
    expect(await collectSamples(file("a.csv") as unknown as FileSystemFileHandle)).toEqual({
      name: "a.csv",
      blob: expect.any(Blob),
    });
    await expect(collectSamples(7 as unknown as string[])).rejects.toMatchObject({ code: "samples_invalid" });
  });
});

describe("an address", () => {
  let server: Server;
  let log: string[];
  afterEach(() => server.close());

  const content = Buffer.from("0123456789");
  type Kind = "ranges" | "whole" | "hidden-total" | "short" | "gone";

  /** A server that answers range requests well, not at all, or badly. */
  async function serve(kind: Kind): Promise<string> {
    log = [];
    server = createServer((request, response) => {
      const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "");
      log.push(`${request.method} ${range?.[0] ?? ""}`.trim());
      if (kind === "gone") return void response.writeHead(404).end();
      if (request.method === "HEAD") return void response.writeHead(200, { "content-length": 10 }).end();
      if (kind === "whole" || range === null) return void response.writeHead(200).end(content);
      const [start, end] = [Number(range[1]), Number(range[2]) + 1];
      const part = content.subarray(start, kind === "short" && start > 0 ? end - 1 : end);
      const total = kind === "hidden-total" ? {} : { "content-range": `bytes ${start}-${end - 1}/10` };
      response.writeHead(206, total).end(part);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}/m`;
  }
  const open = async (kind: Kind) => openFile({ name: "m", url: await serve(kind) });

  it("is read by ranges", async () => {
    const opened = await open("ranges");
    expect(opened.size).toBe(10);
    expect(Buffer.from((await opened.read?.(2, 5)) ?? []).toString()).toBe("234");
    expect(log).toEqual(["GET bytes=0-0", "GET bytes=2-4"]);
  });

  it("is read whole where the server knows no ranges", async () => {
    const opened = await open("whole");
    expect(opened).toMatchObject({ size: 10, blob: expect.any(Blob) });
    expect(Buffer.from(await readAll(opened)).toString()).toBe("0123456789");
    expect(log).toEqual(["GET bytes=0-0"]);
  });

  it("is asked for its length where the server hides it", async () => {
    expect((await open("hidden-total")).size).toBe(10);
    expect(log).toEqual(["GET bytes=0-0", "HEAD"]);
  });

  it("that answers with fewer bytes than asked for is an error", async () => {
    const opened = await open("short");
    await expect(opened.read?.(2, 5)).rejects.toMatchObject({ code: "read_failed" });
  });

  it("without the file is an error", async () => {
    await expect(open("gone")).rejects.toMatchObject({
      code: "read_failed",
      message: "The server answers 404: m",
    });
  });

  it("without a server is an error", async () => {
    const url = await serve("ranges");
    await new Promise((resolve) => server.close(resolve));
    await expect(openFile({ name: "m", url })).rejects.toMatchObject({ code: "read_failed" });
  });
});

describe("the kind of a safetensors file", () => {
  const kindOf = (blob: Blob) => kindOfWeights({ name: "a.safetensors", size: blob.size, blob });
  const file = (header: string, claimed = header.length): Blob => {
    const length = new DataView(new ArrayBuffer(8));
    length.setBigUint64(0, BigInt(claimed), true);
    return new Blob([length.buffer, header]);
  };
  const holding = (...names: string[]): Blob =>
    file(
      JSON.stringify({
        __metadata__: { format: "pt" },
        ...Object.fromEntries(names.map((name) => [name, {}])),
      }),
    );

  it.each([
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
    "unet.down_blocks.0.attentions.0.to_q.lora_A.weight",
    "unet.mid_block.attentions.0.processor.to_q_lora.down.weight",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
    "lora_unet_conv_in.hada_w1_a",
    "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight",
  ])("is an adapter with %s", async (name) => {
    expect(await kindOf(holding(name))).toBe("adapter");
  });

  it.each([
    "down_blocks.0.attentions.0.to_q.weight",
    "encoder.layer.0.output.dense.bias",
    "lora_base.weight_g",
    "score.alphabet",
  ])("is a model's with %s", async (name) => {
    expect(await kindOf(holding(name))).toBe("weights");
  });

  it("is not guessed where the header is damaged, and no more is read than the file has", async () => {
    expect(await kindOf(new Blob(["short"]))).toBeNull();
    expect(await kindOf(file("{}", 2 ** 60))).toBeNull();
    expect(await kindOf(file("{}"))).toBeNull();
    expect(await kindOf(file("[1"))).toBeNull();
  });
});
