/** How the command line fails: its exit codes, and how it tells. */
import type { ErrorCode, IterisError } from "../index.ts";
import type { Terminal } from "./terminal.ts";

/** Faults of program, device and disk; every other code is bad input, which is 2. */
const faults: ReadonlySet<ErrorCode> = new Set([
  "internal",
  "device_lost",
  "out_of_memory",
  "webgpu_unavailable",
  "write_failed",
  "cancelled",
]);

/** 2 for bad input, 1 for a fault. */
export function exitCode(error: IterisError): 1 | 2 {
  return faults.has(error.code) ? 1 : 2;
}

/** Tells a failure: one JSON object on standard output, or a sentence on standard error. */
export function tell(error: IterisError, json: boolean, terminal: Pick<Terminal, "stdout" | "stderr">): void {
  const { code, message } = error;
  if (json) terminal.stdout.write(`${JSON.stringify({ error: { code, message } })}\n`);
  else terminal.stderr.write(`iteris-web: ${message} (${code})\n`);
}
