/** Names of files inside their folder. */

/** `./a\b//c` as `a/b/c`: one spelling, so that a file given twice is seen to be given twice. */
export function normalName(path: string): string {
  return path
    .replaceAll("\\", "/")
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/");
}

/** Leaves out the folders that all names share: a model may lie a level deeper than the folder that was picked. */
export function withoutSharedFolder<T extends { name: string }>(files: readonly T[]): T[] {
  const paths = files.map(({ name }) => normalName(name).split("/"));
  const [first] = paths;
  let shared = 0;
  if (first !== undefined) {
    while (paths.every((path) => path.length > shared + 1 && path[shared] === first[shared])) shared += 1;
  }
  return files.map((file, i) => ({ ...file, name: (paths[i] ?? []).slice(shared).join("/") }));
}

/** The last part of an address' path, decoded. */
export function nameOfUrl(url: string): string {
  const last = new URL(url).pathname.split("/").pop() ?? "";
  try {
    return decodeURIComponent(last);
  } catch {
    // A stray `%` is no reason to refuse a file.
    return last;
  }
}

/** Of these files only those that bear one of the names, where names are given. */
export function ofNames<T extends { name: string }>(
  files: readonly T[],
  names: readonly string[] | undefined,
): T[] {
  return names === undefined ? [...files] : files.filter(({ name }) => names.includes(name));
}

/** Names by their characters, as the core sorts them: JavaScript's own order is another one beyond U+FFFF. */
export function compareNames(a: string, b: string): number {
  const [left, right] = [[...a], [...b]];
  const at = left.findIndex((character, i) => character !== right[i]);
  if (at === -1) return left.length - right.length;
  return (left[at]?.codePointAt(0) ?? 0) - (right[at]?.codePointAt(0) ?? -1);
}
