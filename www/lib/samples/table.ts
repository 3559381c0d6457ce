/**
 * `.csv` and `.tsv` with a header line: the column `text` (with `text_pair` and `target`) or `prompt` (with
 * `completion`), or both kinds with empty cells between them, and `label`.
 *
 * Papa Parse does the quoting (RFC 4180). A quoted text may hold line breaks, so a row's number is not its
 * line's number; the line is counted from the parser's position in the file.
 */
import Papa from "papaparse";
import { malformed, type Place } from "./malformed.ts";
import { type Placed, sampleOf } from "./record.ts";

const columns = ["text", "text_pair", "target", "prompt", "completion", "label"] as const;
type Column = (typeof columns)[number];

interface Row {
  cells: string[];
  /** Where the row begins, from 1. */
  line: number;
  problem: string | null;
}

function countLines(text: string): number {
  return text.match(/\r\n|\n|\r/g)?.length ?? 0;
}

function rowsOf(text: string, delimiter: string): Row[] {
  const rows: Row[] = [];
  let line = 1;
  let position = 0;
  Papa.parse<string[]>(text, {
    delimiter,
    step({ data, errors, meta }) {
      rows.push({ cells: data, line, problem: errors[0]?.message ?? null });
      line += countLines(text.slice(position, meta.cursor));
      position = meta.cursor;
    },
  });
  return rows.filter(({ cells, problem }) => problem !== null || cells.some((cell) => cell.trim() !== ""));
}

/** The first line of a table. */
export interface Header {
  /** As they are written. */
  cells: readonly string[];
  /** In lower case, without the spaces around them. */
  names: readonly string[];
  place: Place;
}

/** A table by its rows, each as long as the header; an empty table has none. */
export function tableOf(
  text: string,
  delimiter: "," | "\t",
  file: string,
): { header: Header; rows: { cells: readonly string[]; place: Place }[] } | undefined {
  const placed = rowsOf(text, delimiter).map(({ cells, line, problem }) => {
    const place = { file, line };
    if (problem !== null) throw malformed(place, `${problem}.`);
    return { cells, place };
  });
  const [first, ...rows] = placed;
  if (first === undefined) return undefined;
  const width = first.cells.length;
  const odd = rows.find(({ cells }) => cells.length !== width);
  if (odd !== undefined) {
    throw malformed(odd.place, `${odd.cells.length} columns where the first line has ${width}.`);
  }
  return { header: { ...first, names: first.cells.map((cell) => cell.trim().toLowerCase()) }, rows };
}

/**
 * Which column bears a name, if one does.
 *
 * @throws IterisError `samples_invalid` if two do
 */
export function columnOf(name: string, { names, place }: Header): number | undefined {
  const at = names.indexOf(name);
  if (at === -1) return undefined;
  if (names.indexOf(name, at + 1) !== -1) throw malformed(place, `the column "${name}" occurs twice.`);
  return at;
}

/** The place of each known column in the header. */
function readHeader({ cells, place, names }: Header): Partial<Record<Column, number>> {
  const found: Partial<Record<Column, number>> = {};
  for (const column of columns) {
    const at = columnOf(column, { cells, place, names });
    if (at !== undefined) found[column] = at;
  }
  if (names.includes("messages")) {
    throw malformed(place, `chats do not fit into a table; write "messages" into a .jsonl file.`);
  }
  if (found.text === undefined && found.prompt === undefined) {
    const has = cells.map((cell) => `"${cell.trim()}"`).join(", ");
    throw malformed(
      place,
      `the first line must name the columns, one of them "text" or "prompt"; it has ${has}.`,
    );
  }
  return found;
}

/** Every sample of the table. */
export function parseTable(text: string, delimiter: "," | "\t", file: string): Placed[] {
  const table = tableOf(text, delimiter, file);
  if (table === undefined) return [];
  const at = readHeader(table.header);
  return table.rows.map(({ cells, place }) => {
    const filled = columns.flatMap((column) => {
      const index = at[column];
      const value = index === undefined ? "" : (cells[index] ?? "");
      // An answer's own spaces count; those around a label never do.
      return value.trim() === "" ? [] : [[column, column === "label" ? value.trim() : value]];
    });
    return { sample: sampleOf(Object.fromEntries(filled), place), place };
  });
}
