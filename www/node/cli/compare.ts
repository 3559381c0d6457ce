/** `iteris-web compare`. */
import { join } from "node:path";
import {
  type CompareMethodsOutcome,
  type CompareReport,
  compareMethods,
  compareMethodsInto,
  type DeviceChoice,
  type MergedVariant,
  OutputFolder,
  type Progress,
} from "../index.ts";
import { adapterInput, inputsOf, refuseInputsInside } from "./merge.ts";
import { methodsChart, methodsTable, type Row } from "./methods-table.ts";
import type { CompareCommand } from "./parse-compare.ts";
import { progressView } from "./progress.ts";
import { saidTable } from "./said.ts";
import type { Terminal } from "./terminal.ts";

/** What `--json` prints. */
export interface CompareOutcome {
  variants: (Omit<MergedVariant, "files" | "device"> & {
    /** Where its result is, `null` without `--out`. */
    folder: string | null;
  })[];
  /** Merged before. */
  merged: { name: string; folder: string }[];
  report: CompareReport;
  device: DeviceChoice;
}

/** Merges in several ways, compares, keeps what was made if that is wanted, and prints table and bars. */
export async function runCompare(command: CompareCommand, terminal: Terminal): Promise<void> {
  const { base, adapters, out, force, merged } = command;
  if (out !== undefined) {
    refuseInputsInside(out, [...inputsOf(command), ...merged.map((one) => one.folder)]);
  }
  const folder = out === undefined ? null : await OutputFolder.create(out, { force });
  const view = progressView(terminal.stderr);
  const request = {
    base,
    adapters: adapters.map(adapterInput),
    methods: command.methods,
    merged: merged.map((one) => ({ name: one.name, files: one.folder })),
    options: command.options,
    labels: command.labels,
    device: command.device,
    workers: command.workers,
    onProgress: (progress: Progress) => view.show(progress),
    signal: terminal.signal,
  };
  let result: CompareMethodsOutcome;
  try {
    result = folder === null ? await compareMethods(request) : await compareMethodsInto(request, folder);
    await folder?.finish();
  } catch (error) {
    await folder?.discard();
    throw error;
  } finally {
    view.end();
  }
  const { variants, report, device } = result;
  const outcome: CompareOutcome = {
    variants: variants.map(({ name, method, report, seconds }) => ({
      ...{ name, method, report, seconds },
      folder: out === undefined ? null : join(out, name),
    })),
    merged,
    report,
    device,
  };
  terminal.stdout.write(command.json ? `${JSON.stringify(outcome)}\n` : describe(outcome, out));
}

function describe({ variants, merged, report, device }: CompareOutcome, out: string | undefined): string {
  const rows: Row[] = [
    ...["base", "adapter"].map((name) => ({ name, seconds: null })),
    ...variants.map(({ name, seconds }) => ({ name, seconds })),
    ...merged.map(({ name }) => ({ name, seconds: null })),
  ];
  const charts = (["agreement", "accuracy"] as const)
    .map((measure) => methodsChart(report, rows, measure))
    .filter((chart) => chart !== "");
  const said = saidTable(report).trimStart();
  const samples = report.tasks.map(({ task, samples }) => `${task} ${samples}`).join(", ");
  const lines = [
    `${said === "" ? "Texts" : "Pictures"}: ${samples}. ${device.why}`,
    ...(out === undefined ? [] : [`Each result is in a folder of its method's name in ${out}`]),
    ...report.notes.map((note) => `Note: ${note}`),
  ];
  return [
    methodsTable(report, rows),
    ...charts,
    ...(said === "" ? [] : [said]),
    `${lines.join("\n")}\n`,
  ].join("\n");
}
