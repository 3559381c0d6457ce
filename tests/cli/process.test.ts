/** The built command as a process: what signals do to it, and that its output stands apart. Needs dist/. */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Tiny, writeTiny } from "../tiny.ts";

const cli = join(import.meta.dirname, "../../dist/cli.js");

let folder: string;
let tiny: Tiny;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-process-"));
  tiny = writeTiny(folder);
});
afterEach(() => rmSync(folder, { recursive: true }));

type Child = ChildProcessByStdio<null, Readable, Readable>;

function start(...more: string[]): Child {
  const adapters = tiny.adapters.flatMap(({ files, samples }) => ["--adapter", files, "--samples", samples]);
  const line = [
    "merge",
    "--base",
    tiny.base,
    ...adapters,
    "--out",
    join(folder, "merged"),
    "--device",
    "cpu",
  ];
  return spawn(process.execPath, [cli, ...line, ...more], { stdio: ["ignore", "pipe", "pipe"] });
}

/** Samples enough for many micro-batches, which take a while. */
function makeLong(): void {
  for (const { samples } of tiny.adapters) {
    const lines = readFileSync(samples, "utf8");
    writeFileSync(samples, `${lines.trim()}\n`.repeat(1000));
  }
}

/** Resolves when the model runs. */
async function running(child: Child): Promise<void> {
  let said = "";
  for await (const chunk of child.stderr) {
    said += chunk;
    if (said.includes("running the model")) return;
  }
  throw new Error(`the merge ended by itself: ${said}`);
}

const outputs = () => readdirSync(folder).filter((name) => name.includes("merged"));

test("standard output holds one JSON object, standard error the progress", async () => {
  const child = start("--json");
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "exit"),
  ]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining("running the model: 0 %") });
  expect(JSON.parse(stdout).report.layers.length).toBeGreaterThan(0);
  expect(outputs()).toEqual(["merged"]);
});

test.each(["SIGINT", "SIGTERM"] as const)(
  "%s cancels, removes what was written, and exits 1",
  async (signal) => {
    makeLong();
    const child = start("--json");
    let sent = 0;
    const stop = async () => {
      await running(child);
      sent = performance.now();
      child.kill(signal);
    };
    const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, "exit"), stop()]);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: "cancelled" } });
    expect(outputs()).toEqual([]);
    // Less than the patience after which it would have been ended by force.
    expect(performance.now() - sent).toBeLessThan(9500);
  },
);

test("a killed run leaves no output folder, and what it left goes with the next", async () => {
  const short = tiny.adapters.map(({ samples }) => [samples, readFileSync(samples, "utf8")] as const);
  makeLong();
  const child = start();
  await Promise.all([once(child, "exit"), running(child).then(() => child.kill("SIGKILL"))]);
  expect(outputs()).toEqual([expect.stringMatching(/^\.merged-unfinished-/)]);
  for (const [path, text] of short) writeFileSync(path, text);
  expect(await once(start(), "exit")).toEqual([0, null]);
  expect(outputs()).toEqual(["merged"]);
});
