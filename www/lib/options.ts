/**
 * The options of a merge, of writing and of self-written samples as the core describes them, and how values are held
 * against that: what the command line, recipes and the page read and show them by.
 */
import { IterisError } from "./errors.ts";
import { DEFAULT_METHOD, DEVICES, OPTIONS as described } from "./generated.ts";
import type { DeviceRequest, MergeOptions, MethodName } from "./types.ts";

/** Which numbers an option may be. */
export interface NumberRange {
  /** The least, if there is one. */
  least?: number;
  /** Whether `least` itself is outside. */
  above?: boolean;
  /** The most, if there is one. */
  most?: number;
  /** Whether numbers between whole ones are outside. */
  whole?: boolean;
  /** The range in words that follow "must be". */
  words: string;
}

/** What there is to tell of an option. */
export interface OptionFacts {
  kind: "number" | "bytes" | "flag" | "word" | "weights";
  default: unknown;
  /** What `null` means, where an option may be that. */
  unset?: string;
  /** The words it may be, with what the page calls them. */
  choices?: Readonly<Record<string, { label: string; hint?: string }>>;
  range?: NumberRange;
  unit?: string;
  /** The sentence that explains it. */
  sentence: string;
  /** The word of another option beside which alone it does something. */
  needs?: Readonly<Record<string, string>>;
  /** The methods that look at it, where not all do. */
  methods?: readonly MethodName[];
  /** On the command line; one flag may set several options. */
  flag?: {
    name: string;
    /** What stands for the value in the help; a flag without one takes none. */
    value?: string;
    /** What the help says where the sentence would not do. */
    help?: string;
  };
  section?: "method" | "samples" | "output" | "writing";
  /** On the page. */
  field?: {
    place: "beside" | "folded" | "output" | "writing";
    label: string;
    hint?: string;
    /** What an empty field stands for. */
    empty?: string;
  };
}

/** An option of a merge, the method apart. */
export type OptionName = Exclude<keyof MergeOptions, "method">;

/** The options of a merge with what there is to tell of each. */
export const OPTIONS: Readonly<Record<OptionName, OptionFacts>> = described;

/** The names of the options, in the order in which they are told of. */
export const optionNames = Object.keys(described) as readonly OptionName[];

/** Every option's value where nobody says otherwise. */
export const defaultValues = {
  method: DEFAULT_METHOD,
  ...Object.fromEntries(optionNames.map((name) => [name, described[name].default])),
} as Readonly<MergeOptions>;

type Described = (typeof described)[OptionName];

/** The flags of the command line, with the kind of value that the options behind each have. */
export type FlagKinds = {
  [Flag in Described["flag"]["name"]]: Extract<Described, { flag: { name: Flag } }>["kind"];
};

/** The options that are one of a few words. */
export type WordOption = {
  [Name in OptionName]: (typeof described)[Name] extends { kind: "word" } ? Name : never;
}[OptionName];

/** The words that such an option may be. */
export const optionChoices = Object.fromEntries(
  optionNames.flatMap((name) => {
    const { choices } = OPTIONS[name];
    return choices === undefined ? [] : [[name, Object.keys(choices)]];
  }),
) as unknown as { readonly [Name in WordOption]: readonly MergeOptions[Name][] };

/** The devices that can be asked for, with what the page calls them. */
export const deviceChoices = Object.entries(DEVICES) as readonly (readonly [DeviceRequest, string])[];

/** How many workers can be asked for. */
export const workersRange: NumberRange = {
  least: 1,
  most: 64,
  whole: true,
  words: "auto or a whole number from 1 to 64",
};

/** Whether a number is in a range. */
export function isInRange(value: number, { least, above, most, whole }: NumberRange): boolean {
  if (!Number.isFinite(value) || (whole && !Number.isSafeInteger(value))) return false;
  if (least !== undefined && (above ? value <= least : value < least)) return false;
  return most === undefined || value <= most;
}

/** @throws IterisError `option_invalid` for a value that is not in its option's range */
export function checkRange(name: string, value: number, range: NumberRange): void {
  if (isInRange(value, range)) return;
  throw new IterisError("option_invalid", `${name} must be ${range.words}, not ${value}.`);
}

/** `max_iter` of a report as `maxIter`. */
export function camelCase(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
