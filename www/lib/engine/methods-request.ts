/** What `compareMethods` was asked for, checked, apart from the engine so that the page needs no engine for it. */
import { IterisError } from "../errors.ts";
import { DEFAULT_METHOD } from "../generated.ts";
import { METHODS, type MethodFacts, methodFacts } from "../methods.ts";
import type { CompareMethodsRequest, MergeOptions } from "../types.ts";

/** One of several merges. */
export interface Variant {
  name: string;
  options: Partial<MergeOptions>;
}

/** What the comparison's own rows are called. */
const ownRows = ["base", "adapter"];

/**
 * The merges that are asked for, with the options that all share filled in.
 *
 * @throws IterisError `option_invalid` for no method, or for one that is none; `duplicate` for a name given twice
 */
export function readMethods({
  methods,
  options,
  merged = [],
}: Pick<CompareMethodsRequest<unknown, unknown>, "methods" | "options" | "merged">): Variant[] {
  if (methods.length === 0) throw new IterisError("option_invalid", "Name at least one method.");
  const variants = methods.map((one): Variant => {
    const own: Partial<MergeOptions> = typeof one === "string" ? { method: one } : one.options;
    const method = methodFacts(own.method ?? DEFAULT_METHOD);
    const name = typeof one === "string" ? method.name : (one.name ?? method.name);
    return { name, options: { ...sharedWith(method, options), ...own, method: method.name } };
  });
  checkNames([...variants, ...merged].map(({ name }) => name));
  return variants;
}

/** What a method takes of the options that all share: not those that belong to others. */
function sharedWith(method: MethodFacts, options: Partial<MergeOptions> = {}): Partial<MergeOptions> {
  const owned = new Set<string>(METHODS.flatMap((one) => one.options));
  const own: readonly string[] = method.options;
  return Object.fromEntries(
    Object.entries(options).filter(([name]) => !owned.has(name) || own.includes(name)),
  );
}

function checkNames(names: readonly string[]): void {
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) {
    throw new IterisError("duplicate", `Two results would have the same name; give each its own: ${twice}`);
  }
  const taken = names.find((name) => ownRows.includes(name));
  if (taken !== undefined) {
    throw new IterisError(
      "duplicate",
      `The comparison has a row of that name itself; choose another: ${taken}`,
    );
  }
}
