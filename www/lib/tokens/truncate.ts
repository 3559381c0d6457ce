/** How many tokens of a text, or of each text of a pair, fit. */

/** Where tokens that do not fit are taken away. */
export type Side = "right" | "left";

/**
 * What remains of two texts of `a` and `b` tokens within `room` tokens, by the rule that transformers calls
 * `longest_first`: the longer one is cut, and once they are as long as each other both are, the second
 * keeping the odd token.
 */
export function longestFirst(a: number, b: number, room: number): [number, number] {
  if (a + b <= room) return [a, b];
  const shorter = Math.min(a, b);
  const kept = Math.max(shorter, room - shorter);
  if (shorter + kept <= room) return a <= b ? [shorter, kept] : [kept, shorter];
  const half = Math.floor(room / 2);
  return a <= b ? [half, room - half] : [room - half, half];
}

/** The first `count` tokens, or the last ones where the tokenizer truncates on the left. */
export function keep<T>(tokens: readonly T[], count: number, side: Side): T[] {
  if (tokens.length <= count) return [...tokens];
  return side === "right" ? tokens.slice(0, count) : tokens.slice(tokens.length - count);
}
