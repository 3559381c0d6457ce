// Every merge method on the emotion fixtures: three adapters of MiniLM, calibrated on 50 unlabelled texts each and
// compared on held-out texts, evenly taken from the up to 600 of each task. It prints what each method keeps of every
// task, and how long its merge took.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { distFolder } from "../../xtask/paths.mjs";
import { fetchMiniLm } from "../minilm.mjs";
import { lastLine, printTable } from "./table.mjs";

const TASKS = ["emoint", "emotion-cause", "isear"];

/**
 * @param {{ fixtures: string, methods: string, texts: number, machine: string, more: readonly string[] }} options
 *   `methods` as the command line takes them; `texts` a task; `more` options of `iteris-web compare`
 */
export function benchMethods({ fixtures, methods, texts, machine, more }) {
  if (!existsSync(fixtures)) {
    console.log(`The table of methods needs the emotion fixtures, and there are none at ${fixtures}`);
    return;
  }
  const work = mkdtempSync(join(tmpdir(), "iteris-bench-"));
  try {
    const adapters = TASKS.flatMap((task) => {
      const heldOut = join(work, `${task}.jsonl`);
      writeFileSync(heldOut, evenly(readFileSync(join(fixtures, `${task}.test.jsonl`), "utf8"), texts));
      const samples = join(fixtures, `${task}.samples.txt`);
      return ["--adapter", join(fixtures, task), "--samples", samples, "--compare", heldOut];
    });
    const inputs = ["--base", fetchMiniLm(), "--max-length", "64", ...adapters];
    const command = ["compare", ...inputs, "--methods", methods, ...more, "--device", "cpu", "--json"];
    const result = spawnSync(process.execPath, [join(distFolder, "cli.js"), ...command], {
      encoding: "utf8",
      maxBuffer: 2 ** 28,
    });
    if (result.status !== 0) throw new Error(`the comparison failed: ${lastLine(result)}`);
    print(JSON.parse(result.stdout), machine);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** So many of a file's lines, at equal distances. @param {string} text @param {number} count */
function evenly(text, count) {
  const lines = text.trim().split("\n");
  const step = Math.max(1, lines.length / count);
  const some = Array.from({ length: Math.min(count, lines.length) }, (_, i) => lines[Math.floor(i * step)]);
  return some.join("\n");
}

/** @param {{ variants: any[], report: any }} result @param {string} machine */
function print({ variants, report }, machine) {
  console.log(
    `Emotion fixtures: MiniLM, three adapters; right answers in percent on held-out texts; ${machine}\n`,
  );
  const names = ["base", "adapter", ...variants.map((/** @type {any} */ { name }) => name)];
  const rows = [["method", ...TASKS, "mean", "agreement", "residual", "seconds"]];
  for (const name of names) {
    const scores = report.tasks.map((/** @type {any} */ task) =>
      task.variants.find((/** @type {any} */ { variant }) => variant === name),
    );
    const accuracies = scores.map((/** @type {any} */ score) => score.accuracy);
    const residuals = report.residuals
      .filter((/** @type {any} */ { variant }) => variant === name)
      .map((/** @type {any} */ { residual }) => residual);
    const made = variants.find((/** @type {any} */ variant) => variant.name === name);
    rows.push([
      name,
      ...accuracies.map(percent),
      percent(mean(accuracies)),
      percent(mean(scores.map((/** @type {any} */ score) => score.agreement))),
      residuals.length > 0 ? mean(residuals).toFixed(3) : "",
      made === undefined ? "" : made.seconds.toFixed(2),
    ]);
  }
  printTable(rows);
}

/** @param {number[]} values */
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
/** @param {number} share */
const percent = (share) => (100 * share).toFixed(1);
