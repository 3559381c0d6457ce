/** The folder that a merge is written into: whole or not at all, whatever happens to the disk or the process. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { OutputFolder } from "../../www/node/output-folder.ts";

const refused = (message: string) =>
  expect.objectContaining({ code: "option_invalid", message: expect.stringContaining(message) });

describe("the output folder", () => {
  let parent: string;
  beforeEach(async () => {
    parent = await mkdtemp(join(tmpdir(), "iteris-cli-"));
  });
  afterEach(() => rm(parent, { recursive: true }));
  const bytes = (text: string) => new TextEncoder().encode(text);

  it("appears whole, in one moment", async () => {
    const out = join(parent, "new/merged");
    const sink = await OutputFolder.create(out);
    await sink.write("adapter_model.safetensors", bytes("one "));
    await sink.write("adapter_model.safetensors", bytes("two"));
    await sink.write("heads/a.safetensors", bytes("head"));
    expect(await readdir(join(parent, "new"))).toEqual([expect.stringMatching(/^\.merged-unfinished-/)]);
    expect(await sink.finish()).toEqual([
      { name: "adapter_model.safetensors", bytes: 7 },
      { name: "heads/a.safetensors", bytes: 4 },
    ]);
    expect(await readdir(join(parent, "new"))).toEqual(["merged"]);
    expect(await readFile(join(out, "adapter_model.safetensors"), "utf8")).toBe("one two");
    expect(await readFile(join(out, "heads/a.safetensors"), "utf8")).toBe("head");
  });

  it("that was discarded leaves nothing", async () => {
    const sink = await OutputFolder.create(join(parent, "merged"));
    await sink.write("a", bytes("x"));
    await sink.discard();
    expect(await readdir(parent)).toEqual([]);
  });

  it("can be read again before it is finished", async () => {
    const sink = await OutputFolder.create(join(parent, "merged"));
    await sink.write("heads/a", bytes("abc"));
    const [file] = await sink.sources();
    expect(file).toMatchObject({ name: "heads/a", size: 3 });
    expect(await file?.read?.(1, 3)).toEqual(bytes("bc"));
    await sink.finish();
  });

  it("gives back what was written while more is written, and takes away what was needed on the way", async () => {
    const out = join(parent, "merged");
    const sink = await OutputFolder.create(out);
    await sink.write("spool", bytes("one two"));
    await sink.write("a", bytes("x"));
    expect(await sink.read("spool", 4, 7)).toEqual(bytes("two"));
    await sink.write("spool", bytes(" three"));
    expect(await sink.read("spool", 6, 10)).toEqual(bytes("o th"));
    await expect(sink.read("spool", 6, 20)).rejects.toMatchObject({ code: "write_failed" });
    await sink.remove("spool");
    await sink.write("a", bytes("y"));
    expect(await sink.finish()).toEqual([{ name: "a", bytes: 2 }]);
    expect(await readdir(out)).toEqual(["a"]);
  });

  it("of one method that failed is taken out of the folder of all", async () => {
    const folder = await OutputFolder.create(join(parent, "methods"));
    const [ties, average] = [folder.inside("ties"), folder.inside("average")];
    await ties.write("a", bytes("x"));
    await average.write("a", bytes("y"));
    await ties.discard();
    expect(await folder.finish()).toEqual([{ name: "average/a", bytes: 1 }]);
    expect(await readdir(join(parent, "methods"))).toEqual(["average"]);
  });

  // A file that takes no byte, as on a disk without room.
  it.skipIf(!existsSync("/dev/full"))("says that the disk is full", async () => {
    const sink = await OutputFolder.create(join(parent, "merged"));
    const [hidden = ""] = await readdir(parent);
    for (const name of ["a", "b", "c"]) await symlink("/dev/full", join(parent, hidden, name));
    const full = (name: string) => ({
      code: "write_failed",
      message: expect.stringMatching(new RegExp(`^The disk is full .*: ${name}$`)),
    });
    // Another thread writes: the next call knows, whichever it is.
    await sink.write("a", bytes("x"));
    await expect(sink.write("a", bytes("y"))).rejects.toMatchObject(full("a"));
    await sink.write("b", bytes("x"));
    await expect(sink.sha256("b")).rejects.toMatchObject(full("b"));
    await sink.remove("a");
    await sink.remove("b");
    await sink.write("c", bytes("x"));
    await expect(sink.finish()).rejects.toMatchObject(full("c"));
    await sink.discard();
    expect(await readdir(parent)).toEqual([]);
  });

  describe("after a run that was killed", () => {
    const machine = encodeURIComponent(hostname());
    /** The id of a process that is gone. */
    const gone = () => spawnSync(process.execPath, ["--version"]).pid;
    const leave = async (name: string) => {
      await mkdir(join(parent, name));
      await writeFile(join(parent, name, "half"), "x");
      return name;
    };

    it("takes away what it left, and only that", async () => {
      const pid = gone();
      await leave(`.merged-unfinished-${machine}-${pid}-AbCdEf`);
      const others = [
        // Of a process that runs, of another machine, of another place, and of another program.
        await leave(`.merged-unfinished-${machine}-${process.pid}-AbCdEf`),
        await leave(`.merged-unfinished-elsewhere-${pid}-AbCdEf`),
        await leave(`.other-unfinished-${machine}-${pid}-AbCdEf`),
        await leave(".merged-unfinished-notes"),
      ];
      const sink = await OutputFolder.create(join(parent, "merged"));
      await sink.discard();
      expect((await readdir(parent)).sort()).toEqual(others.sort());
    });

    it("gives a folder its name back that was about to be replaced", async () => {
      const pid = gone();
      await leave(`.merged-unfinished-${machine}-${pid}-AbCdEf`);
      await leave(`.merged-unfinished-${machine}-${pid}-AbCdEf-replaced`);
      await expect(OutputFolder.create(join(parent, "merged"))).rejects.toEqual(refused("--force"));
      expect(await readdir(parent)).toEqual(["merged"]);
    });
  });

  it("that holds something is not touched without --force", async () => {
    const out = join(parent, "merged");
    await mkdir(out);
    await writeFile(join(out, "precious"), "x");
    await expect(OutputFolder.create(out)).rejects.toEqual(refused("--force"));
    const sink = await OutputFolder.create(out, { force: true });
    await sink.write("a", bytes("x"));
    expect(await readdir(out)).toEqual(["precious"]);
    await sink.finish();
    expect(await readdir(out)).toEqual(["a"]);
    expect(await readdir(parent)).toEqual(["merged"]);
  });

  it("may be there if it is empty", async () => {
    await mkdir(join(parent, "merged"));
    const sink = await OutputFolder.create(join(parent, "merged"));
    await sink.write("a", bytes("x"));
    await sink.finish();
    expect(await readdir(join(parent, "merged"))).toEqual(["a"]);
  });

  it("under a file cannot be written, which is told", async () => {
    await writeFile(join(parent, "file"), "x");
    await expect(OutputFolder.create(join(parent, "file/merged"))).rejects.toMatchObject({
      code: "write_failed",
    });
  });
});
