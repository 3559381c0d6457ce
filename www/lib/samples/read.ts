/** Samples from whatever the caller has, parsed and checked. */
import { IterisError } from "../errors.ts";
import { openFile, readAll } from "../sources/open.ts";
import type { WireTexts } from "../sources/wire.ts";
import type { Sample, SamplesFormat } from "../types.ts";
import { type FileFormat, formatOf } from "./format.ts";
import { parseJson } from "./json.ts";
import { parseJsonLines, parseLines } from "./lines.ts";
import { malformed, type Place } from "./malformed.ts";
import { type Placed, sampleOf } from "./record.ts";
import { parseTable } from "./table.ts";
import { decodeUtf8 } from "./utf8.ts";

/** Samples of one task; never empty. */
export interface SampleSet {
  /** The file's name, `null` for texts given directly. */
  name: string | null;
  /** Where the file is, from the folder that the report is written to, if there is one. */
  path?: string | undefined;
  format: SamplesFormat;
  samples: Sample[];
  /** Where each of them stands. */
  places: Place[];
}

/** The samples of a set, each with where it stands; none of no set. */
export function placedOf(set: SampleSet | null): Placed[] {
  if (set === null) return [];
  return set.samples.map((sample, i) => ({
    sample,
    place: set.places[i] ?? { file: set.name ?? "samples", item: i + 1 },
  }));
}

function setOf(name: string | null, format: SamplesFormat, placed: readonly Placed[]): SampleSet {
  return {
    name,
    format,
    samples: placed.map(({ sample }) => sample),
    places: placed.map(({ place }) => place),
  };
}

function parse(text: string, format: FileFormat, file: string): Placed[] {
  switch (format) {
    case "txt":
      return parseLines(text, file);
    case "jsonl":
      return parseJsonLines(text, file);
    case "json":
      return parseJson(text, file);
    case "csv":
      return parseTable(text, ",", file);
    case "tsv":
      return parseTable(text, "\t", file);
  }
}

/**
 * Parses the bytes of a file of samples.
 *
 * @param name - decides the format by its ending; `null` leaves that to `mediaType`
 * @throws IterisError `samples_invalid` that names the line
 */
export function parseSamples(bytes: Uint8Array, name: string | null, mediaType?: string): SampleSet {
  const format = formatOf(name, mediaType);
  const file = name ?? "samples";
  const placed = parse(decodeUtf8(bytes, file), format, file);
  if (placed.length === 0) throw malformed({ file }, "holds no samples.");
  return setOf(name, format, placed);
}

/** Reads and parses samples that are texts. */
export async function readTexts(source: WireTexts): Promise<SampleSet> {
  if ("list" in source) {
    const placed = source.list.map((item, i) => {
      const place = { file: "samples", item: i + 1 };
      return { sample: sampleOf(item, place), place };
    });
    if (placed.length === 0) throw new IterisError("samples_invalid", "The list of samples is empty.");
    return setOf(null, "list", placed);
  }
  if ("url" in source) return parseSamples(await readAll(await openFile(source)), source.name);
  const { name, blob } = source;
  const bytes = await readAll({ name: name ?? "samples", size: blob.size, blob });
  return parseSamples(bytes, name, blob.type);
}
