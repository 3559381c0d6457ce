/**
 * Files of text as UTF-8.
 *
 * A file in another encoding, read with replacement characters, would calibrate on garbage without a word; so text that
 * is not UTF-8 is refused, with the line where it stops being so.
 */
import { malformed } from "./malformed.ts";

/**
 * The text of a file, without a byte-order mark.
 *
 * @throws IterisError `samples_invalid` that names the line
 */
export function decodeUtf8(bytes: Uint8Array, file: string): string {
  try {
    // The default drops a byte-order mark.
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw malformed({ file, line: firstLineNotUtf8(bytes) }, "not valid UTF-8; save the file as UTF-8.");
  }
}

function firstLineNotUtf8(bytes: Uint8Array): number {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let line = 1;
  let start = 0;
  for (;;) {
    // The byte of a line feed never occurs inside another character of UTF-8.
    const feed = bytes.indexOf(0x0a, start);
    const end = feed === -1 ? bytes.length : feed;
    try {
      decoder.decode(bytes.subarray(start, end));
    } catch {
      return line;
    }
    if (feed === -1) return line;
    start = feed + 1;
    line += 1;
  }
}
