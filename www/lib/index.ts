/**
 * The browser entry of `iteris-web`: merge LoRA adapters on this machine.
 *
 * Every function hands its work to a module worker that is started on first use, owns the wasm module and
 * the GPU, and is replaced after a fault or a cancelled merge. Calls queue: one runs at a time. With it, workers for the
 * processor's other cores are started, which rest until a call is worth them.
 *
 * @example
 * ```ts
 * import { merge } from "iteris-web";
 *
 * const { files, report } = await merge({
 *   base: await showDirectoryPicker(),
 *   adapters: [
 *     { name: "emotion", files: emotionFiles, samples: emotionTexts },
 *     { name: "topic", files: topicFiles, samples: topicTexts },
 *   ],
 *   onProgress: ({ stage, done, total }) => console.log(stage, done, total),
 * });
 * ```
 */

import { collectFiles } from "./sources/collect.ts";
import { openFiles } from "./sources/open.ts";
import { kindOfWeights } from "./sources/weights-kind.ts";
import type {
  AdapterFacts,
  BaseFacts,
  CompareMethodsRequest,
  CompareMethodsResult,
  CompareRequest,
  CompareResult,
  DeviceChoice,
  DeviceRequest,
  DigestControl,
  FileInput,
  FilesInput,
  GenerateRequest,
  GenerateResult,
  MergeOptions,
  MergePlan,
  MergeRequest,
  MergeResult,
  OutputFile,
  PlanRequest,
  ReportFile,
  SamplesFacts,
  SamplesInput,
  WeightsKind,
} from "./types.ts";
import { WorkerClient } from "./worker/client.ts";
import { discard as discardFiles } from "./worker/page-disk.ts";
import { startHelper, startWorker } from "./worker/start.ts";

export type { ErrorCode } from "./errors.ts";
export { errorCodes, IterisError, toIterisError } from "./errors.ts";
export { GENERATE_OPTIONS, SELF_OPTIONS } from "./generated.ts";
export type { LayerWeightsEntry } from "./layer-weights.ts";
export { readLayerWeights, writeLayerWeights } from "./layer-weights.ts";
export type { MethodFacts } from "./methods.ts";
export { METHODS, methodFacts, methodNamed } from "./methods.ts";
export type { FlagKinds, NumberRange, OptionFacts, OptionName, WordOption } from "./options.ts";
export {
  defaultValues,
  deviceChoices,
  isInRange,
  OPTIONS,
  optionChoices,
  optionNames,
  workersRange,
} from "./options.ts";
export { Pace, shareOf } from "./pace.ts";
export type { PatternGroup } from "./patterns.ts";
export { groupByPattern } from "./patterns.ts";
export type { FoundInputs, Mismatch, Recipe, RecipeAdapter, RecipeInput, RecipeSamples } from "./recipe.ts";
export { differences, mismatches, readRecipe, recipeMismatch, samplesMismatches } from "./recipe.ts";
export { pictureParts } from "./samples/picture-files.ts";
export { saysTheSame } from "./samples/said.ts";
export type * from "./types.ts";

const client = new WorkerClient(startWorker, startHelper);

/**
 * Merges adapters of one base model into one adapter.
 *
 * @param request - the base model, at least one adapter, and how to merge; see {@link MergeRequest}
 * @returns the output files as Blobs, the report, the device it ran on, and the comparison if held-out
 * samples were given
 * @throws IterisError with a code of {@link errorCodes}; `cancelled` after `signal` is aborted
 *
 * @example
 * ```ts
 * const stop = new AbortController();
 * const { files } = await merge({
 *   base,
 *   adapters: [
 *     { name: "emotion", files: emotionFiles, samples: new File([text], "emotion.txt") },
 *     { name: "topic", files: topicFiles, samples: ["A first text.", "A second text."], weight: 0.5 },
 *   ],
 *   options: { schedule: "sweep", dtype: "f16" },
 *   device: "auto",
 *   signal: stop.signal,
 * });
 * for (const { name, blob } of files) save(name, blob);
 * ```
 *
 * @example With held-out samples a merge is compared; what is there before the end is told as it comes.
 * ```ts
 * const { comparison } = await merge({
 *   base,
 *   adapters, // each with samples and heldOut
 *   onVariant: ({ name, files }) => offer(name, files), // the merge, then the linear average
 *   onTask: ({ tasks }) => console.table(tasks[0].variants),
 * });
 * ```
 */
export function merge(request: MergeRequest): Promise<MergeResult> {
  return client.merge(request);
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
 * const { refusal, seconds } = await planMerge({ adapters, options: { method: "ties" } });
 * if (refusal !== null) console.warn(refusal);
 * else console.log(`about ${seconds} s`);
 * ```
 */
export function planMerge(request: PlanRequest): Promise<MergePlan> {
  return client.planMerge(request);
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
 * const merged = await merge({ base, adapters });
 * const average = await merge({ base, adapters, options: { method: "average" } });
 * const { report } = await compare({
 *   base,
 *   adapters: adapters.map((adapter, i) => ({ ...adapter, samples: heldOut[i] })),
 *   merged: [
 *     { name: "iteris", files: merged.files },
 *     { name: "average", files: average.files },
 *   ],
 * });
 * ```
 */
export function compare(request: CompareRequest): Promise<CompareResult> {
  return client.compare(request);
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
 *   base,
 *   adapters, // each with samples, and heldOut to be compared on
 *   methods: ["iteris", "average", { name: "ties 20 %", options: { method: "ties", density: 0.2 } }],
 *   onProgress: ({ variant, done, total }) => console.log(variant, done, total),
 * });
 * for (const { task, variants } of report.tasks) console.table(variants);
 * const best = variants.find(({ name }) => name === "iteris"); // its files are there to be saved
 * ```
 *
 * @example Results as they come, and a method that does not suit the adapters is left out.
 * ```ts
 * const { failed } = await compareMethods({
 *   base,
 *   adapters,
 *   methods: ["iteris", "knots", "ties"],
 *   failures: "skip",
 *   onVariant: ({ name, files, seconds }) => addRow(name, files, seconds),
 *   onFailure: ({ name, error }) => addRow(name, [], error.message),
 *   onTask: ({ tasks }) => fillIn(tasks),
 * });
 * ```
 */
export function compareMethods(request: CompareMethodsRequest): Promise<CompareMethodsResult> {
  return client.compareMethods(request);
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
 * const { files } = await merge({ base, adapters });
 * const { variants } = await generate({
 *   base,
 *   variants: [{ name: "base" }, ...adapters, { name: "merged", files }],
 *   messages: [{ role: "user", content: "Where is the station?" }],
 *   maxNewTokens: 48,
 *   onProgress: ({ done, total }) => console.log(`${done} of ${total} tokens`),
 * });
 * for (const { name, texts } of variants) console.log(name, texts[0]);
 * ```
 *
 * @example
 * ```ts
 * const { images, variants } = await generate({ base, adapters, image: [...input.files], prompts: "a photo of" });
 * for (const { name, texts } of variants) console.log(name, images, texts);
 * ```
 */
export function generate(request: GenerateRequest): Promise<GenerateResult> {
  return client.generate(request);
}

/**
 * Reads a base model's configuration and tensor headers, not its weights.
 *
 * @throws IterisError, for example `model_unsupported` or `pickle_refused`
 *
 * @example
 * ```ts
 * const { architecture, parameters, maxLength } = await inspectBase(input.files);
 * ```
 */
export function inspectBase(files: FilesInput): Promise<BaseFacts> {
  return client.inspectBase(files);
}

/**
 * Reads an adapter's configuration and tensors and tells its rank, scaling and targets.
 *
 * @throws IterisError, for example `adapter_unsupported` or `tensors_unaccounted`
 *
 * @example
 * ```ts
 * const { rank, alpha, targets } = await inspectAdapter(await showDirectoryPicker());
 * ```
 */
export function inspectAdapter(files: FilesInput): Promise<AdapterFacts> {
  return client.inspectAdapter(files);
}

/**
 * Size and SHA-256 of every file, as reports tell them: to hold inputs against a recipe with {@link mismatches}.
 * The files are read from end to end.
 *
 * @throws IterisError `read_failed`; `cancelled` after `signal` is aborted
 *
 * @example
 * ```ts
 * const recipe = readRecipe(await reportFile.text());
 * const found = mismatches(recipe, {
 *   base: await digestFiles(base),
 *   adapters: [{ name: "emotion", files: await digestFiles(emotionFiles) }],
 * });
 * if (found.length > 0) console.warn("not the recipe's inputs", found);
 * ```
 */
export function digestFiles(files: FilesInput, control: DigestControl = {}): Promise<ReportFile[]> {
  return client.digestFiles(files, control);
}

/**
 * Parses samples and tells how many there are, without a model.
 *
 * @throws IterisError `samples_invalid`, which names the line that is malformed
 *
 * @example
 * ```ts
 * const { count, labelled, preview } = await inspectSamples(file);
 * ```
 */
export function inspectSamples(samples: SamplesInput): Promise<SamplesFacts> {
  return client.inspectSamples(samples);
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
  return client.chooseDevice(request);
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
  return client.defaultOptions();
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
  return client.version();
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
 * if ((await weightsKind(file)) === "adapter") adapters.push({ name: file.name, files: [file] });
 * ```
 */
export async function weightsKind(file: FileInput): Promise<WeightsKind | null> {
  const [only] = await openFiles(await collectFiles([file]));
  return only === undefined ? null : kindOfWeights(only);
}

/**
 * Takes results off the disk that nobody will save any more. Results of more than 64 MiB lie in the browser's private
 * file system until they are discarded or the page is closed; smaller ones are in memory, and this does nothing.
 *
 * @param files - of a result of `merge` or `compareMethods`; they cannot be read after it
 *
 * @example
 * ```ts
 * const { files } = await merge(request);
 * for (const { name, blob } of files) await save(name, blob);
 * await discard(files);
 * ```
 */
export function discard(files: readonly OutputFile[]): Promise<void> {
  return discardFiles(files);
}

/**
 * Stops the workers and gives back all memory they hold, GPU memory too. A running call rejects with
 * `cancelled`; the next call starts new ones. Results that were made stay readable.
 *
 * @example
 * ```ts
 * addEventListener("pagehide", release);
 * ```
 */
export function release(): void {
  client.release();
}
