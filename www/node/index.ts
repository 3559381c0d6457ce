/**
 * The Node entry of `iteris-web`: the same functions as in a browser, with paths where browsers have files.
 *
 * @example
 * ```ts
 * import { writeFile } from "node:fs/promises";
 * import { merge } from "iteris-web";
 *
 * const { files } = await merge({
 *   base: "models/minilm",
 *   adapters: [
 *     { name: "emotion", files: "adapters/emotion", samples: "emotion.txt" },
 *     { name: "topic", files: "adapters/topic", samples: "topic.jsonl" },
 *   ],
 * });
 * for (const { name, blob } of files) await writeFile(name, blob.stream());
 * ```
 */
import { join } from "node:path";
import { keepingFiles } from "../lib/engine/compare-methods.ts";
import { BlobSink } from "../lib/engine/sink.ts";
import { factsOf } from "../lib/samples/facts.ts";
import { kindOfWeights } from "../lib/sources/weights-kind.ts";
import type {
  AdapterFacts,
  BaseFacts,
  CompareMethodsResult,
  CompareResult,
  DeviceChoice,
  DeviceRequest,
  DigestControl,
  GenerateResult,
  MergeOptions,
  MergePlan,
  MergeResult,
  ReportFile,
  SamplesFacts,
  WeightsKind,
} from "../lib/types.ts";
import { withEngine } from "./engine.ts";
import type { NodeFilesInput, NodeSamplesInput } from "./files.ts";
import type { OutputFolder } from "./output-folder.ts";
import {
  type CompareMethodsOutcome,
  compareMethodsToSinks,
  compareNow,
  digestsNow,
  generateNow,
  mergeToSink,
  type NodeCompareMethodsRequest,
  type NodeCompareRequest,
  type NodeGenerateRequest,
  type NodeMergeRequest,
  type NodePlanRequest,
  planNow,
  withFiles,
} from "./run.ts";

export type { ErrorCode } from "../lib/errors.ts";
export { errorCodes, IterisError, toIterisError } from "../lib/errors.ts";
export { GENERATE_OPTIONS, SELF_OPTIONS } from "../lib/generated.ts";
export type { LayerWeightsEntry } from "../lib/layer-weights.ts";
export { readLayerWeights, writeLayerWeights } from "../lib/layer-weights.ts";
export type { MethodFacts } from "../lib/methods.ts";
export { METHODS, methodFacts, methodNamed } from "../lib/methods.ts";
export type { FlagKinds, NumberRange, OptionFacts, OptionName, WordOption } from "../lib/options.ts";
export {
  defaultValues,
  deviceChoices,
  isInRange,
  OPTIONS,
  optionChoices,
  optionNames,
  workersRange,
} from "../lib/options.ts";
export { Pace, shareOf } from "../lib/pace.ts";
export type { PatternGroup } from "../lib/patterns.ts";
export { groupByPattern } from "../lib/patterns.ts";
export type {
  FoundInputs,
  Mismatch,
  Recipe,
  RecipeAdapter,
  RecipeInput,
  RecipeSamples,
} from "../lib/recipe.ts";
export {
  differences,
  mismatches,
  readRecipe,
  recipeMismatch,
  samplesMismatches,
} from "../lib/recipe.ts";
export { previewOf } from "../lib/samples/facts.ts";
export { holdsPictures } from "../lib/samples/open.ts";
export { saysTheSame } from "../lib/samples/said.ts";
export type * from "../lib/types.ts";
export type { NodeFilesInput, NodeImageInput, NodeSamplesInput } from "./files.ts";
export { OutputFolder } from "./output-folder.ts";
export type {
  CompareMethodsOutcome,
  NodeCompareMethodsRequest,
  NodeCompareRequest,
  NodeGenerateRequest,
  NodeMergeRequest,
  NodePlanRequest,
} from "./run.ts";

/**
 * Merges adapters of one base model into one adapter.
 *
 * @param request - folders and samples by path, or as in a browser; see {@link MergeRequest}
 * @returns the output files as Blobs, the report, the device it ran on, and the comparison if held-out
 * samples were given
 * @throws IterisError with a code of {@link errorCodes}; `cancelled` after `signal` is aborted
 *
 * @example
 * ```ts
 * const { files, report } = await merge({
 *   base: "models/minilm",
 *   adapters: [
 *     { name: "emotion", files: "adapters/emotion", samples: "emotion.txt", weight: 2 },
 *     { name: "topic", files: "adapters/topic", samples: ["A first text.", "A second text."] },
 *   ],
 *   options: { dtype: "f16" },
 *   signal: AbortSignal.timeout(600_000),
 * });
 * ```
 */
export async function merge(request: NodeMergeRequest): Promise<MergeResult> {
  const sink = new BlobSink();
  const result = await mergeToSink(request, sink);
  return { ...result, files: await sink.files() };
}

/**
 * The same, into a folder of this machine instead of Blobs. Paths in the report lead from that folder to the inputs.
 *
 * @param folder - is not finished: that is the caller's to do, or to discard it after a failure
 * @throws IterisError as {@link merge} does, and `write_failed`
 *
 * @example
 * ```ts
 * const folder = await OutputFolder.create("merged");
 * const { report } = await mergeInto({ base: "models/minilm", adapters }, folder);
 * await folder.finish();
 * ```
 */
export function mergeInto(
  request: Omit<NodeMergeRequest, "onVariant">,
  folder: OutputFolder,
): Promise<Omit<MergeResult, "files">> {
  return mergeToSink(request, folder, folder.path);
}

/**
 * Tells what a merge will take, before it is started: bytes to read and to write, memory, operations and seconds.
 * Headers are read, no weights, and the kernels are measured for 50 ms.
 *
 * @param request - as of {@link merge}; samples, device and callbacks are not looked at
 * @returns `fits` is `false` where the merge needs more memory than the module can have; methods that run the model on
 * samples have `null` where the samples decide
 * @throws IterisError as {@link merge} does for files and options that cannot be merged
 *
 * @example
 * ```ts
 * const adapters = [
 *   { name: "style", files: "style.safetensors" },
 *   { name: "character", files: "character.safetensors" },
 * ];
 * const { refusal, seconds } = await planMerge({ adapters, options: { method: "ties" } });
 * if (refusal !== null) console.warn(refusal);
 * else console.log(`about ${seconds} s`);
 * ```
 */
export function planMerge(request: NodePlanRequest): Promise<MergePlan> {
  return planNow(request);
}

/**
 * Runs the base model, each adapter and merged adapters on samples and tells how far they agree.
 *
 * @returns agreement with the task's own adapter (no labels needed), accuracy where samples have labels,
 * and the residual per module and task
 * @throws IterisError
 *
 * @example
 * ```ts
 * const { report } = await compare({
 *   base: "models/minilm",
 *   adapters: [{ name: "emotion", files: "adapters/emotion", samples: "emotion.test.jsonl" }],
 *   merged: [{ name: "merged", files: "adapters/merged" }],
 * });
 * ```
 */
export function compare(request: NodeCompareRequest): Promise<CompareResult> {
  return compareNow(request);
}

/**
 * Merges the same inputs by several methods, one after the other, and compares all of them on the same samples.
 *
 * @param request - the inputs of a merge, the methods by name or with options of their own, and what all share; see
 * {@link CompareMethodsRequest}
 * @returns every merge with its files, report and seconds, and one comparison of all with the tasks' own adapters
 * @throws IterisError; the message of a merge that fails begins with its name
 *
 * @example
 * ```ts
 * const { variants, report } = await compareMethods({
 *   base: "models/minilm",
 *   adapters: [
 *     { name: "emotion", files: "adapters/emotion", samples: "emotion.txt", heldOut: "emotion.test.jsonl" },
 *     { name: "topic", files: "adapters/topic", samples: "topic.txt", heldOut: "topic.test.jsonl" },
 *   ],
 *   methods: ["iteris", "average", { name: "ties 20 %", options: { method: "ties", density: 0.2 } }],
 * });
 * ```
 */
export async function compareMethods(request: NodeCompareMethodsRequest): Promise<CompareMethodsResult> {
  return keepingFiles(
    () => new BlobSink(),
    (sinkFor) => compareMethodsToSinks(request, sinkFor),
  );
}

/**
 * The same, each merge into a folder of its name inside of one on this machine.
 *
 * @param folder - is not finished: that is the caller's to do, or to discard it after a failure
 * @throws IterisError as {@link compareMethods} does, and `write_failed`
 *
 * @example
 * ```ts
 * const folder = await OutputFolder.create("results");
 * const { report } = await compareMethodsInto({ base, adapters, methods: ["iteris", "ties"] }, folder);
 * await folder.finish(); // results/iteris, results/ties
 * ```
 */
export function compareMethodsInto(
  request: Omit<NodeCompareMethodsRequest, "onVariant">,
  folder: OutputFolder,
): Promise<CompareMethodsOutcome> {
  // All results lie a level deeper, from where paths look the same.
  return compareMethodsToSinks(request, (name) => folder.inside(name), join(folder.path, "method"));
}

/**
 * Lets a base model, and the model with each of several adapters, write after prompts, side by side.
 *
 * @param request - prompts or chats, or pictures for a model that writes captions (`image`), what writes, and how: greedy by default, or sampled with `temperature`,
 * `topP` and `seed`; see {@link GenerateRequest}
 * @returns for each variant the text it wrote after each prompt, and whether it came to its own end
 * @throws IterisError, for example `model_unsupported` for an encoder or `samples_invalid` for a prompt that is
 * longer than the model can read
 *
 * @example
 * ```ts
 * const { variants } = await generate({
 *   base: "models/smollm2",
 *   adapters: [{ name: "merged", files: "adapters/merged" }],
 *   prompts: ["The capital of France is", "Water boils at"],
 *   maxNewTokens: 16,
 * });
 * for (const { name, texts } of variants) console.log(name, texts);
 * ```
 *
 * @example
 * ```ts
 * const { images, variants } = await generate({
 *   base: "models/blip",
 *   adapters: [{ name: "merged", files: "adapters/merged" }],
 *   image: "photos/*.jpg",
 * });
 * for (const { name, texts } of variants) console.log(name, images, texts);
 * ```
 */
export function generate(request: NodeGenerateRequest): Promise<GenerateResult> {
  return generateNow(request);
}

/**
 * Reads a base model's configuration and tensor headers, not its weights.
 *
 * @throws IterisError, for example `model_unsupported` or `pickle_refused`
 *
 * @example
 * ```ts
 * const { architecture, parameters, maxLength } = await inspectBase("models/minilm");
 * ```
 */
export function inspectBase(input: NodeFilesInput): Promise<BaseFacts> {
  return withFiles(async (files) => {
    const opened = await files.folder(input);
    return withEngine((engine) => engine.inspectBase(opened));
  });
}

/**
 * Reads an adapter's configuration and tensors and tells its rank, scaling and targets.
 *
 * @throws IterisError, for example `adapter_unsupported` or `tensors_unaccounted`
 *
 * @example
 * ```ts
 * const { rank, alpha, targets } = await inspectAdapter("adapters/emotion");
 * ```
 */
export function inspectAdapter(input: NodeFilesInput): Promise<AdapterFacts> {
  return withFiles(async (files) => {
    const opened = await files.folder(input);
    return withEngine((engine) => engine.inspectAdapter(opened));
  });
}

/**
 * Size and SHA-256 of every file, as reports tell them: to hold inputs against a recipe with {@link mismatches}.
 * The files are read from end to end.
 *
 * @throws IterisError `read_failed`; `cancelled` after `signal` is aborted
 *
 * @example
 * ```ts
 * const recipe = readRecipe(await readFile("merged/merge_report.json", "utf8"));
 * const found = mismatches(recipe, {
 *   base: await digestFiles("models/minilm"),
 *   adapters: [{ name: "emotion", files: await digestFiles("adapters/emotion") }],
 * });
 * ```
 */
export function digestFiles(input: NodeFilesInput, control: DigestControl = {}): Promise<ReportFile[]> {
  return digestsNow(input, control);
}

/**
 * Parses samples and tells how many there are, without a model.
 *
 * @throws IterisError `samples_invalid`, which names the line that is malformed
 *
 * @example
 * ```ts
 * const { count, labelled, preview } = await inspectSamples("emotion.csv");
 * ```
 */
export function inspectSamples(input: NodeSamplesInput): Promise<SamplesFacts> {
  return withFiles(async (files) => factsOf(await files.samples(input)));
}

/**
 * What a `.safetensors` file with a free name holds, by the names of its tensors: an adapter, or weights of a model.
 * Its header alone is read.
 *
 * @returns `null` for what is no safetensors file, or is a damaged one
 * @throws IterisError `read_failed`
 *
 * @example
 * ```ts
 * if ((await weightsKind("pixel-art.safetensors")) === "adapter") console.log("an adapter");
 * ```
 */
export function weightsKind(input: NodeFilesInput): Promise<WeightsKind | null> {
  return withFiles(async (files) => {
    const [file] = await files.folder(input);
    return file === undefined ? null : kindOfWeights(file);
  });
}

/**
 * Tells which device a call with this `device` would run on, and why, without starting it. `auto` stays `auto` where
 * there is a GPU: then the CPU and the GPU are measured when a call begins, for no more than a second, and the work runs on
 * the one that is quicker for it.
 *
 * @throws IterisError `webgpu_unavailable` if `webgpu` is asked for and cannot be used; it names what lacks
 *
 * @example
 * ```ts
 * const { kind, why } = await chooseDevice("auto");
 * ```
 */
export function chooseDevice(request: DeviceRequest = "auto"): Promise<DeviceChoice<DeviceRequest>> {
  return withEngine((engine) => engine.chooseDevice(request));
}

/**
 * The options a merge has where the caller leaves them out.
 *
 * @example
 * ```ts
 * const { alpha1, schedule } = await defaultOptions();
 * ```
 */
export function defaultOptions(): Promise<MergeOptions> {
  return withEngine((engine) => engine.defaultOptions());
}

/**
 * The version of the program, as reports tell it in `created_by`.
 *
 * @example
 * ```ts
 * console.log(`iteris-web ${await version()}`);
 * ```
 */
export function version(): Promise<string> {
  return withEngine((engine) => engine.version());
}
