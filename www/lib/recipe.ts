/**
 * `merge_report.json` as a recipe: what a merge was made of and how, so that it can be made again.
 *
 * Pure: nothing is opened here, so that page and command line both read recipes with it. A merge of other files than
 * the recipe's would pass for a repetition; so inputs are told apart by their SHA-256, and samples by that of their
 * tokens, which only a merge can tell ({@link samplesMismatches}).
 */
import { IterisError } from "./errors.ts";
import { methodFacts } from "./methods.ts";
import { camelCase, OPTIONS, type OptionName } from "./options.ts";
import type { DeviceKind, MergeOptions, MergeReport, ReportFile, SelfOptions } from "./types.ts";

/** A folder, or the one file of an adapter, as the recipe knows it. */
export interface RecipeInput {
  name: string;
  /** From the recipe's folder, `/` between the parts; `null` where the merge was not told. */
  path: string | null;
  files: readonly ReportFile[];
}

/** The calibration samples of an adapter. */
export interface RecipeSamples {
  /** The file's name, `null` for samples that never were in one. */
  source: string | null;
  /** From the recipe's folder; `null` where the merge was not told. */
  path: string | null;
  count: number;
  /** How the adapter wrote them itself, if it did. */
  self: SelfOptions | null;
  /** Whether a model wrote any of their tokens: then another device may write others. */
  written: boolean;
  /** Of the token ids. */
  sha256: string;
}

/** An adapter of a recipe. */
export interface RecipeAdapter extends RecipeInput {
  weight: number;
  /** `null` where the method needed none. */
  samples: RecipeSamples | null;
}

/** How a merge was made. */
export interface Recipe {
  /** Of the report's own format. */
  version: 1 | 2;
  /** The program and its version. */
  createdBy: string;
  options: Partial<MergeOptions>;
  device: DeviceKind;
  /** How many shared the work: where the model runs on samples, sums are added up in an order that depends on it. */
  workers: number;
  /** `null` where the merge needed none. */
  base: RecipeInput | null;
  adapters: readonly RecipeAdapter[];
  /** What the merge wrote. */
  output: readonly ReportFile[];
}

/** The inputs at hand, with the adapters by the recipe's names. */
export interface FoundInputs {
  base: readonly ReportFile[] | null;
  adapters: readonly { name: string; files: readonly ReportFile[] }[];
}

/** An input that is not the recipe's. */
export interface Mismatch {
  /** `base model`, or the adapter's name. */
  input: string;
  file: string;
  why: "missing" | "changed";
}

type Json = Readonly<Record<string, unknown>>;

function malformed(what: string): IterisError {
  return new IterisError(
    "config_invalid",
    `This is no recipe that can be read: ${what}. A recipe is the merge_report.json of a merge.`,
  );
}

function objectOf(value: unknown, where: string): Json {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  throw malformed(`${where} must be an object`);
}

function listOf(value: unknown, where: string): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw malformed(`${where} must be a list`);
}

function textOf(value: unknown, where: string): string {
  if (typeof value === "string") return value;
  throw malformed(`${where} must be a text`);
}

function numberOf(value: unknown, where: string): number {
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw malformed(`${where} must be a number`);
}

/** `null` for what is absent, as an older report leaves out what it did not know. */
function maybe<T>(value: unknown, where: string, read: (value: unknown, where: string) => T): T | null {
  return value === undefined || value === null ? null : read(value, where);
}

function filesOf(value: unknown, where: string): ReportFile[] {
  return listOf(value, where).map((entry, i) => {
    const file = objectOf(entry, `${where}[${i}]`);
    const sha256 = textOf(file.sha256, `${where}[${i}].sha256`);
    if (!/^[0-9a-f]{64}$/.test(sha256))
      throw malformed(`${where}[${i}].sha256 must be 64 hexadecimal digits`);
    return {
      name: textOf(file.name, `${where}[${i}].name`),
      bytes: numberOf(file.bytes, `${where}[${i}].bytes`),
      sha256,
    };
  });
}

function inputOf(value: unknown, where: string): RecipeInput {
  const input = objectOf(value, where);
  return {
    name: textOf(input.name, `${where}.name`),
    path: maybe(input.path, `${where}.path`, textOf),
    files: filesOf(input.files, `${where}.files`),
  };
}

function layerWeightsOf(value: unknown, where: string): Record<string, number[]> {
  const entries = Object.entries(objectOf(value, where));
  return Object.fromEntries(
    entries.map(([pattern, weights]) => [
      pattern,
      listOf(weights, `${where}["${pattern}"]`).map((weight) => numberOf(weight, `${where}["${pattern}"]`)),
    ]),
  );
}

function optionOf(name: string, value: unknown, where: string): unknown {
  if (!Object.hasOwn(OPTIONS, name)) {
    throw malformed(`${where} is an option that this version does not know; a newer one made it`);
  }
  const { kind, choices = {}, unset } = OPTIONS[name as OptionName];
  switch (kind) {
    case "word":
      if (typeof value === "string" && Object.hasOwn(choices, value)) return value;
      throw malformed(`${where} must be ${Object.keys(choices).join(" or ")}`);
    case "number":
    case "bytes":
      return unset === undefined ? numberOf(value, where) : maybe(value, where, numberOf);
    case "weights":
      return layerWeightsOf(value, where);
    case "flag":
      if (typeof value === "boolean") return value;
      throw malformed(`${where} must be true or false`);
  }
}

function optionsOf(value: unknown, version: 1 | 2): Partial<MergeOptions> {
  const { method, ...rest } = objectOf(value, "options");
  const name = textOf(method, "options.method");
  const options = Object.entries(rest).map(([key, one]) => {
    const camel = camelCase(key);
    return [camel, optionOf(camel, one, `options.${key}`)];
  });
  // The first version called the average linear, which now is what PEFT calls so: a sum.
  const meant = version === 1 && name === "linear" ? "average" : methodFacts(name).name;
  return { method: meant, ...Object.fromEntries(options) };
}

function samplesOf(value: unknown, where: string): RecipeSamples {
  const samples = objectOf(value, where);
  const own = maybe(samples.self, `${where}.self`, objectOf);
  const answers = textOf(samples.answers, `${where}.answers`);
  return {
    source: maybe(samples.source, `${where}.source`, textOf),
    path: maybe(samples.path, `${where}.path`, textOf),
    count: numberOf(samples.count, `${where}.count`),
    self: own === null ? null : selfOf(own, `${where}.self`),
    written: own !== null || answers === "own" || answers === "mixed",
    sha256: textOf(samples.sha256, `${where}.sha256`),
  };
}

/** `null` where the text that self-written samples began with is not told, as in the first version. */
function selfOf(own: Json, where: string): SelfOptions | null {
  const number = (key: string) => numberOf(own[key], `${where}.${key}`);
  const prompt = maybe(own.prompt, `${where}.prompt`, textOf);
  if (own.prompt === undefined && number("prompt_tokens") > 0) return null;
  return {
    count: number("count"),
    maxNewTokens: number("max_new_tokens"),
    temperature: number("temperature"),
    topP: number("top_p"),
    seed: number("seed"),
    ...(prompt === null ? {} : { prompt }),
  };
}

function adapterOf(value: unknown, where: string): RecipeAdapter {
  const adapter = objectOf(value, where);
  return {
    ...inputOf(adapter, where),
    weight: numberOf(adapter.weight, `${where}.weight`),
    samples: maybe(adapter.samples, `${where}.samples`, samplesOf),
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw malformed(`it is not JSON (${why})`);
  }
}

/**
 * Reads a recipe: a `merge_report.json` of this version or of the first.
 *
 * @throws IterisError `config_invalid` that tells what is wrong with it
 *
 * @example
 * ```ts
 * const recipe = readRecipe(await file.text());
 * const missing = mismatches(recipe, { base: await digestFiles(base), adapters: digests });
 * ```
 */
export function readRecipe(source: string | object): Recipe {
  const report = objectOf(typeof source === "string" ? parse(source) : source, "it");
  const { version } = report;
  if (version !== 1 && version !== 2) {
    throw malformed(
      `its version is ${JSON.stringify(version) ?? "not told"}, and this program knows 1 and 2`,
    );
  }
  const device = textOf(report.device, "device");
  if (device !== "cpu" && device !== "webgpu") throw malformed("device must be cpu or webgpu");
  const adapters = listOf(report.adapters, "adapters").map((one, i) => adapterOf(one, `adapters[${i}]`));
  if (adapters.length === 0) throw malformed("it names no adapter");
  return {
    version,
    createdBy: textOf(report.created_by, "created_by"),
    options: optionsOf(report.options, version),
    device,
    // Reports of older programs are of one.
    workers: maybe(report.workers, "workers", numberOf) ?? 1,
    base: maybe(report.base, "base", inputOf),
    adapters,
    output: filesOf(report.output, "output"),
  };
}

function compareFiles(
  input: string,
  wanted: readonly ReportFile[],
  found: readonly ReportFile[],
): Mismatch[] {
  const [only] = found;
  // A single file may have been renamed on its way; what it holds counts.
  const alone = wanted.length === 1 && found.length === 1 ? only : undefined;
  return wanted.flatMap(({ name, sha256 }): Mismatch[] => {
    const file = alone ?? found.find((one) => one.name === name);
    if (file === undefined) return [{ input, file: name, why: "missing" }];
    return file.sha256 === sha256 ? [] : [{ input, file: name, why: "changed" }];
  });
}

/**
 * Where the inputs at hand are not the recipe's; empty if all are. Files that the recipe does not name do not count.
 */
export function mismatches(recipe: Recipe, found: FoundInputs): Mismatch[] {
  const base = recipe.base === null ? [] : compareFiles("base model", recipe.base.files, found.base ?? []);
  const adapters = recipe.adapters.flatMap(({ name, files }) =>
    compareFiles(name, files, found.adapters.find((one) => one.name === name)?.files ?? []),
  );
  return [...base, ...adapters];
}

/** The options that decide which tokens samples are made of. */
const tokenOptions = ["max_length", "decoder_inputs", "max_new_tokens"] as const;

/**
 * Where a merge of the recipe's inputs has seen other samples than the recipe's merge; told by its report. Samples
 * that were meant to differ, by other options or on another device, do not count.
 */
export function samplesMismatches(
  recipe: Recipe,
  report: Pick<MergeReport, "options" | "device" | "adapters">,
): Mismatch[] {
  const same = tokenOptions.every((name) => {
    const before = recipe.options[camelCase(name) as keyof MergeOptions];
    return before === undefined || before === report.options[name];
  });
  if (!same) return [];
  return recipe.adapters.flatMap(({ name, samples }, i): Mismatch[] => {
    const now = report.adapters[i]?.samples ?? null;
    if (samples === null || now === null || samples.sha256 === now.sha256) return [];
    if (samples.written && recipe.device !== report.device) return [];
    if (!sameSelf(samples.self, now.self)) return [];
    return [{ input: name, file: samples.source ?? "samples", why: "changed" }];
  });
}

type ReportedSelf = NonNullable<MergeReport["adapters"][number]["samples"]>["self"];

function sameSelf(before: SelfOptions | null, now: ReportedSelf): boolean {
  if (before === null || now === null) return before === null && now === null;
  return (
    before.count === now.count &&
    before.maxNewTokens === now.max_new_tokens &&
    before.temperature === now.temperature &&
    before.topP === now.top_p &&
    before.seed === now.seed &&
    (before.prompt ?? null) === now.prompt
  );
}

/** The files of the recipe's merge that a repetition has written otherwise, or not at all. */
export function differences(recipe: Recipe, output: readonly ReportFile[]): string[] {
  return compareFiles("output", recipe.output, output).map(({ file }) => file);
}

/** The failure that mismatches are. */
export function recipeMismatch(found: readonly Mismatch[]): IterisError {
  const shown = found.slice(0, 8).map(({ input, file, why }) => `${input}: ${file} ${whys[why]}`);
  const more = found.length > shown.length ? `; and ${found.length - shown.length} more` : "";
  return new IterisError(
    "recipe_mismatch",
    "These are not the inputs that the recipe was made with. Give those, or merge without the recipe: " +
      `${shown.join("; ")}${more}`,
  );
}

const whys: Record<Mismatch["why"], string> = { missing: "is missing", changed: "is another one" };
