/** The methods of merging, and their options as a caller gives them: described in the core, and generated from there. */
import type { MergeOptions } from "../generated.ts";

export type { MergeOptions, MethodName, MethodOption } from "../generated.ts";

/** Whose adapter files: PEFT's, kohya's and ComfyUI's, or diffusers'. */
export type AdapterFormat = Exclude<MergeOptions["format"], "auto">;
