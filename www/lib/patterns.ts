/**
 * Names of modules by their pattern: an adapter of SDXL names 722 of them, which are some dozens of kinds.
 *
 * Numbers become `*`: the parts of a path that are numbers, and in names without dots (kohya's, ComfyUI's) those between
 * underscores. So `unet.down_blocks.1.attentions.0.to_q` and `unet.down_blocks.2.attentions.1.to_q` are both
 * `unet.down_blocks.*.attentions.*.to_q`. The core groups by the same rule in a model card.
 */

/** Things whose names share a pattern, in the order in which they were given. */
export interface PatternGroup<T> {
  /** The pattern; the name itself where no other thing shares it. */
  pattern: string;
  items: T[];
}

/** A module's name with its numbers replaced. */
export function patternOf(name: string): string {
  const separator = name.includes(".") ? "." : "_";
  const parts = name.split(separator).map((part) => (/^\d+$/.test(part) ? "*" : part));
  return parts.filter((part, index) => part !== "*" || parts[index - 1] !== "*").join(separator);
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
  const groups = new Map<string, T[]>();
  for (const thing of things) {
    const pattern = patternOf(nameOf(thing));
    const items = groups.get(pattern);
    if (items === undefined) groups.set(pattern, [thing]);
    else items.push(thing);
  }
  return [...groups].map(([pattern, items]) => {
    const [only] = items;
    return { pattern: items.length === 1 && only !== undefined ? nameOf(only) : pattern, items };
  });
}
