/** The words of a command line as values, and how they are refused. */
import { parseArgs } from "node:util";
import {
  type DeviceRequest,
  deviceChoices,
  IterisError,
  isInRange,
  type NumberRange,
  type WorkersRequest,
  workersRange,
} from "../index.ts";

/** The commands that have a help of their own. */
export type CommandName = "merge" | "compare" | "generate" | "inspect";

const UNITS: Readonly<Record<string, number>> = {
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
};

/** Tells what is wrong with the words of one command, and where its help is. */
export class Usage {
  readonly #of: CommandName | null;

  constructor(of: CommandName | null) {
    this.#of = of;
  }

  error(message: string): IterisError {
    const help = this.#of === null ? "iteris-web --help" : `iteris-web ${this.#of} --help`;
    return new IterisError("option_invalid", `${message} See: ${help}`);
  }

  number(name: string, value: string): number {
    const number = Number(value);
    if (value.trim() === "" || !Number.isFinite(number)) {
      throw this.error(`--${name} must be a number, not ${value}.`);
    }
    return number;
  }

  /** A number that is what its option may be. */
  inRange(name: string, value: string, range: NumberRange | undefined): number {
    const number = this.number(name, value);
    if (range !== undefined && !isInRange(number, range)) {
      throw this.error(`--${name} must be ${range.words}, not ${value}.`);
    }
    return number;
  }

  /** A number of bytes, with a unit as transformers takes it: `4GB`, `500MB`, `2GiB`. */
  bytes(name: string, value: string): number {
    const [, digits, unit = ""] = /^\s*(\d+(?:\.\d+)?)\s*([KMG]i?B|B)?\s*$/i.exec(value) ?? [];
    const bytes = Math.floor(Number(digits) * (UNITS[unit.toUpperCase()] ?? 1));
    if (digits === undefined || bytes < 1) {
      throw this.error(`--${name} must be a size such as 4GB or 500MB, not ${value}.`);
    }
    return bytes;
  }

  oneOf<T extends string>(name: string, value: string, choices: readonly T[]): T {
    const choice = choices.find((one) => one === value);
    if (choice === undefined) throw this.error(`--${name} must be ${choices.join(" or ")}, not ${value}.`);
    return choice;
  }

  device(value: string | undefined): DeviceRequest {
    const devices = deviceChoices.map(([device]) => device);
    return this.oneOf("device", value ?? "auto", devices);
  }

  workers(value = "auto"): WorkersRequest {
    return value === "auto" ? value : this.inRange("workers", value, workersRange);
  }
}

/** Reads a value if there is one. */
export function optional<From, To>(value: From | undefined, read: (value: From) => To): To | undefined {
  return value === undefined ? undefined : read(value);
}

/** An option with a value, one that may be repeated, and one without a value. */
export const text = { type: "string" } as const;
export const list = { type: "string", multiple: true } as const;
export const flag = { type: "boolean" } as const;
export const help = { type: "boolean", short: "h" } as const;

/** Options of a command by name. */
export type OptionTable = Record<
  string,
  { type: "string"; multiple?: boolean } | { type: "boolean"; short?: string }
>;

/** Options with values in the order in which they were written. */
export type Given = readonly { name: string; value: string }[];

/** What is left of Node's own message after its advice about `--`, which fits no option of this program. */
export function firstSentence(thrown: unknown): string {
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return `${message.split(". ", 1)[0]?.replace(/\.$/, "") ?? message}.`;
}

type Parsed<Options extends OptionTable> = ReturnType<
  typeof parseArgs<{ args: string[]; options: Options; allowPositionals: boolean; tokens: true }>
>;

/** A negative number after an option is its value, which Node takes for an option of its own. */
function joinNegative(args: readonly string[], options: OptionTable): string[] {
  const joined: string[] = [];
  for (let i = 0; i < args.length; i += 1) {
    const [word = "", next = ""] = args.slice(i, i + 2);
    const takesValue = word.startsWith("--") && options[word.slice(2)]?.type === "string";
    if (takesValue && /^-\.?\d/.test(next)) {
      joined.push(`${word}=${next}`);
      i += 1;
    } else {
      joined.push(word);
    }
  }
  return joined;
}

/** Takes the words apart; an option that has one value is not given twice. */
export function readWords<const Options extends OptionTable>(
  args: string[],
  options: Options,
  usage: Usage,
  { allowPositionals = false } = {},
): { values: Parsed<Options>["values"]; positionals: string[]; given: Given } {
  let parsed: Parsed<Options>;
  try {
    parsed = parseArgs({ args: joinNegative(args, options), options, allowPositionals, tokens: true });
  } catch (thrown) {
    throw usage.error(firstSentence(thrown));
  }
  const given: Given = parsed.tokens.flatMap((token) =>
    token.kind === "option" && token.value !== undefined ? [{ name: token.name, value: token.value }] : [],
  );
  for (const [name, option] of Object.entries(options)) {
    const single = option.type === "string" && option.multiple !== true;
    if (single && given.filter((one) => one.name === name).length > 1) {
      throw usage.error(`--${name} is given twice.`);
    }
  }
  return { values: parsed.values, positionals: parsed.positionals, given };
}

/**
 * The value that each adapter has of one option.
 *
 * People write such options either beside each adapter or all in a row. Both are read: as many as there are adapters
 * go to the adapters in order, fewer go each to the `--adapter` before them; anything else is refused rather than
 * guessed.
 */
export function pair(given: Given, name: string, adapters: number, usage: Usage): (string | undefined)[] {
  const values = given.filter((one) => one.name === name).map(({ value }) => value);
  if (values.length === adapters) return values;
  const beside = given.some((one) => one.name === "adapter");
  if (values.length > adapters || (values.length > 0 && !beside)) {
    throw usage.error(`--${name} is given ${values.length} times for ${adapters} adapters.`);
  }
  const paired = new Array<string | undefined>(adapters).fill(undefined);
  let adapter = -1;
  for (const one of given) {
    if (one.name === "adapter") adapter += 1;
    if (one.name !== name) continue;
    if (adapter === -1) throw usage.error(`--${name} ${one.value} stands before the first --adapter.`);
    if (paired[adapter] !== undefined) {
      throw usage.error(`--${name} ${one.value} is the adapter's second --${name}.`);
    }
    paired[adapter] = one.value;
  }
  return paired;
}
