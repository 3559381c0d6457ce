/** Paths with `*`, `?`, `[…]` and `**`, as a shell has them: of Node's own way only its newest releases have one. */
import { relative, resolve, sep } from "node:path";

/** Whether a path has one of the signs. */
export function isGlob(path: string): boolean {
  return /[*?[]/.test(path);
}

/** The folder that all matches are in: the parts before the first with a sign. */
export function folderOfGlob(pattern: string): string {
  const parts = resolve(pattern).split(sep);
  return parts.slice(0, parts.findIndex(isGlob)).join(sep) || sep;
}

function partsInside(pattern: string): string[] {
  return relative(folderOfGlob(pattern), resolve(pattern)).split(sep);
}

/** How many folders deep below that folder a match can be. */
export function depthOfGlob(pattern: string): number {
  const parts = partsInside(pattern);
  return parts.includes("**") ? Number.POSITIVE_INFINITY : parts.length;
}

/**
 * Tells of names below that folder, `/` between their parts, whether they match. `*` and `?` stay within a part and
 * match no dot at its beginning, `**` is any number of folders.
 */
export function matcherOf(pattern: string): (name: string) => boolean {
  const parts = partsInside(pattern).map((part, i, all) => {
    if (part === "**") return i === all.length - 1 ? "(?:(?!\\.)[^/]+/)*(?!\\.)[^/]+" : "(?:(?!\\.)[^/]+/)*";
    return (/^[*?[]/.test(part) ? "(?!\\.)" : "") + expressionOf(part) + (i === all.length - 1 ? "" : "/");
  });
  const expression = new RegExp(`^${parts.join("")}$`, "u");
  return (name) => expression.test(name);
}

/** One part of a path as a regular expression. A bracket that is not closed stands for itself. */
function expressionOf(part: string): string {
  return part.replace(
    /\*|\?|\[(!?)([^\]]+)\]|[\\^$.|+(){}[\]/]/gu,
    (sign, not?: string, characters?: string) => {
      if (sign === "*") return "[^/]*";
      if (sign === "?") return "[^/]";
      if (characters !== undefined)
        return `[${not === "!" ? "^" : ""}${characters.replace(/[\\\]^[&~]/gu, "\\$&")}]`;
      return `\\${sign}`;
    },
  );
}
