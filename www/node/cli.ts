#!/usr/bin/env node
/**
 * The command `iteris-web`.
 *
 * Ctrl+C only cancels, so that no file stays half-written: the command removes what it wrote and ends by itself. A
 * second Ctrl+C ends it at once, leaving a hidden folder behind.
 */
import { runCommandLine } from "./cli/run.ts";

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => stop.abort());
}
// A reader that has enough (`| head`) is no fault.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
});

process.exitCode = await runCommandLine(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  signal: stop.signal,
});
