/** What TypeScript files import, by the text of their imports. */
import { posix } from "node:path";
import { lineAt, type Use } from "./report.ts";

/** The text with comments blanked out, so that places stay where they are. Strings end with their line. */
export function withoutComments(text: string): string {
  return text.replace(
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`/g,
    (part) => (part.startsWith("/*") || part.startsWith("//") ? part.replace(/[^\n]/g, " ") : part),
  );
}

/** `import … from "…"`, `export … from "…"`, `import "…"`, `import("…")`, and `new URL("….ts", import.meta.url)`. */
const PATTERNS = [
  /(?:^|[\s;])(?:import|export)\s[^"'`;]*?from\s*["']([^"']+)["']/g,
  /(?:^|[\s;])import\s*["']([^"']+)["']/g,
  /\bimport\s*\(\s*["']([^"']+)["']/g,
  /new URL\(\s*["']([^"']+\.ts)["']\s*,\s*import\.meta\.url/g,
];

/** The relative imports of one file. */
export function usesOfTypeScript(file: string, text: string): Use[] {
  const code = withoutComments(text);
  return PATTERNS.flatMap((pattern) =>
    [...code.matchAll(pattern)].flatMap((match): Use[] => {
      const [whole, path = ""] = match;
      if (!path.startsWith(".")) return [];
      const target = posix.normalize(posix.join(posix.dirname(file), path));
      return [{ file, line: lineAt(code, match.index + whole.indexOf(path)), target, written: path }];
    }),
  ).sort((a, b) => a.line - b.line);
}

/**
 * The room of a file: the longest of the rooms that is the file itself, without its ending, or a folder around it.
 *
 * @param rooms - paths below `root`, without endings
 */
export function roomOfPath(root: string, rooms: readonly string[]): (file: string) => string | undefined {
  const longestFirst = [...rooms].sort((a, b) => b.length - a.length);
  return (file) => {
    if (!file.startsWith(`${root}/`)) return undefined;
    const path = file.slice(root.length + 1).replace(/(\.d)?\.ts$/, "");
    return longestFirst.find((room) => path === room || path.startsWith(`${room}/`)) ?? path;
  };
}
