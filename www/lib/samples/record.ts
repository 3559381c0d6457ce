/** One sample from a parsed JSON value or from the cells of a table: checked once, trusted afterwards. */
import type { Sample } from "../types.ts";
import { malformed, type Place } from "./malformed.ts";

function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : typeof value === "object" ? "an object" : `a ${typeof value}`;
}

function textOf(value: unknown, key: string, place: Place): string {
  if (typeof value !== "string") throw malformed(place, `"${key}" must be a text, not ${kindOf(value)}.`);
  if (value.trim() === "") throw malformed(place, `"${key}" is empty.`);
  return value;
}

function labelOf(value: unknown, place: Place): string | number | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "string") return value;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0) return value;
  throw malformed(place, `"label" must be a name or an index (0, 1, …), not ${JSON.stringify(value)}.`);
}

/**
 * A sample from a text or from `{ text, text_pair?, label? }`; other keys are ignored.
 *
 * @throws IterisError `samples_invalid` that names the place
 */
export function sampleOf(value: unknown, place: Place): Sample {
  if (typeof value === "string") return { text: textOf(value, "text", place) };
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw malformed(place, `a sample must be a text or an object with "text", not ${kindOf(value)}.`);
  }
  const { text, text_pair, label } = value as Record<string, unknown>;
  if (text === undefined) {
    const keys = Object.keys(value);
    const has = keys.length === 0 ? "it is empty" : `it has ${keys.map((key) => `"${key}"`).join(", ")}`;
    throw malformed(place, `"text" is missing; ${has}.`);
  }
  const sample: Sample = { text: textOf(text, "text", place), label: labelOf(label, place) };
  if (text_pair !== undefined && text_pair !== null) sample.text_pair = textOf(text_pair, "text_pair", place);
  return sample;
}
