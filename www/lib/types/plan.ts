/** What a merge will take, told before it starts. */
import type { AdapterInput, FilesInput } from "./inputs.ts";
import type { MergeOptions } from "./options.ts";
import type { WorkersRequest } from "./requests.ts";

/** What `planMerge` takes; a `MergeRequest` is one, too. */
export interface PlanRequest<Files = FilesInput> {
  /** As of a merge: left out where neither the method nor an adapter needs it. */
  base?: Files | undefined;
  adapters: readonly Pick<AdapterInput<Files>, "name" | "files" | "weight">[];
  options?: Partial<MergeOptions> | undefined;
  /** As of a merge. */
  workers?: WorkersRequest | undefined;
}

/**
 * What a merge will take. Methods that run the model on samples have `null` where the samples decide.
 *
 * Sizes follow from the headers of the files; seconds from how fast the kernels turn out to be on this machine.
 */
export interface MergePlan {
  /** How many are merged. */
  layers: number;
  bytesRead: number;
  bytesWritten: number;
  /** How many workers will share the layers: each takes a core and a memory of its own. */
  workers: number | null;
  /** The most bytes of memory that each of them will hold at once. */
  peakBytes: number | null;
  /** Floating-point operations. */
  operations: number | null;
  seconds: number | null;
  /** Bytes of memory that the module can have at most. */
  limitBytes: number;
  /** `false` where `peakBytes` passes `limitBytes`: such a merge cannot be made. */
  fits: boolean;
  /** Why it does not fit and what to do, as the merge's own error (`out_of_memory`) says it; `null` where it fits. */
  refusal: string | null;
}
