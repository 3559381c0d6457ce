/**
 * `.csv` and `.tsv` with a header line: the column `text` (with `text_pair` and `target`) or `prompt` (with
 * `completion`), or both kinds with empty cells between them, and `label`.
 *
 * Papa Parse does the quoting (RFC 4180). A quoted text may hold line breaks, so a row's number is not its
 * line's number; the line is counted from the parser's position in the file.
 */
import Papa from "papaparse";
import { malformed } from "./malformed.ts";
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

/** The place of each known column in the header. */
function readHeader(header: Row | undefined, file: string): Partial<Record<Column, number>> {
  if (header === undefined) return {};
  const place = { file, line: header.line };
  const names = header.cells.map((cell) => cell.trim().toLowerCase());
  const found: Partial<Record<Column, number>> = {};
  for (const column of columns) {
    const at = names.indexOf(column);
    if (at === -1) continue;
    if (names.indexOf(column, at + 1) !== -1) throw malformed(place, `the column "${column}" occurs twice.`);
    found[column] = at;
  }
  if (names.includes("messages")) {
    throw malformed(place, `chats do not fit into a table; write "messages" into a .jsonl file.`);
  }
  if (found.text === undefined && found.prompt === undefined) {
    const has = header.cells.map((cell) => `"${cell.trim()}"`).join(", ");
    throw malformed(
      place,
      `the first line must name the columns, one of them "text" or "prompt"; it has ${has}.`,
    );
  }
  return found;
}

/** Every sample of the table. */
export function parseTable(text: string, delimiter: "," | "\t", file: string): Placed[] {
  const [header, ...rows] = rowsOf(text, delimiter);
  if (header?.problem) throw malformed({ file, line: header.line }, `${header.problem}.`);
  const at = readHeader(header, file);
  const width = header?.cells.length ?? 0;
  return rows.map(({ cells, line, problem }) => {
    const place = { file, line };
    if (problem !== null) throw malformed(place, `${problem}.`);
    if (cells.length !== width) {
      throw malformed(place, `${cells.length} columns where the first line has ${width}.`);
    }
    const filled = columns.flatMap((column) => {
      const index = at[column];
      const value = index === undefined ? "" : (cells[index] ?? "");
      // An answer's own spaces count; those around a label never do.
      return value.trim() === "" ? [] : [[column, column === "label" ? value.trim() : value]];
    });
    return { sample: sampleOf(Object.fromEntries(filled), place), place };
  });
}
