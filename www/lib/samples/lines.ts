/** `.txt` and `.jsonl`: one sample a line, blank lines skipped. */
import { malformed } from "./malformed.ts";
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

/** A JSON value a line. */
export function parseJsonLines(text: string, file: string): Placed[] {
  return text.split(lineEnd).flatMap((content, i) => {
    if (content.trim() === "") return [];
    const place = { file, line: i + 1 };
    let value: unknown;
    try {
      value = JSON.parse(content);
    } catch (cause) {
      throw malformed(place, `not valid JSON (${cause instanceof Error ? cause.message : cause}).`);
    }
    return [{ sample: sampleOf(value, place), place }];
  });
}
