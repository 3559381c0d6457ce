/**
 * `metadata.jsonl` and `metadata.csv` beside pictures, as the hub's `imagefolder` has them: `file_name`, seen from the
 * folder that the file is in, with `text` or `caption`, and `label`.
 */

import { normalName } from "../sources/names.ts";
import { readAll } from "../sources/open.ts";
import type { SourceFile } from "../wasm-interface.ts";
import { jsonLines } from "./lines.ts";
import { malformed, type Place } from "./malformed.ts";
import type { Label } from "./pictures.ts";
import { kindOf, labelOf, textOf } from "./record.ts";
import { columnOf, tableOf } from "./table.ts";
import { decodeUtf8 } from "./utf8.ts";

/** What a line says of a picture. */
export interface Described {
  /** The picture's name, as files are named beside which the metadata was found. */
  picture: string;
  caption: string | null;
  label: Label;
  place: Place;
}

/** A file of metadata: its lines, and the names of what else is in them. */
export interface Metadata {
  described: Described[];
  unread: string[];
}

const COLUMNS = ["file_name", "text", "caption", "label"] as const;

/** Whether a file describes the pictures of its folder. */
export function isMetadata(name: string): boolean {
  return /(^|\/)metadata\.(jsonl|csv)$/.test(name);
}

/** The folder that a file is in, with the stroke that ends it; nothing for the outermost. */
export function folderOf(name: string): string {
  return name.slice(0, name.lastIndexOf("/") + 1);
}

/**
 * Reads one file of metadata.
 *
 * @throws IterisError `samples_invalid` that names the line
 */
export async function readMetadata(file: SourceFile): Promise<Metadata> {
  const text = decodeUtf8(await readAll(file), file.name);
  const records = file.name.endsWith(".csv") ? tableRecords(text, file.name) : jsonRecords(text, file.name);
  const names = records.flatMap(({ record }) => Object.keys(record));
  return {
    described: records.map(({ record, place }) => describedBy(record, place, folderOf(file.name))),
    unread: [...new Set(names)].filter((name) => !COLUMNS.some((column) => column === name)).sort(),
  };
}

interface Placed {
  record: Record<string, unknown>;
  place: Place;
}

function jsonRecords(text: string, file: string): Placed[] {
  return jsonLines(text, file).map(({ value, place }) => {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return { record: value as Record<string, unknown>, place };
    }
    throw malformed(place, `it must be an object with "file_name", not ${kindOf(value)}.`);
  });
}

function tableRecords(text: string, file: string): Placed[] {
  const table = tableOf(text, ",", file);
  if (table === undefined) return [];
  for (const column of COLUMNS) columnOf(column, table.header);
  return table.rows.map(({ cells, place }) => {
    const filled = table.header.names.flatMap((name, i) => {
      const cell = cells[i]?.trim() ?? "";
      return cell === "" ? [] : [[name, cell]];
    });
    return { record: Object.fromEntries(filled), place };
  });
}

function describedBy(record: Record<string, unknown>, place: Place, folder: string): Described {
  const { file_name, label } = record;
  if (file_name === undefined || file_name === null) {
    throw malformed(place, `"file_name" is missing, which says of which picture this is.`);
  }
  const name = textOf(file_name, "file_name", place);
  return {
    picture: folder + normalName(name),
    caption: captionOf(record, place),
    label: labelOf(label, place),
    place,
  };
}

/**
 * The caption among the columns of a picture: `text` or `caption`.
 *
 * @throws IterisError `samples_invalid` if both are filled
 */
export function captionOf(record: Record<string, unknown>, place: Place): string | null {
  const filled = (["text", "caption"] as const).filter((key) => (record[key] ?? null) !== null);
  const [key, second] = filled;
  if (key === undefined) return null;
  if (second !== undefined) {
    throw malformed(place, `it has both "text" and "caption"; leave the one that is the picture's caption.`);
  }
  return textOf(record[key], key, place);
}
