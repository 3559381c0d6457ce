/** How tokens are chosen while a model writes: the options for it, checked. */
import { GENERATE_OPTIONS } from "./generated.ts";
import { checkRange, type NumberRange } from "./options.ts";

/** How text is written, with the defaults filled in. */
export interface Sampling {
  maxNewTokens: number;
  /** 0 takes the likeliest token each time. */
  temperature: number;
  topP: number;
  seed: number;
}

/** The values that are given, and the defaults of the others. */
export function withDefaults<Name extends string>(
  table: Readonly<Record<Name, { readonly default: number }>>,
  given: { readonly [Key in Name]?: number | null | undefined },
): Record<Name, number> {
  const names = Object.keys(table) as Name[];
  return Object.fromEntries(names.map((name) => [name, given[name] ?? table[name].default])) as Record<
    Name,
    number
  >;
}

/** @throws IterisError `option_invalid` for a value out of its range */
export function checkAll<Name extends string>(
  table: Readonly<Record<Name, { readonly range: NumberRange }>>,
  values: Readonly<Record<Name, number>>,
): void {
  for (const name of Object.keys(table) as Name[]) checkRange(name, values[name], table[name].range);
}

/** @throws IterisError `option_invalid` for a value out of its range */
export function readSampling(given: { readonly [Name in keyof Sampling]?: number | undefined }): Sampling {
  const sampling = withDefaults(GENERATE_OPTIONS, given);
  checkAll(GENERATE_OPTIONS, sampling);
  return sampling;
}
