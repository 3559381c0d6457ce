/** `.txt` and `.jsonl`: one sample a line, blank lines skipped. */
import type { Sample } from "../types.ts";
import { malformed } from "./malformed.ts";
import { sampleOf } from "./record.ts";

// The three line ends of text files. Not U+2028 and its kin, which occur inside texts.
const lineEnd = /\r\n|\n|\r/;

/** Plain texts. */
export function parseLines(text: string): Sample[] {
  return text
    .split(lineEnd)
    .filter((line) => line.trim() !== "")
    .map((line) => ({ text: line }));
}

/** A JSON value a line. */
export function parseJsonLines(text: string, file: string): Sample[] {
  return text.split(lineEnd).flatMap((content, i) => {
    if (content.trim() === "") return [];
    const place = { file, line: i + 1 };
    let value: unknown;
    try {
      value = JSON.parse(content);
    } catch (cause) {
      throw malformed(place, `not valid JSON (${cause instanceof Error ? cause.message : cause}).`);
    }
    return [sampleOf(value, place)];
  });
}
