/** What base, adapter and merged adapters say of single pictures, for people. */
import { type CompareReport, type SaidOfPicture, saysTheSame } from "../index.ts";
import { percent } from "./table.ts";

/** A block a task and a line a variant for each picture; empty for models that read texts. */
export function saidTable({ tasks }: CompareReport): string {
  return tasks.map(({ task, said = [] }) => (said.length === 0 ? "" : `\n${blockOf(task, said)}`)).join("");
}

function blockOf(task: string, said: readonly SaidOfPicture[]): string {
  const names = said[0]?.variants.map(({ variant }) => variant) ?? [];
  const width = Math.max(...names.map(({ length }) => length));
  const pictures = said.map((picture) => {
    const known = [picture.caption, picture.label].filter((value) => value !== undefined);
    const lines = picture.variants.map((one) => {
      const same = one.variant !== "adapter" && saysTheSame(picture, one.variant);
      return `  ${same ? "=" : " "} ${one.variant.padEnd(width)}  ${wordsOf(one)}`.trimEnd();
    });
    return [`${picture.picture}${known.length === 0 ? "" : ` (${known.join("; ")})`}`, ...lines].join("\n");
  });
  const counts = names
    .filter((name) => name !== "adapter")
    .map((name) => `${name} ${said.filter((picture) => saysTheSame(picture, name)).length}`);
  const end = `= says what the task's own adapter says; of ${said.length} pictures: ${counts.join(", ")}`;
  return `what each says of the pictures of ${task}\n${pictures.join("\n")}\n${end}\n`;
}

/** On one line: a caption may have line breaks. */
function wordsOf({ text, classes = [] }: SaidOfPicture["variants"][number]): string {
  if (text !== undefined) return text === "" ? "(nothing)" : text.replace(/\s+/g, " ");
  return classes.map(({ label, share }) => `${label} ${percent(share)}`).join(", ");
}
