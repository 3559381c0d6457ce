/** `iteris-web merge …`, parsed into what it asks for. */
import { readdirSync } from "node:fs";
import { basename } from "node:path";
import {
  type DeviceRequest,
  defaultValues,
  type MergeOptions,
  methodFacts,
  SELF_OPTIONS,
  type WorkersRequest,
} from "../index.ts";
import { type AdapterArgument, adapterOptions, readAdapters } from "./adapters.ts";
import { methodOptions, readMethod, readMethodOptions, refuseUseless, writeOut } from "./method-options.ts";
import { adaptersOf, baseOf, type RecipeFile, readRecipeFile } from "./recipe-file.ts";
import { flag, help, list, optional, readWords, text, Usage } from "./values.ts";

/** What `iteris-web merge` is asked for. */
export interface MergeCommand {
  command: "merge";
  /** `undefined` where a method needs none. */
  base: string | undefined;
  adapters: AdapterArgument[];
  out: string;
  force: boolean;
  options: Partial<MergeOptions>;
  /** Classes that a model of pictures and texts chooses from. */
  labels: string[] | undefined;
  device: DeviceRequest;
  workers: WorkersRequest;
  /** What the inputs are held against. */
  recipe: RecipeFile | undefined;
  json: boolean;
}

const usage = new Usage("merge");

const table = {
  recipe: text,
  base: text,
  ...adapterOptions,
  out: text,
  force: flag,
  method: text,
  ...methodOptions,
  label: list,
  device: text,
  workers: text,
  json: flag,
  help,
} as const;

/** @throws IterisError `option_invalid` with what is wrong and where the help is; what reading a recipe gives */
export function parseMerge(args: string[]): MergeCommand | { command: "help"; of: "merge" } {
  const { values, given } = readWords(writeOut(args), table, usage);
  if (values.help) return { command: "help", of: "merge" };
  const recipe = optional(values.recipe, readRecipeFile);
  const out = values.out ?? recipe?.folder;
  if (out === undefined) throw usage.error("--out is missing: the folder to write to.");
  const asked = optional(values.method, (name) => readMethod("method", name, usage));
  const method = asked ?? methodFacts(recipe?.recipe.options.method ?? defaultValues.method);
  const drawn = method.options.includes("seed");
  const seed = drawn
    ? undefined
    : optional(values.seed, (value) => usage.inRange("seed", value, SELF_OPTIONS.seed.range));
  const known = recipe === undefined ? null : adaptersOf(recipe);
  const adapters = readAdapters(given, known, { seed, samples: method.samples }, usage);
  const options: Partial<MergeOptions> = {
    ...recipe?.recipe.options,
    // The one takes the other's place.
    ...(recipe !== undefined && values.energy !== undefined ? { rank: null } : {}),
    ...(recipe !== undefined && values.rank !== undefined ? { energy: null } : {}),
    ...(asked === undefined ? {} : { method: asked.name }),
    ...readMethodOptions(values, [method], adapters.length, usage),
  };
  const compares = adapters.some(({ compare }) => compare !== undefined);
  const writes = adapters.some(({ samples }) => typeof samples === "object");
  refuseUseless(
    values,
    { methods: [method], named: `--method ${method.name}`, options, writes, compares },
    usage,
  );
  if (values.label !== undefined && !compares) {
    throw usage.error(
      "--label does nothing without --compare: classes are chosen from when results are compared.",
    );
  }
  const base = values.base ?? optional(recipe, baseOf);
  if (base === undefined) refuseWithoutBase({ samples: method.samples, compares, options, recipe });
  return {
    command: "merge",
    base,
    adapters,
    out,
    force: (values.force ?? false) || (values.out === undefined && holdsOnly(recipe)),
    options,
    labels: values.label,
    // What another device computes differs in its last bits.
    device: values.device === undefined && recipe ? recipe.recipe.device : usage.device(values.device),
    // Nor do others add up in the same order.
    workers: values.workers === undefined && recipe ? recipe.recipe.workers : usage.workers(values.workers),
    recipe,
    json: values.json ?? false,
  };
}

function refuseWithoutBase(what: {
  samples: boolean;
  compares: boolean;
  options: Partial<MergeOptions>;
  recipe: RecipeFile | undefined;
}): void {
  if (what.recipe !== undefined && what.recipe.recipe.base !== null) {
    throw usage.error("--base is missing: the recipe does not tell where the folder of the base model is.");
  }
  const why = what.samples
    ? "the method runs it on samples"
    : what.compares
      ? "--compare runs it"
      : what.options.output === "base"
        ? "--output base writes it"
        : null;
  if (why !== null) throw usage.error(`--base is missing: the folder of the base model; ${why}.`);
}

/** Whether a merge into the recipe's own folder replaces nothing but the recipe. */
function holdsOnly(recipe: RecipeFile | undefined): boolean {
  if (recipe === undefined) return false;
  const there = readdirSync(recipe.folder);
  return there.length === 1 && there[0] === basename(recipe.path);
}
