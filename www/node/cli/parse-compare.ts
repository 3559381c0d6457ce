/** `iteris-web compare …`, parsed into what it asks for. */
import {
  type DeviceRequest,
  METHODS,
  type MergeOptions,
  type MethodFacts,
  SELF_OPTIONS,
  type WorkersRequest,
} from "../index.ts";
import { type AdapterArgument, adapterOptions, nameOf, readAdapters } from "./adapters.ts";
import { methodOptions, readMethod, readMethodOptions, refuseUseless, writeOut } from "./method-options.ts";
import { flag, help, list, optional, readWords, text, Usage } from "./values.ts";

/** What `iteris-web compare` is asked for. */
export interface CompareCommand {
  command: "compare";
  base: string;
  adapters: AdapterArgument[];
  /** By name, in order. */
  methods: MethodFacts["name"][];
  /** Adapters that are merged already. */
  merged: { name: string; folder: string }[];
  /** Where the results are kept, if they are. */
  out: string | undefined;
  force: boolean;
  options: Omit<Partial<MergeOptions>, "method">;
  /** Classes that a model of pictures and texts chooses from. */
  labels: string[] | undefined;
  device: DeviceRequest;
  workers: WorkersRequest;
  json: boolean;
}

const usage = new Usage("compare");

const table = {
  base: text,
  ...adapterOptions,
  methods: text,
  merged: list,
  out: text,
  force: flag,
  ...methodOptions,
  label: list,
  device: text,
  workers: text,
  json: flag,
  help,
} as const;

/** What is compared where nobody says: the method of this program, and what it is mostly held against. */
const usual = ["iteris", "average", "ties"];

/** @throws IterisError `option_invalid` with what is wrong and where the help is */
export function parseCompare(args: string[]): CompareCommand | { command: "help"; of: "compare" } {
  const { values, given } = readWords(writeOut(args), table, usage);
  if (values.help) return { command: "help", of: "compare" };
  if (values.base === undefined) throw usage.error("--base is missing: the folder of the base model.");
  if (values.force && values.out === undefined) throw usage.error("--force goes with --out.");
  const calibrates = given.some(({ name }) => name === "samples");
  const methods = readMethods(values.methods, calibrates);
  const seed = optional(values.seed, (value) => usage.inRange("seed", value, SELF_OPTIONS.seed.range));
  const samples = methods.some((method) => method.samples);
  const adapters = readAdapters(given, null, { seed: samples ? seed : undefined, samples }, usage);
  const options = readMethodOptions(values, methods, adapters.length, usage);
  const compares = adapters.some(({ compare }) => compare !== undefined);
  const writes = adapters.some(({ samples }) => typeof samples === "object");
  const named = methods.map(({ name }) => name).join(", ");
  const around = { methods, named, options, writes, compares: true };
  refuseUseless(values, around, usage);
  refuseWithoutTexts(adapters, compares, writes);
  return {
    command: "compare",
    base: values.base,
    adapters,
    methods: methods.map(({ name }) => name),
    merged: nameMerged(values.merged ?? [], methods),
    out: values.out,
    force: values.force ?? false,
    options,
    labels: values.label,
    device: usage.device(values.device),
    workers: usage.workers(values.workers),
    json: values.json ?? false,
  };
}

/** The methods that are named, `all` of them, or the usual ones; without samples those that need none. */
function readMethods(value: string | undefined, calibrates: boolean): MethodFacts[] {
  const all = value === "all";
  if (value === undefined || all) {
    return METHODS.filter(({ name, samples }) => (all || usual.includes(name)) && (calibrates || !samples));
  }
  const methods = value.split(",").map((name) => readMethod("methods", name.trim(), usage));
  const twice = methods.find((method, i) => methods.indexOf(method) !== i);
  if (twice !== undefined) throw usage.error(`--methods names ${twice.name} twice.`);
  const needs = methods.find(({ samples }) => samples);
  if (needs !== undefined && !calibrates) {
    throw usage.error(`--methods ${needs.name} needs --samples for each adapter.`);
  }
  return methods;
}

function refuseWithoutTexts(adapters: readonly AdapterArgument[], compares: boolean, writes: boolean): void {
  if (compares) return;
  if (writes)
    throw usage.error("What adapters write themselves is nothing to compare on; give --compare too.");
  const without = adapters.find(({ samples }) => samples === undefined);
  if (without === undefined) return;
  throw usage.error(
    `Give texts to compare on, --compare or else --samples; there are none for ${without.name}.`,
  );
}

/** By the folder's name; by its path where that is a method's or another's already. */
function nameMerged(folders: readonly string[], methods: readonly MethodFacts[]): CompareCommand["merged"] {
  const taken = new Set<string>(["base", "adapter", ...methods.map(({ name }) => name)]);
  return folders.map((folder) => {
    const name = taken.has(nameOf(folder)) ? folder : nameOf(folder);
    if (taken.has(name)) throw usage.error(`--merged ${folder} would be the second row of that name.`);
    taken.add(name);
    return { name, folder };
  });
}
