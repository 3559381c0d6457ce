/** Where a merge's files go: in memory while they are small, on a disk when they are not. */
import { describe, expect, it } from "vitest";
import { BlobSink, type Disk, type OpenFile } from "../../www/lib/engine/sink.ts";
import { IterisError } from "../../www/lib/errors.ts";

/** A disk that keeps its files in an array, and is full after `room` bytes. */
class FakeDisk implements Disk {
  readonly path = "disk/1";
  readonly begun: string[] = [];
  readonly there = new Map<string, number[]>();
  readonly #room: number;
  discarded = 0;

  constructor(room = Number.POSITIVE_INFINITY) {
    this.#room = room;
  }

  async begin(name: string): Promise<OpenFile> {
    const bytes: number[] = [];
    this.begun.push(name);
    this.there.set(name, bytes);
    return {
      get size() {
        return bytes.length;
      },
      append: async (more) => {
        if (bytes.length + more.length > this.#room) throw new IterisError("write_failed", `Full: ${name}`);
        bytes.push(...more);
      },
      read: async (start, end) => Uint8Array.from(bytes.slice(start, end)),
      blobs: async () => [new Blob([Uint8Array.from(bytes)])],
      remove: async () => {
        this.there.delete(name);
      },
    };
  }

  async discard(): Promise<void> {
    this.discarded += 1;
  }
}

const bytesOf = async (blob: Blob | undefined) => [...new Uint8Array((await blob?.arrayBuffer()) ?? [])];
const counting = (length: number, from = 0) => {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i += 1) bytes[i] = (from + i) % 251;
  return bytes;
};

describe("a sink in memory", () => {
  it("gathers thousands of pieces into few Blobs, byte for byte", async () => {
    const sink = new BlobSink();
    const made: Blob[] = [];
    const RealBlob = globalThis.Blob;
    globalThis.Blob = class extends RealBlob {
      constructor(...given: ConstructorParameters<typeof Blob>) {
        super(...given);
        made.push(this);
      }
    };
    const piece = counting(3000);
    try {
      // 9 MB in 3,000 pieces, with one among them that is larger than what is gathered.
      for (let i = 0; i < 1500; i += 1) await sink.write("a", piece);
      await sink.write("a", counting(5 << 20, 7));
      for (let i = 0; i < 1500; i += 1) await sink.write("a", piece);
      expect((await sink.files()).map(({ name, blob }) => [name, blob.size])).toEqual([
        ["a", 3000 * 3000 + (5 << 20)],
      ]);
    } finally {
      globalThis.Blob = RealBlob;
    }
    // Two of 4 MiB and their rests, the large one, and the file itself.
    expect(made.length).toBeLessThanOrEqual(7);
    const [file] = await sink.files();
    const all = new Uint8Array((await file?.blob.arrayBuffer()) ?? []);
    expect(all.subarray(0, 3000)).toEqual(piece);
    expect(all.subarray(1499 * 3000, 1500 * 3000)).toEqual(piece);
    expect(all.subarray(1500 * 3000, 1500 * 3000 + 1000)).toEqual(counting(1000, 7));
    expect(all.subarray(all.length - 3000)).toEqual(piece);
  });

  it("does not keep the caller's memory", async () => {
    const sink = new BlobSink();
    const bytes = Uint8Array.of(1, 2, 3);
    await sink.write("a", bytes);
    bytes.fill(9);
    await sink.write("a", bytes);
    expect(await bytesOf((await sink.files())[0]?.blob)).toEqual([1, 2, 3, 9, 9, 9]);
  });

  it("reads back while it goes on writing, and takes files away", async () => {
    const sink = new BlobSink();
    await sink.write("spool", counting(10));
    expect(await sink.read("spool", 2, 5)).toEqual(Uint8Array.of(2, 3, 4));
    await sink.write("a", Uint8Array.of(1));
    await sink.write("spool", counting(10, 10));
    expect(await sink.read("spool", 8, 12)).toEqual(Uint8Array.of(8, 9, 10, 11));
    await sink.remove("spool");
    expect((await sink.files()).map(({ name }) => name)).toEqual(["a"]);
    expect((await sink.sources()).map(({ name, size }) => [name, size])).toEqual([["a", 1]]);
  });

  it("says which bytes were never written", async () => {
    const sink = new BlobSink();
    await sink.write("a", counting(4));
    const refused = { code: "write_failed", message: "Bytes 2 to 5 were never written: a" };
    await expect(sink.read("a", 2, 5)).rejects.toMatchObject(refused);
    await expect(sink.read("b", 0, 1)).rejects.toMatchObject({ code: "write_failed" });
  });
});

describe("a sink with a disk", () => {
  it("leaves small results in memory", async () => {
    const disk = new FakeDisk();
    const sink = new BlobSink(disk, 100);
    await sink.write("a", counting(60));
    await sink.write("b", counting(40));
    expect(disk.begun).toEqual([]);
    expect((await sink.files()).map(({ onDisk }) => onDisk)).toEqual([undefined, undefined]);
  });

  it("moves the file that passes the limit, with what it has, and only that", async () => {
    const disk = new FakeDisk();
    const sink = new BlobSink(disk, 100);
    await sink.write("small", counting(10));
    await sink.write("large", counting(80));
    await sink.write("large", counting(80, 80));
    await sink.write("large", counting(80, 160));
    await sink.write("late", counting(70));
    expect(disk.begun).toEqual(["large"]);
    expect(await sink.read("large", 70, 90)).toEqual(counting(20, 70));
    const files = await sink.files();
    expect(files.map(({ name, onDisk }) => [name, onDisk])).toEqual([
      ["small", undefined],
      ["large", "disk/1"],
      ["late", undefined],
    ]);
    expect(await bytesOf(files[1]?.blob)).toEqual([...counting(240)]);
  });

  it("stays in memory where the browser refuses the disk, and asks once", async () => {
    let asked = 0;
    const disk: Disk = {
      path: "none",
      begin: async () => {
        asked += 1;
        return null;
      },
      discard: async () => {},
    };
    const sink = new BlobSink(disk, 100);
    for (let i = 0; i < 5; i += 1) await sink.write("a", counting(80));
    expect(asked).toBe(1);
    expect((await sink.files())[0]).toEqual({ name: "a", blob: expect.objectContaining({ size: 400 }) });
  });

  it("tells a full disk, and leaves nothing when it is discarded", async () => {
    const disk = new FakeDisk(200);
    const sink = new BlobSink(disk, 100);
    const write = async () => {
      for (let i = 0; i < 5; i += 1) await sink.write("a", counting(80));
    };
    await expect(write()).rejects.toMatchObject({ code: "write_failed", message: "Full: a" });
    await sink.discard();
    expect([disk.there.size, disk.discarded]).toEqual([0, 1]);
    expect(await sink.files()).toEqual([]);
  });
});
