/** `.txt` and `.jsonl`: one sample a line, blank lines skipped. */
import { malformed, type Place } from "./malformed.ts";
import { type Placed, sampleOf } from "./record.ts";

// The three line ends of text files. Not U+2028 and its kin, which occur inside texts.
const lineEnd = /\r\n|\n|\r/;

/** Plain texts. */
export function parseLines(text: string, file: string): Placed[] {
  return text
    .split(lineEnd)
    .map((line, i) => ({ sample: { text: line }, place: { file, line: i + 1 } }))
    .filter(({ sample }) => sample.text.trim() !== "");
}

/** A JSON value a line, with where it stands; blank lines are skipped. */
export function jsonLines(text: string, file: string): { value: unknown; place: Place }[] {
  return text.split(lineEnd).flatMap((content, i) => {
    if (content.trim() === "") return [];
    const place = { file, line: i + 1 };
    try {
      return [{ value: JSON.parse(content) as unknown, place }];
    } catch (cause) {
      throw malformed(place, `not valid JSON (${cause instanceof Error ? cause.message : cause}).`);
    }
  });
}

/** A sample as JSON a line. */
export function parseJsonLines(text: string, file: string): Placed[] {
  return jsonLines(text, file).map(({ value, place }) => ({ sample: sampleOf(value, place), place }));
}
