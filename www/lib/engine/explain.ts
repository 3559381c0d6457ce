/**
 * What a fault of the module means: a trap says only `unreachable`, what led to it is told elsewhere.
 *
 * A panic's text was printed just before; a request for memory that was refused is noted by the module's allocator,
 * which answers after the trap too.
 */
import { IterisError, toIterisError } from "../errors.ts";
import type { Progress } from "../types.ts";
import type { IterisWasm } from "../wasm-interface.ts";

/** What can be known when a call has failed. */
export interface Evidence {
  /** What the call was for, as in "while merging". */
  doing: string;
  /** The last that the core told. */
  progress: Progress | null;
  /** The text of the last panic, if there was one. */
  panic: string | null;
  /** The module, which answers after a trap too; `null` if it has never started. */
  module: Pick<IterisWasm, "failedAllocation" | "memoryBytes"> | null;
}

const mebibytes = (bytes: number) => `${(bytes / (1 << 20)).toFixed(1)} MiB`;

const remedy =
  "Close other tabs and programs, or merge fewer adapters at a time or by a method that keeps less in memory (linear)";

/** Stage, step and layer, the layer last. */
function whereabouts({ doing, progress }: Evidence): string {
  if (progress === null) return `while ${doing}`;
  const { stage, done, total, layer } = progress;
  const steps = total > 0 ? `, step ${Math.min(done + 1, total)} of ${total}` : "";
  return `while ${doing}: ${stage}${steps}${layer === "" ? "" : `, ${layer}`}`;
}

/** What was thrown, or the reason for it where that is known better. */
export function explain(thrown: unknown, evidence: Evidence): IterisError {
  const error = toIterisError(thrown);
  const { panic } = evidence;
  if (error.code === "out_of_memory" && !hasCode(error.cause)) {
    const memory = memoryOf(evidence);
    const used = memory === null ? "" : ` The module holds ${mebibytes(memory.used)}.`;
    return outOfMemory(`${error.message}.${used} ${remedy} (${whereabouts(evidence)}).`, error.cause);
  }
  if (error.code !== "internal") return error;
  // Without a panic before it, a trap is the end of Rust's handler for memory that was refused.
  const memory = panic === null && /unreachable/i.test(error.message) ? memoryOf(evidence) : null;
  if (memory?.refused !== undefined) {
    const { refused, used } = memory;
    const what = `Memory ran out: ${mebibytes(refused)} more were asked for when the module held ${mebibytes(used)}.`;
    return outOfMemory(`${what} ${remedy} (${whereabouts(evidence)}).`, error.cause);
  }
  const what = panic === null ? error.message : `Internal fault: ${panic}`;
  return new IterisError("internal", `${what} (${whereabouts(evidence)})`, { cause: thrown });
}

/** What the module's allocator tells; `null` where there is no module, or it does not even do that any more. */
function memoryOf({ module }: Evidence): { refused: number | undefined; used: number } | null {
  try {
    return module && { refused: module.failedAllocation(), used: module.memoryBytes() };
  } catch {
    return null;
  }
}

/** Whether it came from the core, which has told all there is to know. */
function hasCode(cause: unknown): boolean {
  return typeof cause === "object" && cause !== null && "code" in cause;
}

function outOfMemory(message: string, cause: unknown): IterisError {
  return new IterisError("out_of_memory", message, { cause });
}
