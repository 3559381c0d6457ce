/** `iteris-web inspect --plan …`, parsed into what it asks for. */
import { defaultValues, type MergeOptions, type WorkersRequest } from "../index.ts";
import { nameOf } from "./adapters.ts";
import { methodOptions, readMethod, readMethodOptions, refuseUseless, writeOut } from "./method-options.ts";
import { flag, help, readWords, text, Usage } from "./values.ts";

/** What a plan is asked for: inputs and options as of a merge. */
export interface PlanCommand {
  command: "plan";
  /** `undefined` where a method needs none. */
  base: string | undefined;
  adapters: { name: string; folder: string }[];
  options: Partial<MergeOptions>;
  workers: WorkersRequest;
  json: boolean;
}

const usage = new Usage("inspect");

const table = {
  plan: flag,
  base: text,
  method: text,
  ...methodOptions,
  workers: text,
  json: flag,
  help,
} as const;

/** @throws IterisError `option_invalid` with what is wrong and where the help is */
export function parsePlan(args: string[]): PlanCommand | { command: "help"; of: "inspect" } {
  const { values, positionals } = readWords(writeOut(args), table, usage, { allowPositionals: true });
  if (values.help) return { command: "help", of: "inspect" };
  if (positionals.length === 0) throw usage.error("Give the adapters whose merge is to be planned.");
  const method = readMethod("method", values.method ?? defaultValues.method, usage);
  const options = {
    method: method.name,
    ...readMethodOptions(values, [method], positionals.length, usage),
  };
  const named = `--method ${method.name}`;
  refuseUseless(values, { methods: [method], named, options, writes: false, compares: false }, usage);
  return {
    command: "plan",
    base: values.base,
    adapters: positionals.map((folder) => ({ name: nameOf(folder), folder })),
    options,
    workers: usage.workers(values.workers),
    json: values.json ?? false,
  };
}
