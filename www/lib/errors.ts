/**
 * The one error class of the package, and the ways by which a failure becomes it.
 *
 * A failure may be thrown by the core (`Error` with `.code`), by a trap inside wasm, by the browser, or in another
 * thread, where the class is lost on the way: so failures cross as plain `{ code, message }` and are made again on
 * this side.
 */

/** Every stable code, with what it means. */
export const errorCodes = {
  cancelled: "the caller cancelled the work",
  file_truncated: "a file ends before the bytes that its own header promises",
  read_failed: "a file cannot be read",
  write_failed: "a result cannot be written",
  header_invalid: "a safetensors header or shard index is malformed",
  offsets_overlap: "two tensors of a safetensors file share bytes",
  dtype_unsupported: "a tensor's element type is not one the program reads",
  missing: "a tensor or file that is needed is absent",
  duplicate: "the same file, tensor or adapter was given twice",
  shape_mismatch: "a tensor has another shape than the base model needs",
  not_finite: "a tensor holds NaN or infinity",
  pickle_refused:
    "a Python pickle (.bin, .pt) holds more than tensors, is damaged, or stands where none is read",
  config_invalid: "a JSON file cannot be parsed or holds a value outside its range",
  adapter_unsupported: "the adapter uses a feature that would change the mathematics and is not handled",
  tensors_unaccounted: "the adapter's file holds tensors that nothing accounts for",
  model_unsupported: "the base model's architecture has no family here",
  no_adapters: "no adapter was given",
  samples_invalid: "samples are absent, empty, malformed or do not fit the model",
  option_invalid: "an option is outside its range or contradicts another",
  recipe_mismatch: "an input is not the one that a recipe was made with",
  not_positive_definite: "a Gram matrix is not positive definite even after the ridge",
  webgpu_unavailable: "WebGPU was asked for and cannot be used",
  device_limit: "the model is larger than the device's limits",
  device_lost: "the GPU went away while it was working",
  internal: "a fault of the program itself",
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

/**
 * Turns whatever was thrown into an {@link IterisError}. Something without a known code is a fault of the
 * program (`internal`); so is a trap of the wasm module.
 */
export function toIterisError(thrown: unknown): IterisError {
  if (thrown instanceof IterisError) return thrown;
  if (thrown instanceof Error) {
    const code = (thrown as { code?: unknown }).code;
    if (isCode(code)) return new IterisError(code, thrown.message, { cause: thrown });
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
