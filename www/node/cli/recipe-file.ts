/**
 * A recipe on disk: what it says of its inputs as paths of this machine.
 *
 * Its paths lead from its own folder, so that recipe and inputs can be moved together.
 */
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { IterisError, type Recipe, type RecipeSamples, readRecipe } from "../index.ts";
import type { KnownAdapter } from "./adapters.ts";

/** A recipe and where it stands. */
export interface RecipeFile {
  /** As the command line names it. */
  path: string;
  folder: string;
  recipe: Recipe;
}

/** @throws IterisError `read_failed`, or `config_invalid` for what is no recipe */
export function readRecipeFile(path: string): RecipeFile {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code === "ENOENT" ? "there is no such file" : String(cause);
    throw new IterisError("read_failed", `The recipe cannot be read (${why}): ${path}`, { cause });
  }
  try {
    return { path, folder: dirname(resolve(path)), recipe: readRecipe(text) };
  } catch (thrown) {
    if (!(thrown instanceof IterisError)) throw thrown;
    throw new IterisError(thrown.code, `${path}: ${thrown.message}`, { cause: thrown });
  }
}

/** The folder of the base model, if the recipe tells it. */
export function baseOf({ folder, recipe }: RecipeFile): string | undefined {
  const path = recipe.base?.path ?? null;
  return path === null ? undefined : resolve(folder, path);
}

/** What the recipe says of its adapters. */
export function adaptersOf({ folder, recipe }: RecipeFile): KnownAdapter[] {
  return recipe.adapters.map(({ name, weight, path, samples }) => ({
    name,
    weight,
    folder: path === null ? null : resolve(folder, path),
    samples: samples === null ? undefined : samplesOf(samples, folder),
  }));
}

function samplesOf({ self, path }: RecipeSamples, folder: string): KnownAdapter["samples"] {
  if (self !== null) return { self };
  return path === null ? null : resolve(folder, path);
}
