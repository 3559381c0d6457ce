/**
 * The options of a merge that are one of a few words, and their spelling in a report: what the command line and
 * recipes read by.
 */
import type { MergeOptions } from "./types.ts";

/** The words that such an option may be; the first is the default. */
export const optionChoices = {
  schedule: ["sweep", "iterate"],
  target: ["delta", "full"],
  padding: ["exclude", "include"],
  majoritySignMethod: ["total", "frequency"],
  ranks: ["uniform", "per-layer"],
  format: ["auto", "peft", "kohya", "diffusers"],
  output: ["adapter", "base"],
  dtype: ["auto", "f32", "f16", "bf16"],
  decoderInputs: ["own", "start"],
  positions: ["all", "completion"],
} as const satisfies { readonly [Name in keyof MergeOptions]?: readonly MergeOptions[Name][] };

/** `max_iter` of a report as `maxIter`. */
export function camelCase(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
