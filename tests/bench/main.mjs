// The benchmark: real merges through the command line of dist/, each in a process of its own, so that one run's memory
// is not the next one's. The times are those of merge_report.json.
//
//     npm run bench [-- --fixtures DIR] [--rounds N]
//
// The emotion fixtures (three adapters of MiniLM) where they are there, otherwise the built-in example, which is far
// smaller: its numbers show that the benchmark runs, not how fast the program is.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { cache, distFolder, root } from "../../xtask/paths.mjs";
import { nativeRust } from "../../xtask/steps/rust.mjs";
import { fetchMiniLm } from "../minilm.mjs";

const { values } = parseArgs({
  options: {
    fixtures: { type: "string", default: join(root, "../shared/fixtures/emotion") },
    rounds: { type: "string", default: "3" },
  },
});
const rounds = Number(values.rounds);
const inputs = existsSync(values.fixtures) ? emotion(values.fixtures) : example();

const runs = [
  { schedule: "sweep", device: "cpu", args: ["--schedule", "sweep"] },
  { schedule: "iterate 1", device: "cpu", args: ["--schedule", "iterate", "--max-iter", "1"] },
  { schedule: "iterate 3", device: "cpu", args: ["--schedule", "iterate", "--max-iter", "3"] },
  { schedule: "sweep", device: "webgpu", args: ["--schedule", "sweep"] },
];

console.log(
  `${inputs.title}; Node ${process.version}, ${cpus()[0]?.model ?? "unknown processor"}; best of ${rounds}\n`,
);
const rows = [
  [
    "schedule",
    "device",
    "total s",
    "load",
    "forward",
    "Gram",
    "solve",
    "write",
    "GFLOP/s forward",
    "Gram",
    "peak MiB",
  ],
];
for (const { schedule, device, args } of runs) rows.push([schedule, device, ...measure(device, args)]);
if (inputs.emotion) {
  rows.push(["sweep", "native, 1 core", ...(await native())]);
  rows.push(["iterate 1", "PyTorch", ...pytorch(1)], ["iterate 6", "PyTorch", ...pytorch(6)]);
}
const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
for (const row of rows) {
  console.log(
    row
      .map((cell, column) =>
        column < 2 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join("  "),
  );
}

/**
 * The best of several runs, as the cells of a row; on a device that is not there, the reason.
 * @param {string} device
 * @param {string[]} args
 */
function measure(device, args) {
  const results = [];
  for (let round = 0; round < rounds; round += 1) {
    const result = merge(device, args);
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
  const rate = (/** @type {number} */ count, /** @type {number} */ time) => (count / time / 1e9).toFixed(1);
  return [
    ...["total", "load", "forward", "gram", "solve", "write"].map((stage) => seconds[stage].toFixed(2)),
    rate(operations.forward, seconds.forward),
    rate(operations.gram, seconds.gram),
    String(Math.round(peakBytes / 2 ** 20)),
  ];
}

/** The same core compiled for this machine: what the CPU device is to be held against. */
async function native() {
  const { cargo, env } = await nativeRust();
  const args = [
    "run",
    "--quiet",
    "--locked",
    "--example",
    "native_bench",
    "--",
    fetchMiniLm(),
    values.fixtures,
  ];
  const result = spawnSync(cargo, args, { cwd: root, encoding: "utf8", env: { ...process.env, ...env } });
  if (result.status !== 0) return [result.stderr.trim().split("\n").at(-1) ?? ""];
  const report = JSON.parse(result.stdout);
  return cells(report, report.peak_bytes);
}

/**
 * The published algorithm in PyTorch, where `npm run test:peers` has made its environment.
 * @param {number} passes
 */
function pytorch(passes) {
  const python = join(cache, "peers/bin/python");
  if (!existsSync(python)) return ["npm run test:peers makes its environment"];
  const args = [join(import.meta.dirname, "peer.py"), fetchMiniLm(), values.fixtures, String(passes)];
  const result = spawnSync(python, args, { encoding: "utf8" });
  if (result.status !== 0) return [result.stderr.trim().split("\n").at(-1) ?? ""];
  const { total, peak_bytes } = JSON.parse(result.stdout);
  return [total.toFixed(2), "", "", "", "", "", "", "", String(Math.round(peak_bytes / 2 ** 20))];
}

/**
 * @param {string} device
 * @param {string[]} args
 * @returns {{ report: any, peakBytes: number } | string} a string: why it does not run here
 */
function merge(device, args) {
  const work = mkdtempSync(join(tmpdir(), "iteris-bench-"));
  try {
    const out = join(work, "merged");
    const peakFile = join(work, "peak");
    const hook = ["--import", join(import.meta.dirname, "peak-memory.mjs"), join(distFolder, "cli.js")];
    const command = [...hook, "merge", ...inputs.args, ...args, "--device", device, "--out", out, "--json"];
    const result = spawnSync(process.execPath, command, {
      encoding: "utf8",
      env: { ...process.env, ITERIS_PEAK_MEMORY: peakFile },
      maxBuffer: 2 ** 28,
    });
    if (result.status !== 0) {
      const why = result.stderr.trim().split("\n").at(-1) ?? "";
      if (device === "webgpu") return why;
      throw new Error(`the merge failed: ${why}`);
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

function example() {
  const folder = join(root, "www/example");
  const { base, adapters } = JSON.parse(readFileSync(join(folder, "example.json"), "utf8"));
  const folderOf = (/** @type {string[]} */ files) => dirname(join(folder, files[0] ?? ""));
  console.log(`No fixtures at ${values.fixtures}: the built-in example instead`);
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
