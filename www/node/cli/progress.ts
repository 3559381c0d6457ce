/**
 * Progress on standard error: a bar that is drawn over on a terminal, plain lines elsewhere.
 *
 * Only a terminal gets the bar, which is drawn over with carriage returns; a file or a pipe gets a line for each tenth
 * of a stage.
 */
import { Pace, type Progress, shareOf } from "../index.ts";
import type { Output } from "./terminal.ts";

const stageNames: Record<Progress["stage"], string> = {
  load: "loading",
  measure: "measuring",
  compile: "compiling",
  generate: "writing text",
  forward: "running the model",
  gram: "summing Gram matrices",
  solve: "solving",
  merge: "merging",
  write: "writing",
  compare: "comparing",
};

/** `75` as `1:15`. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** `1.2 of 2.3 GB`. */
function bytesOf({ bytesDone, bytesTotal }: Progress): string | null {
  if (bytesDone === undefined || bytesTotal === undefined) return null;
  const [unit, name] = bytesTotal < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
  return `${(bytesDone / unit).toFixed(1)} of ${(bytesTotal / unit).toFixed(1)} ${name}`;
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
  readonly #pace = new Pace();
  #drawn = false;

  constructor(output: Output) {
    this.#output = output;
  }

  show(progress: Progress): void {
    const width = 24;
    const share = shareOf(progress);
    const full = Math.round(share * width);
    const left = this.#pace.secondsLeft(progress);
    const percent = `${String(Math.round(share * 100)).padStart(3)} %`;
    const parts = [
      `${"█".repeat(full)}${"░".repeat(width - full)} ${percent}`,
      left === null ? null : `${clock(left)} left`,
      progress.variant ?? null,
      stageNames[progress.stage],
      progress.total > 1 ? `${progress.done} of ${progress.total}` : null,
      bytesOf(progress),
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
  readonly #pace = new Pace();
  #last = "";

  constructor(output: Output) {
    this.#output = output;
  }

  show(progress: Progress): void {
    const tenths = Math.floor(shareOf(progress) * 10);
    const left = this.#pace.secondsLeft(progress);
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
