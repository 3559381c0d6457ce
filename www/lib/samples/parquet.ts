/**
 * Pictures in a `.parquet` file as the hub's `datasets` writes them: a column of pictures (`bytes`, `path`), with `text`
 * or `caption`, and `label`, whose names stand in the schema's metadata.
 */
import {
  type AsyncBuffer,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
} from "hyparquet";
import { IterisError } from "../errors.ts";
import { readRange } from "../sources/open.ts";
import type { SourceFile } from "../wasm-interface.ts";
import { malformed, type Place } from "./malformed.ts";
import { captionOf } from "./picture-metadata.ts";
import { type Label, type Picture, someOf } from "./pictures.ts";
import { kindOf, labelOf } from "./record.ts";

/** Names of the column where no metadata says which one it is. */
const PICTURE_COLUMNS = ["image", "img"];
const READ = ["text", "caption", "label"];

/** Whether a file is a table of this kind by its name. */
export function isParquet(name: string): boolean {
  return /\.parquet$/i.test(name);
}

/**
 * The pictures of a table, named by their rows, so that they keep their order.
 *
 * @throws IterisError `samples_invalid` that names the row, from 1
 */
export async function readParquet(source: SourceFile): Promise<{ pictures: Picture[]; notes: string[] }> {
  const range = async (start: number, end: number) => {
    // Damaged tables ask for what is not there, and Node ends at some such ranges instead of refusing them.
    if (!(start >= 0 && start <= end && end <= source.size)) {
      throw new RangeError(`bytes ${start} to ${end} of ${source.size} are asked for`);
    }
    return (await readRange(source, start, end)).slice().buffer as ArrayBuffer;
  };
  const file: AsyncBuffer = {
    byteLength: source.size,
    slice(start, end = source.size) {
      const bytes = range(start, end);
      // Of several ranges that fail the reader of the format hears of one alone; Node ends where nobody hears of another.
      bytes.catch(() => {});
      return bytes;
    },
  };
  const metadata = await decoded(source.name, () => parquetMetadataAsync(file));
  const features = featuresOf(metadata);
  const columns = parquetSchema(metadata).children.map(({ element }) => element.name);
  const isImage = (name: string) => features[name]?._type === "Image";
  const image = columns.find(isImage) ?? PICTURE_COLUMNS.find((name) => columns.includes(name));
  if (image === undefined) {
    throw malformed(
      { file: source.name },
      `it has no column of pictures ("image"); its columns are ${columns.map((name) => `"${name}"`).join(", ")}.`,
    );
  }
  const read = [image, ...READ.filter((name) => columns.includes(name))];
  const rows = await decoded(source.name, () =>
    // Bytes that are no text stay bytes.
    parquetReadObjects({ file, metadata, columns: read, utf8: false }),
  );
  const digits = String(rows.length).length;
  const names = features.label?.names;
  const pictures = rows.map((row, i) => {
    const place = { file: source.name, item: i + 1 };
    const bytes = bytesOf(row[image], place);
    const name = `${source.name} item ${String(i + 1).padStart(digits, "0")}`;
    return {
      file: { name, size: bytes.byteLength, blob: new Blob([bytes]) },
      caption: captionOf(row, place),
      label: namedLabel(row.label, names, place),
    };
  });
  const unread = columns.filter((name) => !read.includes(name));
  const notes = unread.length > 0 ? [`columns of ${source.name} that are not read: ${someOf(unread)}`] : [];
  return { pictures, notes };
}

/** What the reader of the format throws, with the file's name; an error in reading the file itself stays what it is. */
async function decoded<T>(name: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    if (cause instanceof IterisError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw malformed(
      { file: name },
      `it cannot be read as parquet (${why}); write it again, plain or packed with Snappy.`,
    );
  }
}

interface Feature {
  _type?: unknown;
  names?: unknown;
}

/** What `datasets` wrote about the columns; nothing where another program wrote the file. */
function featuresOf({ key_value_metadata }: FileMetaData): Record<string, Feature | undefined> {
  const text = key_value_metadata?.find(({ key }) => key === "huggingface")?.value;
  if (text === undefined) return {};
  try {
    return JSON.parse(text)?.info?.features ?? {};
  } catch {
    // Whatever it is, columns have their usual names without it.
    return {};
  }
}

function bytesOf(cell: unknown, place: Place): Uint8Array<ArrayBuffer> {
  const bytes = cell instanceof Uint8Array ? cell : (cell as { bytes?: unknown } | null | undefined)?.bytes;
  if (bytes instanceof Uint8Array) return bytes as Uint8Array<ArrayBuffer>;
  const path = (cell as { path?: unknown } | null | undefined)?.path;
  throw malformed(
    place,
    typeof path === "string"
      ? `it has a picture's address instead of its bytes; embed the pictures (embed_external_files): ${path}`
      : `it has no picture, but ${kindOf(cell ?? null)}.`,
  );
}

/** The name of a class where the file has names; -1 is the hub's way to say that there is none. */
function namedLabel(value: unknown, names: unknown, place: Place): Label {
  const index = typeof value === "bigint" ? Number(value) : value;
  if (index === -1) return null;
  if (typeof index !== "number" || !Array.isArray(names)) return labelOf(index, place);
  const name: unknown = names[index];
  if (typeof name === "string") return name;
  throw malformed(place, `"label" is ${index}, and the file has ${names.length} names of classes.`);
}
