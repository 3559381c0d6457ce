/** What the library is asked: the state's cards and settings as the inputs of a merge or a comparison. */
import {
  type AdapterInput,
  type BaseFacts,
  inspectBase,
  type MergeRequest,
  type Progress,
} from "../lib/index.ts";
import { layerWeightsOf } from "./layer-weights.ts";
import { namedBlobs } from "./recognise.ts";
import { mergeOptions, type Settings } from "./settings.ts";
import { type Adapter, type Base, baseFacts, type Comparison, type State } from "./state.ts";

export interface Control {
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
}

/** The inputs as they were when the button was pressed. */
export interface Inputs {
  base: Base | undefined;
  /** `undefined` without a base. */
  facts: BaseFacts | undefined;
  adapters: readonly Adapter[];
  settings: Settings;
}

/** What is merged now; an example is merged as soon as it is there, which may be before its card has been filled in. */
export async function inputsOf(state: State): Promise<Inputs> {
  const { base } = state;
  const settings = { ...state.settings, layerWeights: layerWeightsOf(state).weights };
  const adapters = [...state.adapters];
  const facts = base && (baseFacts(state) ?? (await inspectBase(namedBlobs(base.files))));
  return { base, facts, adapters, settings };
}

/** A merge of the inputs by the method of the settings. */
export function mergeRequest(
  { base, facts, adapters, settings }: Inputs,
  withSamples: boolean,
): MergeRequest {
  return {
    base: base && namedBlobs(base.files),
    adapters: adapters.map((adapter) => adapterInput(adapter, withSamples)),
    options: mergeOptions(settings, facts?.kind),
    device: settings.device,
  };
}

export function adapterInput(
  { name, files, weight, texts, self }: Adapter,
  withSamples: boolean,
): AdapterInput {
  const input = { name, files: namedBlobs(files), weight };
  if (!withSamples) return input;
  return { ...input, samples: texts.samples?.dropped.file ?? (self && { self }) };
}

/** Held-out texts show what the merge is worth; without them the calibration samples must do. */
export const testTexts = (adapter: Adapter) => adapter.texts.heldOut ?? adapter.texts.samples;

/** Which texts adapters are compared on. */
export function textsUsed(tested: readonly Adapter[]): Comparison["texts"] {
  const heldOut = tested.filter((adapter) => adapter.texts.heldOut).length;
  return heldOut === tested.length ? "held-out" : heldOut === 0 ? "calibration" : "mixed";
}

/** An adapter with a classifier of its own predicts, whatever its base model could write. */
export const writesTexts = (facts: BaseFacts, tested: readonly Adapter[]): boolean =>
  facts.generates && !tested.some(classifies);

const classifies = ({ facts }: Adapter): boolean => facts.status === "ready" && facts.value.heads.length > 0;
