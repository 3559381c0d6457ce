// Merges without samples of adapters of true names and shapes (adapters.py): ours in wasm, and the same in PyTorch
// (adapters_peer.py), each call in a process of its own, one after another.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { cache, peersFolder } from "../../xtask/paths.mjs";
import { lastLine, mebibytes, printMarkdown } from "./table.mjs";

/** The operations, the options of ours, and what the peer calls it. @type {Record<string, { options?: Record<string, unknown>, peer: string }>} */
const OPERATIONS = {
  inspect: { peer: "inspect" },
  linear: { options: { method: "linear" }, peer: "linear" },
  svd: { options: { method: "svd" }, peer: "svd" },
  // Density 0.5 and the cut to the adapters' rank are PEFT's defaults and ours.
  ties: { options: { method: "ties_svd" }, peer: "ties" },
  "ties-peft": { peer: "ties-peft" },
};

/**
 * @typedef {{ adapters: string[], rank: number, base: string | null }} Kind paths
 * @typedef {{ seconds: number, start?: number, peak_bytes: number, module_bytes?: number, difference?: number }} Took
 */

/**
 * @param {{ names: string, operations: string, threads: number, limit: number, machine: string }} options `names` and
 *   `operations` with commas between; `limit`: seconds of a call
 */
export function benchAdapters({ names, operations, threads, limit, machine }) {
  const python = join(peersFolder, "bin/python");
  if (!existsSync(python)) throw new Error("npm run test:peers makes the environment of the peer");
  const wanted = [join(cache, "bench"), ...names.split(","), "--json"];
  const written = spawnSync(python, [join(import.meta.dirname, "adapters.py"), ...wanted], {
    encoding: "utf8",
  });
  if (written.status !== 0) throw new Error(`the adapters were not written: ${lastLine(written)}`);
  /** @type {Record<string, Kind>} */
  const kinds = JSON.parse(written.stdout);
  const work = mkdtempSync(join(cache, "bench-"));
  const rows = [
    [
      "adapters",
      "operation",
      "ours s",
      "start s",
      "wasm MiB",
      "process MiB",
      "PyTorch s",
      "process MiB",
      "difference",
    ],
  ];
  try {
    for (const [name, kind] of Object.entries(kinds)) {
      for (const operation of operations.split(",")) {
        const row = [name, operation, ...bench({ kind, operation, python, threads, limit, work })];
        // A run of all takes an hour; the table comes last.
        console.error(row.join("  "));
        rows.push(row);
      }
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  console.log(`Adapters without samples; PyTorch on ${threads} threads; ${machine}\n`);
  printMarkdown(rows, 2);
}

/**
 * The cells of a row.
 * @param {{ kind: Kind, operation: string, python: string, threads: number, limit: number, work: string }} options
 */
function bench({ kind, operation, python, threads, limit, work }) {
  const way = OPERATIONS[operation];
  if (!way) throw new Error(`--operations ${operation}: one of ${Object.keys(OPERATIONS).join(", ")}`);
  const { adapters, rank } = kind;
  const base = kind.base ?? undefined;
  const single = adapters[0]?.endsWith(".safetensors");
  const out = mkdtempSync(join(work, "out-"));
  const ours = join(out, "ours");
  const theirs = join(out, single ? "theirs.safetensors" : "theirs");
  try {
    const output = base === undefined ? {} : { output: "base" };
    const inspects = operation === "inspect";
    const call = inspects
      ? { adapters }
      : { adapters, base, options: { ...way.options, ...output }, out: ours };
    const own =
      inspects || way.options ? run(process.execPath, [runScript, JSON.stringify(call)], limit) : null;
    const words = inspects ? adapters.slice(0, 1) : [`${rank}`, `${threads}`, theirs, ...adapters];
    // Into a base there is no peer: PEFT's way holds all of it in memory, in f32 26 GB.
    const peer = base === undefined ? run(python, [peerScript, way.peer, ...words], limit) : null;
    const both = !inspects && isTook(own) && isTook(peer);
    const merged = single ? join(ours, "merged_lora.safetensors") : ours;
    const gap = both ? run(python, [peerScript, "difference", merged, theirs], limit) : null;
    return [
      told(own, ({ seconds }) => seconds.toFixed(2)),
      isTook(own) ? (own.start ?? 0).toFixed(2) : "",
      isTook(own) ? mebibytes(own.module_bytes ?? 0) : "",
      isTook(own) ? mebibytes(own.peak_bytes) : "",
      told(peer, ({ seconds }) => seconds.toFixed(2)),
      isTook(peer) ? mebibytes(peer.peak_bytes) : "",
      told(gap, ({ difference = 0 }) => difference.toExponential(0)),
    ];
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

/** @param {Took | string | null} took @returns {took is Took} */
const isTook = (took) => took !== null && typeof took === "object";

/** What there is to tell, or why there is nothing. @param {Took | string | null} took @param {(took: Took) => string} tell */
const told = (took, tell) => (isTook(took) ? tell(took) : (took ?? ""));

const runScript = join(import.meta.dirname, "adapters-run.mjs");
const peerScript = join(import.meta.dirname, "adapters_peer.py");

/**
 * @param {string} program
 * @param {string[]} words
 * @param {number} limit seconds
 * @returns {Took | string} a string: why there are no numbers
 */
function run(program, words, limit) {
  const done = spawnSync(program, words, { encoding: "utf8", timeout: limit * 1e3, maxBuffer: 2 ** 28 });
  if (done.error && "code" in done.error && done.error.code === "ETIMEDOUT") return `> ${limit} s`;
  if (done.status !== 0) {
    // Node's own last line is its version.
    const error = done.stderr.split("\n").find((line) => /^\w*Error\b/.test(line));
    return error ?? (lastLine(done) || `ended by ${done.signal}`);
  }
  return JSON.parse(done.stdout);
}
