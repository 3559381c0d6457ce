/** How a malformed place in a file of samples is reported: always with the number a text editor shows. */
import { IterisError } from "../errors.ts";

/** Where in a file something is wrong. Lines and items count from 1. */
export interface Place {
  file: string;
  line?: number;
  item?: number;
}

/** The failure `emoint.jsonl line 7: …`. */
export function malformed({ file, line, item }: Place, what: string): IterisError {
  const where = line !== undefined ? ` line ${line}` : item !== undefined ? ` item ${item}` : "";
  return new IterisError("samples_invalid", `${file}${where}: ${what}`);
}
