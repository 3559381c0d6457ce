/** Which format a file of samples is in. */
import { IterisError } from "../errors.ts";
import type { SamplesFormat } from "../types.ts";

/** The formats of files of texts; `list` is for samples that never were in one. */
export type FileFormat = Exclude<SamplesFormat, "list" | "pictures">;

const byEnding: Record<string, FileFormat> = {
  txt: "txt",
  jsonl: "jsonl",
  ndjson: "jsonl",
  json: "json",
  csv: "csv",
  tsv: "tsv",
};

const byType: Record<string, FileFormat> = {
  "text/plain": "txt",
  "application/jsonl": "jsonl",
  "application/x-ndjson": "jsonl",
  "application/json": "json",
  "text/csv": "csv",
  "text/tab-separated-values": "tsv",
};

/**
 * The format by the name's ending; a nameless Blob goes by its media type, and by one text a line if it has
 * none.
 *
 * @throws IterisError `samples_invalid` for an ending that is not known
 */
export function formatOf(name: string | null, mediaType = ""): FileFormat {
  if (name === null) return byType[mediaType.split(";", 1)[0]?.trim().toLowerCase() ?? ""] ?? "txt";
  const ending = /\.([^./\\]+)$/.exec(name)?.[1]?.toLowerCase() ?? "";
  const format = byEnding[ending];
  if (format === undefined) {
    throw new IterisError(
      "samples_invalid",
      `Samples are read from .txt, .jsonl, .json, .csv and .tsv files; this one ends otherwise: ${name}`,
    );
  }
  return format;
}
