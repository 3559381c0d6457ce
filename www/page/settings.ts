/** The options of a merge as the form holds them, with the core's defaults. */
import {
  type DeviceRequest,
  defaultValues,
  type MergeOptions,
  type MethodName,
  type MethodOption,
  type ModelKind,
  methodFacts,
  OPTIONS,
  optionNames,
  type WorkersRequest,
} from "../lib/index.ts";

/** All options of a merge, and where it runs. */
export interface Settings extends MergeOptions {
  device: DeviceRequest;
  workers: WorkersRequest;
}

export const DEFAULTS: Readonly<Settings> = { ...defaultValues, device: "auto", workers: "auto" };

/**
 * What `merge()` is given. A choice that was made for another method or for a base model of another kind does not
 * count: its field is not shown any more, so nobody could take it back.
 */
export function mergeOptions(
  { device: _, workers: __, ...options }: Settings,
  kind?: ModelKind,
): MergeOptions {
  const others = optionNames.filter((name) => OPTIONS[name].methods?.includes(options.method) === false);
  return {
    ...options,
    ...Object.fromEntries(others.map((option) => [option, DEFAULTS[option]])),
    decoderInputs: kind === "encoder-decoder" ? options.decoderInputs : DEFAULTS.decoderInputs,
    positions: kind === "decoder" ? options.positions : DEFAULTS.positions,
    // Whose adapter files, and whether each layer has a rank of its own, is said of adapters only.
    format: options.output === "adapter" ? options.format : DEFAULTS.format,
    ranks: options.output === "adapter" ? options.ranks : DEFAULTS.ranks,
  };
}

/** Whether one of the methods looks at what the layers see. */
export const needsSamples = (methods: readonly MethodName[]): boolean =>
  methods.some((method) => methodFacts(method).samples);

/** The options that at least one of the methods looks at, and that others may not. */
export const optionsOf = (methods: readonly MethodName[]): ReadonlySet<MethodOption> =>
  new Set(methods.flatMap((method) => methodFacts(method).options));

/** What the page calls a method. */
export const methodTitle = (method: MethodName): string => methodFacts(method).title;

/** How much of the merged change is written. */
export type RankChoice = "full" | "rank" | "energy";

export const rankChoice = ({ rank, energy }: Pick<Settings, "rank" | "energy">): RankChoice =>
  rank !== null ? "rank" : energy !== null ? "energy" : "full";
