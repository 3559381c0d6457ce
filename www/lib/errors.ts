/**
 * The one error class of the package, and the ways by which a failure becomes it.
 *
 * A failure may be thrown by the core (`Error` with `.code`), by a trap inside wasm, by the browser, or in another
 * thread, where the class is lost on the way: so failures cross as plain `{ code, message }` and are made again on
 * this side.
 */
import { ERROR_CODES } from "./generated.ts";

/** Every stable code, with what it means: the core's, and that of what the core knows nothing of. */
export const errorCodes = {
  ...ERROR_CODES,
  recipe_mismatch: "an input is not the one that a recipe was made with",
} as const;

/** The stable name of a kind of failure. */
export type ErrorCode = keyof typeof errorCodes;

/** A failure in the form that crosses threads and goes into `--json`. */
export interface PlainError {
  code: ErrorCode;
  message: string;
}

/**
 * A failure a caller can act on: `code` is stable, `message` says what is wrong, where, and what to do.
 *
 * @example
 * ```ts
 * try {
 *   await merge(request);
 * } catch (error) {
 *   if (error instanceof IterisError && error.code === "samples_invalid") showSamplesHint(error.message);
 *   else throw error;
 * }
 * ```
 */
export class IterisError extends Error {
  override readonly name = "IterisError";
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The failure that an aborted `signal` stands for. */
export function cancelled(): IterisError {
  return new IterisError("cancelled", "The work was cancelled.");
}

function isCode(value: unknown): value is ErrorCode {
  return typeof value === "string" && Object.hasOwn(errorCodes, value);
}

/** How engines say that an array, a buffer or the module's own memory cannot be had; a `RangeError` may be other things. */
const refusesMemory = /alloc|memory|array length|array size/i;

/**
 * Turns whatever was thrown into an {@link IterisError}. Memory that JavaScript cannot have is `out_of_memory`;
 * something else without a known code is a fault of the program (`internal`), and so is a trap of the wasm module.
 */
export function toIterisError(thrown: unknown): IterisError {
  if (thrown instanceof IterisError) return thrown;
  if (thrown instanceof Error) {
    const code = (thrown as { code?: unknown }).code;
    if (isCode(code)) return new IterisError(code, thrown.message, { cause: thrown });
    if (thrown instanceof RangeError && refusesMemory.test(thrown.message)) {
      return new IterisError("out_of_memory", `Memory ran out: ${thrown.message}`, { cause: thrown });
    }
    return new IterisError("internal", `Internal fault: ${thrown.message}`, { cause: thrown });
  }
  if (typeof thrown === "object" && thrown !== null) {
    const { code, message } = thrown as { code?: unknown; message?: unknown };
    if (isCode(code) && typeof message === "string") return new IterisError(code, message);
  }
  return new IterisError("internal", `Internal fault: ${String(thrown)}`);
}

/** The form of a failure that `postMessage` and JSON carry. */
export function toPlainError(thrown: unknown): PlainError {
  const { code, message } = toIterisError(thrown);
  return { code, message };
}
