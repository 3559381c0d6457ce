/**
 * Failures as the page shows them: what happened, its stable code, and what to do next.
 *
 * The messages come from the core and name the file, tensor or option at fault; the remedies here
 * add what a person at this page can do about it.
 */
import { IterisError } from "../lib/index.ts";

export interface Problem {
  code: string;
  message: string;
  /** What to do, where the place knows better than the code alone tells. */
  remedy?: string;
}

/** Any thrown value as something that can be shown; a fault without a code is told as one of the program's. */
export function describe(thrown: unknown): Problem {
  if (thrown instanceof IterisError) return { code: thrown.code, message: thrown.message };
  if (thrown instanceof DOMException && thrown.name === "AbortError") {
    return { code: "cancelled", message: "Cancelled." };
  }
  if (
    thrown instanceof DOMException &&
    (thrown.name === "NotFoundError" || thrown.name === "NotReadableError")
  ) {
    return { code: "read_failed", message: `The browser could not read the file: ${thrown.message}` };
  }
  return { code: "internal", message: thrown instanceof Error ? thrown.message : String(thrown) };
}

const REMEDIES: Readonly<Record<string, string>> = {
  file_truncated: "Copy or download the file again, then drop it again: this copy ends too early.",
  read_failed: "The file may have been moved, renamed or changed since it was dropped. Drop it again.",
  write_failed:
    "Check that there is room on the disk and that the folder may be written to, then save again.",
  header_invalid: "The file is damaged or is not safetensors. Download it again or save it anew.",
  offsets_overlap: "The file is damaged. Download it again or save it anew with the safetensors library.",
  dtype_unsupported: "Save the model in F32, F16 or BF16 and drop it again.",
  missing: "Add the file that is named and try again; what you dropped is still here.",
  duplicate: "Remove one of the two and try again.",
  shape_mismatch: "This adapter was trained for another base model. Use the base it was trained on.",
  not_finite:
    "The training of this adapter or model went wrong, or the file is damaged. Use another checkpoint.",
  pickle_refused:
    "Pickle files can run code when they are opened. Only an adapter’s is read, and only if it holds tensors and nothing else. Save as safetensors: save_pretrained(…, safe_serialization=True).",
  config_invalid: "Correct the value that is named in the JSON file and drop it again.",
  adapter_unsupported: "Merge this adapter elsewhere, or train it again without the feature that is named.",
  tensors_unaccounted:
    "The adapter holds something that would be lost in a merge. Remove those tensors or use another adapter.",
  model_unsupported:
    "Use a base model of a kind that the message names; the read-me lists what is supported.",
  no_adapters: "Add at least one adapter.",
  samples_invalid: "Correct the line that is named, or drop another samples file for this adapter.",
  option_invalid: "Change the option that is named and merge again.",
  not_positive_definite: "Give more samples, or raise alpha 1 and alpha 2 under “More options”.",
  webgpu_unavailable: "Choose “Automatic” or “CPU” as the device under “More options”.",
  device_limit:
    "Use a smaller model or shorter samples, or choose the other device under “More options”; the numbers are in the message.",
  out_of_memory:
    "Close other tabs and programs, merge fewer adapters at a time, or choose a method that keeps less in memory (“linear”).",
  device_lost: "Merge again, or choose “CPU” as the device under “More options”.",
  internal:
    "This is a fault of the program. Reload the page and try again; if it comes back, please report it.",
};

/** What a person can do about a failure. */
export const remedyOf = ({ code, remedy }: Problem): string =>
  remedy ?? REMEDIES[code] ?? "Try again; what you dropped is still here.";
