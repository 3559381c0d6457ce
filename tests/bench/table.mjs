// Tables on a terminal.

/**
 * @param {string[][]} rows the first is the heading
 * @param {number} [left] columns, from the first, that are set to the left
 */
export function printTable(rows, left = 1) {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  for (const row of rows) {
    const cells = row.map((cell, column) => {
      const width = widths[column] ?? 0;
      return column < left ? cell.padEnd(width) : cell.padStart(width);
    });
    console.log(cells.join("  ").trimEnd());
  }
}

/**
 * The same as Markdown.
 * @param {string[][]} rows the first is the heading
 * @param {number} [left] columns, from the first, that are set to the left
 */
export function printMarkdown([heading = [], ...rows], left = 1) {
  const rule = heading.map((_, column) => (column < left ? "---" : "---:"));
  for (const row of [heading, rule, ...rows]) console.log(`| ${row.join(" | ")} |`);
}

/** GFLOP/s, or nothing where nothing was counted. @param {number} operations @param {number} seconds */
export const gigaflops = (operations, seconds) =>
  operations > 0 ? (operations / seconds / 1e9).toFixed(1) : "";

/** @param {number} bytes */
export const mebibytes = (bytes) => String(Math.round(bytes / 2 ** 20));

/** Why a command failed: the last line that it wrote. @param {{ stderr: string }} result */
export const lastLine = ({ stderr }) => stderr.trim().split("\n").at(-1) ?? "";
