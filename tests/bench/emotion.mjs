// Merges through the command line of dist/: the emotion fixtures (three adapters of MiniLM) where they are there,
// otherwise the built-in example, which is far smaller: its numbers show that the benchmark runs, not how fast the
// program is.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { distFolder, peersFolder, root } from "../../xtask/paths.mjs";
import { nativeRust } from "../../xtask/steps/rust.mjs";
import { fetchMiniLm } from "../minilm.mjs";
import { gigaflops, lastLine, mebibytes, printTable } from "./table.mjs";

const runs = [
  { schedule: "sweep", device: "cpu", workers: 1, args: ["--schedule", "sweep"] },
  { schedule: "sweep", device: "cpu", workers: availableParallelism(), args: ["--schedule", "sweep"] },
  { schedule: "iterate 1", device: "cpu", workers: 1, args: ["--schedule", "iterate", "--max-iter", "1"] },
  { schedule: "iterate 3", device: "cpu", workers: 1, args: ["--schedule", "iterate", "--max-iter", "3"] },
  { schedule: "sweep", device: "webgpu", workers: 1, args: ["--schedule", "sweep"] },
];

const stages = ["total", "load", "forward", "gram", "wait", "solve", "write"];

/** @param {{ fixtures: string, rounds: number, machine: string }} options */
export async function benchEmotion({ fixtures, rounds, machine }) {
  const inputs = existsSync(fixtures) ? emotion(fixtures) : example(fixtures);
  console.log(`${inputs.title}; ${machine}; best of ${rounds}\n`);
  const heading = [
    "total s",
    "load",
    "forward",
    "Gram",
    "wait",
    "solve",
    "write",
    "GFLOP/s forward",
    "Gram",
    "peak MiB",
  ];
  const rows = [["schedule", "device", ...heading]];
  for (const { schedule, device, workers, args } of runs) {
    const line = [...inputs.args, ...args, "--workers", String(workers)];
    rows.push([
      schedule,
      workers > 1 ? `${device}, ${workers} workers` : device,
      ...measure(line, device, rounds),
    ]);
  }
  if (inputs.emotion) {
    rows.push(["sweep", "native, 1 core", ...(await native(fixtures))]);
    for (const passes of [1, 6]) rows.push([`iterate ${passes}`, "PyTorch", ...pytorch(fixtures, passes)]);
  }
  printTable(rows, 2);
}

/**
 * The best of several runs, as the cells of a row; on a device that is not there, the reason.
 * @param {string[]} args
 * @param {string} device
 * @param {number} rounds
 */
function measure(args, device, rounds) {
  const results = [];
  for (let round = 0; round < rounds; round += 1) {
    const result = merge(args, device);
    if (typeof result === "string") return [result];
    results.push(result);
  }
  const best = results.reduce((a, b) => (b.report.seconds.total < a.report.seconds.total ? b : a));
  return cells(best.report, Math.min(...results.map((result) => result.peakBytes)));
}

/**
 * The cells of a row.
 * @param {any} report
 * @param {number} peakBytes
 */
function cells({ seconds, operations }, peakBytes) {
  return [
    ...stages.map((stage) => seconds[stage].toFixed(2)),
    gigaflops(operations.forward, seconds.forward),
    gigaflops(operations.gram, seconds.gram),
    mebibytes(peakBytes),
  ];
}

/** The same core compiled for this machine: what the CPU device is to be held against. @param {string} fixtures */
async function native(fixtures) {
  const { cargo, env } = await nativeRust();
  const command = ["run", "--quiet", "--locked", "--example", "native_bench", "--"];
  const args = [...command, "emotion", fetchMiniLm(), fixtures];
  const result = spawnSync(cargo, args, { cwd: root, encoding: "utf8", env: { ...process.env, ...env } });
  if (result.status !== 0) return [lastLine(result)];
  const report = JSON.parse(result.stdout);
  return cells(report, report.peak_bytes);
}

/**
 * The published algorithm in PyTorch, where `npm run test:peers` has made its environment.
 * @param {string} fixtures
 * @param {number} passes
 */
function pytorch(fixtures, passes) {
  const python = join(peersFolder, "bin/python");
  if (!existsSync(python)) return ["npm run test:peers makes its environment"];
  const args = [join(import.meta.dirname, "peer.py"), fetchMiniLm(), fixtures, String(passes)];
  const result = spawnSync(python, args, { encoding: "utf8" });
  if (result.status !== 0) return [lastLine(result)];
  const { total, peak_bytes } = JSON.parse(result.stdout);
  return [total.toFixed(2), ...Array(stages.length + 1).fill(""), mebibytes(peak_bytes)];
}

/**
 * @param {string[]} args
 * @param {string} device
 * @returns {{ report: any, peakBytes: number } | string} a string: why it does not run here
 */
function merge(args, device) {
  const work = mkdtempSync(join(tmpdir(), "iteris-bench-"));
  try {
    const out = join(work, "merged");
    const peakFile = join(work, "peak");
    const hook = ["--import", join(import.meta.dirname, "peak-memory.mjs"), join(distFolder, "cli.js")];
    const command = [...hook, "merge", ...args, "--device", device, "--out", out, "--json"];
    const result = spawnSync(process.execPath, command, {
      encoding: "utf8",
      env: { ...process.env, ITERIS_PEAK_MEMORY: peakFile },
      maxBuffer: 2 ** 28,
    });
    if (result.status !== 0) {
      if (device === "webgpu") return lastLine(result);
      throw new Error(`the merge failed: ${lastLine(result)}`);
    }
    return {
      report: JSON.parse(readFileSync(join(out, "merge_report.json"), "utf8")),
      peakBytes: Number(readFileSync(peakFile, "utf8")),
    };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** @param {string} folder */
function emotion(folder) {
  const tasks = ["emoint", "emotion-cause", "isear"];
  const adapters = tasks.flatMap((task) => [
    "--adapter",
    join(folder, task),
    "--samples",
    join(folder, `${task}.samples.txt`),
  ]);
  return {
    title:
      "Emotion fixtures: MiniLM (22 million parameters), three adapters, 50 samples each of at most 64 tokens",
    args: ["--base", fetchMiniLm(), "--max-length", "64", ...adapters],
    emotion: true,
  };
}

/** @param {string} fixtures */
function example(fixtures) {
  const folder = join(root, "www/example");
  const { base, adapters } = JSON.parse(readFileSync(join(folder, "example.json"), "utf8"));
  const folderOf = (/** @type {string[]} */ files) => dirname(join(folder, files[0] ?? ""));
  console.log(`No fixtures at ${fixtures}: the built-in example instead`);
  return {
    title: "Built-in example",
    args: [
      "--base",
      folderOf(base),
      ...adapters.flatMap((/** @type {any} */ { files, samples }) => [
        "--adapter",
        folderOf(files),
        "--samples",
        join(folder, samples),
      ]),
    ],
    emotion: false,
  };
}
