/**
 * Layers that are the same part of different blocks, under one pattern: `unet.*.attn1.to_q` instead of 70 names.
 *
 * The rule is that of the core's model card (`src/naming/groups.rs`), written again because names are grouped where no
 * module is loaded; `tests/patterns.json` holds the two together. A number that is a whole part of a path (between
 * dots; of a flattened name between underscores) counts blocks if it differs among names that are otherwise equal. A
 * pattern is what stands before the first number that counts, a `*`, and what follows the last; of a component of a
 * pipeline only the component stands before the `*`, so that blocks going down and up share their patterns.
 */

/** Things whose names share a pattern, in the order in which they were given. */
export interface PatternGroup<T> {
  /** What their names have in common, with a `*` for the rest; of a thing by itself its name. */
  pattern: string;
  items: T[];
}

/** What a name begins with in kohya's and LyCORIS' files, and in a pipeline's. */
const component =
  /^(?:lora_prior_unet_|lora_prior_te_|lora_transformer_|lora_unet_|lycoris_|lora_te[123]?_|(?:unet|transformer|prior|text_encoder(?:_[23])?|diffusion_model)\.)/;

const isIndex = (part: string): boolean => /^(?:0|[1-9]\d*)$/.test(part);

/** A name in parts. */
interface Path {
  name: string;
  /** With what parts it from the rest; empty where there is none. */
  component: string;
  separator: "." | "_";
  parts: string[];
}

function pathOf(name: string): Path {
  const [own = ""] = component.exec(name) ?? [];
  const rest = name.slice(own.length);
  const separator = rest.includes(".") ? "." : "_";
  return { name, component: own, separator, parts: rest.split(separator) };
}

/** A path with a `*` for every number: equal for paths that differ in numbers alone. */
function starred({ component, separator, parts }: Path): string {
  return [component, ...parts.map((part) => (isIndex(part) ? "*" : part))].join(separator);
}

/** What stands before the `*` and after it. */
interface Pattern {
  before: string;
  ending: string;
  text: string;
}

/** The pattern of paths that differ in numbers alone; `null` where they do not differ. */
function patternOf(alike: readonly Path[]): Pattern | null {
  const [first] = alike;
  if (first === undefined) return null;
  const { component, separator, parts } = first;
  const counting = parts.flatMap((part, index) =>
    alike.some((other) => other.parts[index] !== part) ? [index] : [],
  );
  const [from] = counting;
  const to = counting.at(-1);
  if (from === undefined || to === undefined) return null;
  const leading = parts.slice(0, from).map((part) => part + separator);
  const before = component === "" ? leading.join("") : component;
  const ending = parts.slice(to + 1).join(separator);
  return { before, ending, text: `${before}*${ending === "" ? "" : separator}${ending}` };
}

/** The pattern of the same component whose ending is the longest that this name has. */
function longestOf({ component, separator, parts }: Path, patterns: readonly Pattern[]): Pattern | undefined {
  if (component === "") return undefined;
  const endings = new Set(parts.map((_, index) => parts.slice(index).join(separator)));
  const fitting = patterns.filter(
    ({ before, ending }) => before === component && ending !== "" && endings.has(ending),
  );
  return fitting.sort((a, b) => b.ending.length - a.ending.length)[0];
}

/**
 * Groups things by the pattern of their names; groups stand in the order of their first thing.
 *
 * @example
 * ```ts
 * for (const { pattern, items } of groupByPattern(report.layers, ({ module }) => module)) {
 *   console.log(pattern, items.length, Math.max(...items.map(({ rank }) => rank)));
 * }
 * ```
 */
export function groupByPattern<T>(things: readonly T[], nameOf: (thing: T) => string): PatternGroup<T>[] {
  const paths = things.map((thing) => pathOf(nameOf(thing)));
  const alike = new Map<string, Path[]>();
  for (const path of paths) {
    const key = starred(path);
    const known = alike.get(key);
    if (known === undefined) alike.set(key, [path]);
    else known.push(path);
  }
  const patterns = new Map([...alike].map(([key, found]) => [key, patternOf(found)]));
  const shared = [...patterns.values()].filter((pattern) => pattern !== null);
  const groups = new Map<string, PatternGroup<T>>();
  paths.forEach((path, index) => {
    const found = patterns.get(starred(path)) ?? longestOf(path, shared);
    const pattern = found?.text ?? path.name;
    const group = groups.get(pattern) ?? { pattern, items: [] };
    groups.set(pattern, group);
    group.items.push(things[index] as T);
  });
  return [...groups.values()];
}
