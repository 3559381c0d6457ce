/** `iteris-web inspect --plan`. */
import { type MergePlan, planMerge } from "../index.ts";
import type { PlanCommand } from "./parse-plan.ts";
import type { Terminal } from "./terminal.ts";

/** Tells what a merge would take. */
export async function runPlan(command: PlanCommand, terminal: Terminal): Promise<void> {
  const plan = await planMerge({
    base: command.base,
    adapters: command.adapters.map(({ name, folder }) => ({ name, files: folder })),
    options: command.options,
    workers: command.workers,
  });
  terminal.stdout.write(command.json ? `${JSON.stringify(plan)}\n` : describe(plan));
}

function describe(plan: MergePlan): string {
  const { layers, bytesRead, bytesWritten, peakBytes, operations, seconds, refusal } = plan;
  const workers = plan.workers ?? 1;
  const parts = [
    `${layers} layers: reads ${binary(bytesRead)}`,
    `writes ${binary(bytesWritten)}`,
    ...(peakBytes === null ? [] : [`at most ${binary(peakBytes * workers)} of memory`]),
    ...(operations === null ? [] : [amount(operations)]),
    ...(seconds === null ? [] : [`about ${time(seconds)} on ${cores(workers)}`]),
  ];
  const open = peakBytes === null || seconds === null ? ["The samples decide the rest."] : [];
  const refused = refusal === null ? [] : [`${refusal}.`];
  return `${[parts.join(", "), ...open, ...refused].join("\n")}\n`;
}

/** `429 MiB`. */
function binary(bytes: number): string {
  const [unit, name] = bytes < 2 ** 30 ? [2 ** 20, "MiB"] : [2 ** 30, "GiB"];
  return `${digits(bytes / unit)} ${name}`;
}

/** `12 GFLOP`. */
function amount(operations: number): string {
  const [unit, name] = operations < 1e12 ? [1e9, "GFLOP"] : [1e12, "TFLOP"];
  return `${digits(operations / unit)} ${name}`;
}

/** `this machine`, `2 cores of this machine`. */
const cores = (workers: number): string =>
  workers === 1 ? "this machine" : `${workers} cores of this machine`;

/** Two digits or more: an estimate has no more than that. */
const digits = (value: number): string => (value < 9.95 ? value.toFixed(1) : value.toFixed(0));

/** `6 s`, `3 min`. */
const time = (seconds: number): string =>
  seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
