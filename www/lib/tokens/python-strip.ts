/**
 * `text.strip("\n")` in a chat template, as Python has it.
 *
 * `@huggingface/jinja` leaves the argument out and strips all white space, so an answer that begins with a
 * space would lose it. Calls with an argument are turned into calls of the functions here, in the parsed
 * template.
 */

type Node = Record<string, unknown>;

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null;
}

/** `value` without the characters of `set` at the sides that count. */
function stripped(value: unknown, set: unknown, left: boolean, right: boolean): string {
  if (typeof value !== "string" || typeof set !== "string") throw new Error("strip() is for texts");
  const letters = new Set(set);
  const characters = Array.from(value);
  let start = 0;
  let end = characters.length;
  while (left && start < end && letters.has(characters[start] ?? "")) start += 1;
  while (right && end > start && letters.has(characters[end - 1] ?? "")) end -= 1;
  return characters.slice(start, end).join("");
}

/** What a template finds by these names, which no template has for its own variables. */
export const stripFunctions = {
  "python strip": (value: unknown, set: unknown) => stripped(value, set, true, true),
  "python lstrip": (value: unknown, set: unknown) => stripped(value, set, true, false),
  "python rstrip": (value: unknown, set: unknown) => stripped(value, set, false, true),
};

/** Rewrites `x.strip(y)` and its kin in a parsed template, in place. */
export function usePythonStrip(node: unknown): void {
  if (!isNode(node)) return;
  for (const child of Object.values(node)) usePythonStrip(child);
  const { type, callee, args } = node;
  if (type !== "CallExpression" || !isNode(callee) || callee.type !== "MemberExpression") return;
  const { object, property, computed } = callee;
  if (computed || !isNode(property) || !Array.isArray(args) || args.length !== 1) return;
  const name = `python ${property.value}`;
  if (!(name in stripFunctions)) return;
  node.callee = Object.assign(Object.create(Object.getPrototypeOf(property)), property, { value: name });
  node.args = [object, ...args];
}
