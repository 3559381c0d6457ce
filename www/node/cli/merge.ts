/** `iteris-web merge`. */
import type { CompareReport, DeviceChoice, MergeReport } from "../../lib/types.ts";
import { mergeInto } from "../run.ts";
import { FolderSink } from "./folder-sink.ts";
import type { MergeCommand } from "./parse-merge.ts";
import { progressView } from "./progress.ts";
import { comparisonTable } from "./table.ts";
import type { Terminal } from "./terminal.ts";

/** What `--json` prints. */
export interface MergeOutcome {
  out: string;
  files: { name: string; bytes: number }[];
  device: DeviceChoice;
  report: MergeReport;
  comparison: CompareReport | null;
}

/** Merges, writes the folder, and says what was done. */
export async function runMerge(command: MergeCommand, terminal: Terminal): Promise<void> {
  const sink = await FolderSink.create(command.out, command.force);
  const view = progressView(terminal.stderr);
  let outcome: MergeOutcome;
  try {
    const result = await mergeInto(
      {
        base: command.base,
        adapters: command.adapters.map(({ name, folder, samples, weight, compare }) => ({
          name,
          files: folder,
          samples,
          weight,
          heldOut: compare,
        })),
        options: command.options,
        device: command.device,
        onProgress: (progress) => view.show(progress),
        signal: terminal.signal,
      },
      sink,
    );
    const { device, report, comparison } = result;
    outcome = { out: command.out, files: await sink.finish(), device, report, comparison };
  } catch (error) {
    await sink.discard();
    throw error;
  } finally {
    view.end();
  }
  terminal.stdout.write(command.json ? `${JSON.stringify(outcome)}\n` : describe(outcome));
}

function describe({ out, files, device, report, comparison }: MergeOutcome): string {
  const ranks = report.layers.map(({ rank }) => rank);
  const rank = ranks.length === 0 ? 0 : Math.max(...ranks);
  const lines = [
    `Merged ${report.adapters.map(({ name }) => name).join(", ")} with ${report.options.method} into ${out}`,
    `${report.layers.length} modules, rank ${rank}, ${report.seconds.total.toFixed(1)} s. ${device.why}`,
    ...report.notes.map((note) => `Note: ${note}`),
    ...files.map(({ name, bytes }) => `  ${name}  ${bytes} bytes`),
  ];
  const notes = comparison?.notes.map((note) => `Note: ${note}\n`).join("") ?? "";
  return `${lines.join("\n")}\n${comparison === null ? "" : `\n${comparisonTable(comparison)}${notes}`}`;
}
