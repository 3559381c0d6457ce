/** Holds the inputs of a merge against its recipe: the files before the merge, the samples' tokens after it. */
import {
  differences,
  digestFiles,
  type MergeReport,
  mismatches,
  type Recipe,
  type RecipeInput,
  type ReportFile,
  type RunControl,
  recipeMismatch,
  samplesMismatches,
} from "../index.ts";
import type { MergeCommand } from "./parse-merge.ts";

type Watch = Pick<RunControl, "onProgress" | "signal">;

/** The files of an input that the recipe names; whatever else lies beside them is not read. */
function digests(path: string, { files }: RecipeInput, watch: Watch): Promise<ReportFile[]> {
  // A single file may bear another name than it had.
  const names = files.length === 1 ? undefined : files.map(({ name }) => name);
  return digestFiles(path, { ...watch, names });
}

/** @throws IterisError `recipe_mismatch` that names the files; `read_failed` where there are none */
export async function checkFiles(
  recipe: Recipe,
  { base, adapters }: Pick<MergeCommand, "base" | "adapters">,
  watch: Watch,
): Promise<void> {
  const found: { name: string; files: ReportFile[] }[] = [];
  for (const [i, adapter] of recipe.adapters.entries()) {
    const path = adapters[i]?.folder;
    const files = path === undefined ? [] : await digests(path, adapter, watch);
    found.push({ name: adapter.name, files });
  }
  const ofBase = recipe.base === null || base === undefined ? null : await digests(base, recipe.base, watch);
  const wrong = mismatches(recipe, { base: ofBase, adapters: found });
  if (wrong.length > 0) throw recipeMismatch(wrong);
}

/** @throws IterisError `recipe_mismatch` that names the samples */
export function checkSamples(recipe: Recipe, report: MergeReport): void {
  const wrong = samplesMismatches(recipe, report);
  if (wrong.length > 0) throw recipeMismatch(wrong);
}

/** Whether the merge has given the recipe's very files, and if not, which differ. */
export function outcomeOf(recipe: Recipe, report: MergeReport): { identical: boolean; different: string[] } {
  const different = differences(recipe, report.output);
  return { identical: different.length === 0, different };
}
