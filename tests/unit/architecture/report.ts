/** What the parsers find in source files, and how a broken rule is told. */

/** One file that uses another. */
export interface Use {
  /** From the root of the repository, `/` between the parts. */
  file: string;
  line: number;
  /** The file that is used, by the same kind of path. */
  target: string;
  /** As it is written, for messages. */
  written: string;
}

/** A rule that is broken, in the form in which compilers tell it: file, line, and what is wrong. */
export const broken = ({ file, line }: Pick<Use, "file" | "line">, rule: string): string =>
  `${file}:${line}: ${rule}`;

/** The line of a place in a text, from 1. */
export const lineAt = (text: string, index: number): number => text.slice(0, index).split("\n").length;
