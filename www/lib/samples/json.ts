/** `.json`: a list of samples, or an object with one under `samples`. */
import { malformed } from "./malformed.ts";
import { type Placed, sampleOf } from "./record.ts";

/** The line of a syntax error, from the position that engines put into their message (not all do). */
function lineOf(message: string, text: string): number | undefined {
  const position = /position (\d+)/.exec(message)?.[1];
  return position === undefined ? undefined : text.slice(0, Number(position)).split("\n").length;
}

/** Every sample of the file. */
export function parseJson(text: string, file: string): Placed[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    const line = lineOf(message, text);
    throw malformed(line === undefined ? { file } : { file, line }, `not valid JSON (${message}).`);
  }
  const list =
    typeof value === "object" && value !== null && "samples" in value
      ? (value as { samples: unknown }).samples
      : value;
  if (!Array.isArray(list)) {
    throw malformed({ file }, `must be a list of samples, or an object with such a list under "samples".`);
  }
  return list.map((item, i) => {
    const place = { file, item: i + 1 };
    return { sample: sampleOf(item, place), place };
  });
}
