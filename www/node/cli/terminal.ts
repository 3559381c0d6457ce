/** What the command line needs of the process, so that a test can stand in for it. */

/** A stream of text to a person or a program. */
export interface Output {
  write(text: string): unknown;
  /** Whether a person watches: then lines may be drawn over. */
  isTTY?: boolean | undefined;
  columns?: number | undefined;
}

/** The process around a command. */
export interface Terminal {
  stdout: Output;
  stderr: Output;
  /** Aborted by Ctrl+C. */
  signal: AbortSignal;
}
