/** `iteris-web merge`. */
import { resolve, sep } from "node:path";
import {
  type CompareReport,
  type DeviceChoice,
  IterisError,
  type MergeReport,
  mergeInto,
  OutputFolder,
  type Progress,
} from "../index.ts";
import type { AdapterArgument } from "./adapters.ts";
import { checkFiles, checkSamples, outcomeOf } from "./check-recipe.ts";
import type { MergeCommand } from "./parse-merge.ts";
import { progressView } from "./progress.ts";
import { saidTable } from "./said.ts";
import { comparisonTable } from "./table.ts";
import type { Terminal } from "./terminal.ts";

/** What `--json` prints. */
export interface MergeOutcome {
  out: string;
  files: { name: string; bytes: number }[];
  device: DeviceChoice;
  report: MergeReport;
  comparison: CompareReport | null;
  /** There if the merge was made by a recipe: whether the files are those of the recipe's merge, byte for byte. */
  recipe?: { path: string; identical: boolean; different: string[] };
}

/** An adapter of the command line as `merge` takes it. */
export function adapterInput({ name, folder, samples, weight, compare }: AdapterArgument) {
  return { name, files: folder, samples, weight, heldOut: compare };
}

/** What a command line reads. */
export function inputsOf({ base, adapters }: Pick<MergeCommand, "base" | "adapters">): string[] {
  const own = adapters.flatMap(({ folder, samples, compare }) => [folder, samples, compare]);
  return [base, ...own].filter((path) => typeof path === "string");
}

/**
 * Replacing a folder must not take an input along.
 *
 * @throws IterisError `option_invalid` for an output folder that holds an input
 */
export function refuseInputsInside(out: string, inputs: readonly string[]): void {
  const folder = `${resolve(out)}${sep}`;
  const inside = inputs.find((path) => `${resolve(path)}${sep}`.startsWith(folder));
  if (inside === undefined) return;
  throw new IterisError(
    "option_invalid",
    `The output folder holds an input, which would go with it; choose another --out: ${inside}`,
  );
}

/** Merges, writes the folder, and says what was done. */
export async function runMerge(command: MergeCommand, terminal: Terminal): Promise<void> {
  const { base, adapters, out, force } = command;
  const recipe = command.recipe?.recipe;
  refuseInputsInside(out, inputsOf(command));
  const folder = await OutputFolder.create(out, { force });
  const view = progressView(terminal.stderr);
  const watch = { onProgress: (progress: Progress) => view.show(progress), signal: terminal.signal };
  let outcome: MergeOutcome;
  try {
    if (recipe !== undefined) await checkFiles(recipe, command, watch);
    const request = {
      base,
      adapters: adapters.map(adapterInput),
      options: command.options,
      labels: command.labels,
      device: command.device,
      workers: command.workers,
      ...watch,
    };
    const { device, report, comparison } = await mergeInto(request, folder);
    if (recipe !== undefined) checkSamples(recipe, report);
    outcome = {
      out,
      files: await folder.finish(),
      device,
      report,
      comparison,
      ...(command.recipe === undefined
        ? {}
        : { recipe: { path: command.recipe.path, ...outcomeOf(command.recipe.recipe, report) } }),
    };
  } catch (error) {
    await folder.discard();
    throw error;
  } finally {
    view.end();
  }
  terminal.stdout.write(command.json ? `${JSON.stringify(outcome)}\n` : describe(outcome));
}

function describe({ out, files, device, report, comparison, recipe }: MergeOutcome): string {
  const ranks = report.layers.map(({ rank }) => rank);
  const rank = ranks.length === 0 ? 0 : Math.max(...ranks);
  const lines = [
    `Merged ${report.adapters.map(({ name }) => name).join(", ")} with ${report.options.method} into ${out}`,
    `${report.layers.length} modules, rank ${rank}, ${report.seconds.total.toFixed(1)} s. ${device.why}`,
    ...(recipe === undefined ? [] : [repeated(recipe)]),
    ...report.notes.map((note) => `Note: ${note}`),
    ...files.map(({ name, bytes }) => `  ${name}  ${bytes} bytes`),
  ];
  const notes = comparison?.notes.map((note) => `Note: ${note}\n`).join("") ?? "";
  return `${lines.join("\n")}\n${comparison === null ? "" : `\n${comparisonTable(comparison)}${saidTable(comparison)}${notes}`}`;
}

function repeated({ path, identical, different }: NonNullable<MergeOutcome["recipe"]>): string {
  return identical
    ? `The files are those of the recipe's merge, byte for byte: ${path}`
    : `Not as the recipe's merge wrote it: ${different.join(", ")} (${path})`;
}
