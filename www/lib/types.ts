/**
 * The public vocabulary of the package: what goes in, what comes out, in which units.
 *
 * Names follow PEFT and the IterIS paper. JavaScript objects are camelCase; `MergeReport` is snake_case
 * because it is, byte for byte, the `merge_report.json` that is written beside a merged adapter.
 */
export type * from "./types/device.ts";
export type * from "./types/facts.ts";
export type * from "./types/inputs.ts";
export type * from "./types/options.ts";
export type * from "./types/plan.ts";
export type * from "./types/reports.ts";
export type * from "./types/requests.ts";
