/**
 * Pictures of a task from files: pictures themselves and tables of them, with the captions and labels that stand in
 * metadata, in texts beside them and in the names of folders.
 */
import { IterisError } from "../errors.ts";
import { compareNames } from "../sources/names.ts";
import { readAll } from "../sources/open.ts";
import type { SourceFile } from "../wasm-interface.ts";
import { malformed, type Place } from "./malformed.ts";
import { isParquet, readParquet } from "./parquet.ts";
import { folderOf, isMetadata, readMetadata } from "./picture-metadata.ts";
import { isPicture, type Picture, type PictureSet, someOf } from "./pictures.ts";
import { decodeUtf8 } from "./utf8.ts";

/**
 * The pictures among files, in the order of their names.
 *
 * @throws IterisError `samples_invalid` if there are none, or if what stands beside them does not fit
 */
export async function picturesOf(files: readonly SourceFile[], name: string | null): Promise<PictureSet> {
  const plain = files
    .filter((file) => isPicture(file.name))
    .map((file) => ({ file, caption: null, label: null }));
  const described = await describe(plain, files);
  const captioned = await caption(described.pictures, files);
  const tables = await Promise.all(files.filter(({ name }) => isParquet(name)).map(readParquet));
  const pictures = [...captioned.pictures, ...tables.flatMap((table) => table.pictures)];
  if (pictures.length === 0) {
    const where = name === null ? "the files" : name;
    throw new IterisError(
      "samples_invalid",
      `There is no picture (.png, .jpg, .webp, .gif, .bmp) and no .parquet among ${files.length} files; samples are a folder of pictures or one file of texts: ${where}`,
    );
  }
  const unread = (file: SourceFile) =>
    !isPicture(file.name) &&
    !isMetadata(file.name) &&
    !isParquet(file.name) &&
    !captioned.read.has(file.name);
  return {
    name,
    pictures: pictures.sort((a, b) => compareNames(a.file.name, b.file.name)),
    others: files.filter(unread).map((file) => file.name),
    notes: [...described.notes, ...tables.flatMap((table) => table.notes)],
  };
}

/**
 * Of names of files, those that a folder of pictures is made of: pictures, files of metadata, and texts beside pictures,
 * which are their captions.
 *
 * @example
 * ```ts
 * const { pictures } = pictureParts(["cats/1.png", "cats/1.txt", "cats/notes.md"]);
 * console.log([...pictures]); // ["cats/1.png"]
 * ```
 */
export function pictureParts(
  names: readonly string[],
): Record<"pictures" | "metadata" | "captions", Set<string>> {
  const pictures = new Set(names.filter(isPicture));
  const stems = new Set([...pictures].map(stemOf));
  return {
    pictures,
    metadata: new Set(names.filter(isMetadata)),
    captions: new Set(names.filter((name) => isCaption(name) && stems.has(stemOf(name)))),
  };
}

const isCaption = (name: string): boolean => /\.txt$/i.test(name);

/** With captions and labels from files of metadata; without such a file, with the folders' names as labels. */
async function describe(
  pictures: readonly Picture[],
  files: readonly SourceFile[],
): Promise<{ pictures: Picture[]; notes: string[] }> {
  const metadata = files.filter((file) => isMetadata(file.name));
  if (metadata.length === 0) return { pictures: labelledByFolder(pictures), notes: [] };
  const found = new Map(pictures.map((picture) => [picture.file.name, picture]));
  const said = new Map<string, Place>();
  const notes: string[] = [];
  for (const file of metadata) {
    const { described, unread } = await readMetadata(file);
    for (const { picture: name, caption, label, place } of described) {
      const picture = found.get(name);
      const before = said.get(name);
      if (picture === undefined) throw malformed(place, `the picture that it names is not there: ${name}`);
      if (before !== undefined) {
        throw malformed(place, `${before.file} line ${before.line} already names this picture: ${name}`);
      }
      said.set(name, place);
      found.set(name, { ...picture, caption, label });
    }
    if (unread.length > 0) notes.push(`columns of ${file.name} that are not read: ${someOf(unread)}`);
  }
  const unnamed = [...found.keys()].filter((name) => !said.has(name));
  if (unnamed.length > 0) notes.push(`pictures that no metadata names: ${someOf(unnamed)}`);
  return { pictures: [...found.values()], notes };
}

/** As the hub does: every picture in a folder, all as deep as each other, and more than one such folder. */
function labelledByFolder(pictures: readonly Picture[]): Picture[] {
  const paths = pictures.map(({ file }) => file.name.split("/"));
  const labels = paths.map((path) => path.at(-2));
  const depths = new Set(paths.map((path) => path.length));
  if (depths.size !== 1 || new Set(labels).size < 2) return [...pictures];
  return pictures.map((picture, i) => ({ ...picture, label: labels[i] ?? null }));
}

/** With the captions that stand beside pictures, `cat.txt` for `cat.png`, and which of the files these are. */
async function caption(
  pictures: readonly Picture[],
  files: readonly SourceFile[],
): Promise<{ pictures: Picture[]; read: Set<string> }> {
  const texts = new Map(files.filter(({ name }) => isCaption(name)).map((file) => [stemOf(file.name), file]));
  const read = new Set<string>();
  const captioned = pictures.map(async (picture) => {
    const text = texts.get(stemOf(picture.file.name));
    if (text === undefined) return picture;
    read.add(text.name);
    if (picture.caption !== null) {
      const what = "its picture has a caption in the metadata too; leave one of the two";
      throw malformed({ file: text.name }, `${what}: ${picture.file.name}`);
    }
    const caption = decodeUtf8(await readAll(text), text.name).trim();
    if (caption === "") throw malformed({ file: text.name }, `the caption is empty: ${picture.file.name}`);
    return { ...picture, caption };
  });
  return { pictures: await Promise.all(captioned), read };
}

function stemOf(name: string): string {
  return folderOf(name) + name.slice(folderOf(name).length).replace(/\.[^.]*$/, "");
}
