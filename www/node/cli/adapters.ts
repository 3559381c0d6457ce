/** The adapters of a command line, with what belongs to each. */
import { basename, resolve } from "node:path";
import type { SelfOptions } from "../index.ts";
import { type Given, list, optional, pair, type Usage } from "./values.ts";

/** One adapter of the command line. */
export interface AdapterArgument {
  name: string;
  /** A folder, or one `.safetensors` file. */
  folder: string;
  /** A file, or how the adapter is to write its samples itself. */
  samples: string | { self: SelfOptions } | undefined;
  weight: number | undefined;
  compare: string | undefined;
}

/** The options that each adapter has its own of. */
export const adapterOptions = {
  adapter: list,
  name: list,
  samples: list,
  "self-prompt": list,
  weight: list,
  compare: list,
} as const;

/** What a folder or a file is called where nobody names it. */
export function nameOf(path: string): string {
  // Resolved first, so that `.` and `a/..` have a name too.
  return basename(resolve(path)).replace(/\.safetensors$/, "");
}

/** What is known of an adapter beforehand, from a recipe. */
export interface KnownAdapter {
  name: string;
  weight: number;
  /** `null` where the recipe does not tell it. */
  folder: string | null;
  /** `undefined` if it had none; `null` if it had and they cannot be found again. */
  samples: string | { self: SelfOptions } | undefined | null;
}

/** What each adapter is given; a recipe's say where the command line says nothing. */
export function readAdapters(
  given: Given,
  known: readonly KnownAdapter[] | null,
  { seed, samples: needed }: { seed: number | undefined; samples: boolean },
  usage: Usage,
): AdapterArgument[] {
  const folders = given.filter(({ name }) => name === "adapter").map(({ value }) => value);
  const names = known?.map(({ name }) => name).join(", ");
  const count = known?.length ?? folders.length;
  if (folders.length > 0 && folders.length !== count) {
    throw usage.error(`Give --adapter for each of the recipe's ${count} adapters, in their order: ${names}.`);
  }
  const of = (name: keyof typeof adapterOptions) => pair(given, name, count, usage);
  const [titles, samples, prompts] = [of("name"), of("samples"), of("self-prompt")];
  const [weights, compare] = [of("weight"), of("compare")];
  const compared = compare.filter((value) => value !== undefined).length;
  if (compared > 0 && compared < count) {
    throw usage.error(`--compare needs a file for each of the ${count} adapters, not for ${compared}.`);
  }
  return Array.from({ length: count }, (_, i) => {
    const before = known?.[i];
    const folder = folders[i] ?? before?.folder;
    if (folder === undefined || folder === null) {
      throw usage.error(
        `The recipe does not tell where its adapters are; give --adapter for each: ${names}.`,
      );
    }
    const own = samples[i] ?? (needed ? before?.samples : undefined);
    if (own === null) {
      throw usage.error(
        `The recipe does not tell where its samples are; give --samples for each adapter: ${names}.`,
      );
    }
    return {
      name: titles[i] ?? before?.name ?? nameOf(folder),
      folder,
      samples: readSamples(own, prompts[i], seed, usage),
      weight: optional(weights[i], (value) => usage.number("weight", value)) ?? before?.weight,
      compare: compare[i],
    };
  });
}

/** `self` is no file of samples: those have an ending. */
function readSamples(
  samples: AdapterArgument["samples"],
  prompt: string | undefined,
  seed: number | undefined,
  usage: Usage,
): AdapterArgument["samples"] {
  if (samples === undefined || (typeof samples === "string" && samples !== "self")) {
    if (prompt !== undefined) throw usage.error(`--self-prompt ${prompt} goes with --samples self.`);
    return samples;
  }
  const before = samples === "self" ? {} : samples.self;
  return {
    self: {
      ...before,
      ...(prompt === undefined ? {} : { prompt }),
      ...(seed === undefined ? {} : { seed }),
    },
  };
}
