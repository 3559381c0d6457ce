/**
 * Progress on standard error: a bar that is drawn over on a terminal, plain lines elsewhere.
 *
 * Only a terminal gets the bar, which is drawn over with carriage returns; a file or a pipe gets a line for each tenth
 * of a stage.
 */
import type { Progress } from "../index.ts";
import type { Output } from "./terminal.ts";

const stageNames: Record<Progress["stage"], string> = {
  load: "loading",
  generate: "writing text",
  forward: "running the model",
  gram: "summing Gram matrices",
  solve: "solving",
  merge: "merging",
  write: "writing",
  compare: "comparing",
};

// The stages whose steps take about as long as each other, so that a rest can be told from them.
const steady: ReadonlySet<Progress["stage"]> = new Set([
  "generate",
  "forward",
  "gram",
  "solve",
  "merge",
  "compare",
]);

/** `75` as `1:15`. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Seconds that are left at the pace so far; `null` where that cannot be told. */
export function secondsLeft({ stage, done, total, seconds }: Progress): number | null {
  if (!steady.has(stage) || done < 1 || total < 1) return null;
  return (seconds / done) * (total - done);
}

function share({ done, total }: Progress): number {
  return total > 0 ? Math.min(1, done / total) : 0;
}

/** Draws progress until `end`. */
export interface ProgressView {
  show(progress: Progress): void;
  end(): void;
}

/** The view that fits the stream. */
export function progressView(output: Output): ProgressView {
  return output.isTTY ? new Bar(output) : new Lines(output);
}

class Bar implements ProgressView {
  readonly #output: Output;
  #drawn = false;

  constructor(output: Output) {
    this.#output = output;
  }

  show(progress: Progress): void {
    const width = 24;
    const full = Math.round(share(progress) * width);
    const left = secondsLeft(progress);
    const percent = `${String(Math.round(share(progress) * 100)).padStart(3)} %`;
    const parts = [
      `${"█".repeat(full)}${"░".repeat(width - full)} ${percent}`,
      left === null ? null : `${clock(left)} left`,
      progress.variant ?? null,
      stageNames[progress.stage],
      progress.layer || null,
    ];
    const line = parts.filter((part) => part !== null).join("  ");
    // One column stays free: a full line would wrap and could not be drawn over.
    this.#output.write(`\r\x1b[2K${line.slice(0, (this.#output.columns ?? 80) - 1)}`);
    this.#drawn = true;
  }

  end(): void {
    if (this.#drawn) this.#output.write("\r\x1b[2K");
    this.#drawn = false;
  }
}

class Lines implements ProgressView {
  readonly #output: Output;
  #last = "";

  constructor(output: Output) {
    this.#output = output;
  }

  show(progress: Progress): void {
    const tenths = Math.floor(share(progress) * 10);
    const left = secondsLeft(progress);
    // Running the model and solving take turns, layer by layer; told apart they would fill the log.
    const stage = progress.stage === "solve" || progress.stage === "gram" ? "forward" : progress.stage;
    const what =
      progress.variant === undefined ? stageNames[stage] : `${progress.variant}, ${stageNames[stage]}`;
    const key = `${what} ${tenths}`;
    if (key === this.#last) return;
    this.#last = key;
    const rest = left === null ? "" : `, ${clock(left)} left`;
    this.#output.write(`${what}: ${tenths * 10} %${rest}\n`);
  }

  end(): void {}
}
