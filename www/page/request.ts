/** What the library is asked, the state's cards and settings as inputs, and how what it answers comes together. */
import {
  type AdapterInput,
  type BaseFacts,
  type CompareReport,
  inspectBase,
  type MergeOptions,
  type MethodName,
} from "../lib/index.ts";
import { classesOf } from "./class-field.ts";
import { layerWeightsOf } from "./layer-weights.ts";
import { namedBlobs, samplesOf } from "./recognise.ts";
import { mergeOptions, needsSamples, type Settings } from "./settings.ts";
import { type Adapter, type Base, baseFacts, type Comparison, type State, type Text } from "./state.ts";

/** The inputs as they were when the button was pressed. */
export interface Inputs {
  base: Base | undefined;
  /** `undefined` without a base. */
  facts: BaseFacts | undefined;
  adapters: readonly Adapter[];
  settings: Settings;
  /** Classes that a model of pictures and texts chooses from, where they were given. */
  labels: string[] | undefined;
}

/** What is merged now; an example is merged as soon as it is there, which may be before its card has been filled in. */
export async function inputsOf(state: State): Promise<Inputs> {
  const { base } = state;
  const settings = { ...state.settings, layerWeights: layerWeightsOf(state).weights };
  const adapters = [...state.adapters];
  const labels = classesOf(state);
  const facts = base && (baseFacts(state) ?? (await inspectBase(namedBlobs(base.files))));
  return { base, facts, adapters, settings, labels };
}

/** The cards as a merge by these methods takes them, or a comparison on the texts of `tested`. */
export function adapterInputs(
  { adapters }: Inputs,
  methods: readonly MethodName[],
  tested: readonly Adapter[],
): AdapterInput[] {
  const calibrated = needsSamples(methods);
  return adapters.map((adapter) => {
    const { name, files, weight, texts, self } = adapter;
    const input = { name, files: namedBlobs(files), weight };
    const compared = tested.includes(adapter);
    const samples = texts.samples
      ? samplesOf(texts.samples.dropped)
      : calibrated && self
        ? { self }
        : undefined;
    return {
      ...input,
      ...(calibrated || compared ? { samples } : {}),
      ...(compared ? { heldOut: texts.heldOut && samplesOf(texts.heldOut.dropped) } : {}),
    };
  });
}

/** The options of a merge by that method. */
export const optionsFor = ({ facts, settings }: Inputs, method: MethodName): MergeOptions =>
  mergeOptions({ ...settings, method }, facts?.kind);

/**
 * The adapters that can be compared: held-out texts show what a merge is worth; without them the calibration samples
 * must do. Without a model that can be run there is nothing to compare on.
 */
export const testedOf = ({ facts, adapters }: Pick<Inputs, "facts" | "adapters">): Adapter[] =>
  facts && facts.kind !== "weights" ? adapters.filter(({ texts }) => texts.heldOut ?? texts.samples) : [];

/** What each task is compared on, where those are pictures. */
export function picturesOf(
  facts: BaseFacts | undefined,
  tested: readonly Adapter[],
): ReadonlyMap<string, Text> | undefined {
  if (facts?.picture === undefined) return undefined;
  return new Map(
    tested.flatMap(({ name, texts }) => {
      const text = texts.heldOut ?? texts.samples;
      return text ? [[name, text] as const] : [];
    }),
  );
}

/** Which texts adapters are compared on. */
export function textsUsed(tested: readonly Adapter[]): Comparison["texts"] {
  const heldOut = tested.filter((adapter) => adapter.texts.heldOut).length;
  return heldOut === tested.length ? "held-out" : heldOut === 0 ? "calibration" : "mixed";
}

/** An adapter with a classifier of its own predicts, whatever its base model could write. */
export const writesTexts = (facts: BaseFacts, tested: readonly Adapter[]): boolean =>
  facts.generates && !tested.some(classifies);

const classifies = ({ facts }: Adapter): boolean => facts.status === "ready" && facts.value.heads.length > 0;

/** Adds what the comparison on another task found. */
export function addReport(
  comparison: Pick<Comparison, "tasks" | "residuals" | "notes">,
  { tasks, residuals, notes }: CompareReport,
): void {
  comparison.tasks = [...comparison.tasks, ...tasks];
  comparison.residuals = [...comparison.residuals, ...residuals];
  comparison.notes = [...new Set([...comparison.notes, ...notes])];
}
