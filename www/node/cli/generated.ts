/** What was written by several variants, for people. */
import { type GenerateResult, previewOf } from "../index.ts";

/** A block for each prompt, a paragraph in it for each variant, lines of a text below each other. */
export function describe(outcome: GenerateResult): string {
  const { prompts, images, variants, tokens, seconds, device, notes } = outcome;
  const width = Math.max(...variants.map(({ name }) => name.length));
  const blocks = prompts.map((prompt, i) => {
    const said = variants.map(({ name, texts, finished }) => {
      const written = `${texts[i] ?? ""}${finished[i] ? "" : " …"}`.trim();
      return `  ${name.padEnd(width)}  ${written.split("\n").join(`\n${" ".repeat(width + 4)}`)}`.trimEnd();
    });
    const asked = [images?.[i], previewOf(prompt)].filter((words) => words !== undefined && words !== "");
    return [`> ${asked.join(": ").split("\n").join("\n> ")}`, ...said, ""].join("\n");
  });
  const cut = variants.some(({ finished }) => finished.includes(false));
  const lines = [
    ...(cut ? ["… stands where --max-new-tokens ended what was being written."] : []),
    `${tokens} tokens in ${seconds.toFixed(1)} s. ${device.why}`,
    ...notes.map((note) => `Note: ${note}`),
  ];
  return `${blocks.join("\n")}\n${lines.join("\n")}\n`;
}
