/** `iteris-web generate`. */

import { previewOf } from "../../lib/samples/facts.ts";
import type { Placed } from "../../lib/samples/record.ts";
import type { GenerateResult, Sample } from "../../lib/types.ts";
import { generateAfter, withFiles } from "../run.ts";
import type { GenerateCommand } from "./parse-generate.ts";
import { progressView } from "./progress.ts";
import type { Terminal } from "./terminal.ts";

/** What `--json` prints. */
export interface GenerateOutcome extends GenerateResult {
  /** What was asked, in the order of each variant's texts. */
  prompts: Sample[];
}

async function readPrompts({ prompts, chat, promptsFile }: GenerateCommand): Promise<Placed[]> {
  const given = prompts.map((prompt, i): Placed => {
    const sample: Sample = chat ? { messages: [{ role: "user", content: prompt }] } : { prompt };
    return { sample, place: { file: "--prompt", item: i + 1 } };
  });
  if (promptsFile === undefined) return given;
  const set = await withFiles((files) => files.samples(promptsFile));
  const more = set.samples.map((sample, i) => ({ sample, place: set.places[i] ?? { file: promptsFile } }));
  return [...given, ...more];
}

/** Lets every variant write after every prompt, and prints what they wrote side by side. */
export async function runGenerate(command: GenerateCommand, terminal: Terminal): Promise<void> {
  const prompts = await readPrompts(command);
  const view = progressView(terminal.stderr);
  let result: GenerateResult;
  try {
    result = await generateAfter(prompts, {
      base: command.base,
      adapters: command.adapters.map(({ name, folder }) => ({ name, files: folder })),
      ...command.sampling,
      device: command.device,
      onProgress: (progress) => view.show(progress),
      signal: terminal.signal,
    });
  } finally {
    view.end();
  }
  const outcome: GenerateOutcome = { prompts: prompts.map(({ sample }) => sample), ...result };
  terminal.stdout.write(command.json ? `${JSON.stringify(outcome)}\n` : describe(outcome));
}

/** A block for each prompt, a paragraph in it for each variant, lines of a text below each other. */
export function describe({ prompts, variants, tokens, seconds, device, notes }: GenerateOutcome): string {
  const width = Math.max(...variants.map(({ name }) => name.length));
  const blocks = prompts.map((prompt, i) => {
    const said = variants.map(({ name, texts, finished }) => {
      const written = `${texts[i] ?? ""}${finished[i] ? "" : " …"}`.trim();
      return `  ${name.padEnd(width)}  ${written.split("\n").join(`\n${" ".repeat(width + 4)}`)}`.trimEnd();
    });
    return [`> ${previewOf(prompt).split("\n").join("\n> ")}`, ...said, ""].join("\n");
  });
  const cut = variants.some(({ finished }) => finished.includes(false));
  const lines = [
    ...(cut ? ["… stands where --max-new-tokens ended what was being written."] : []),
    `${tokens} tokens in ${seconds.toFixed(1)} s. ${device.why}`,
    ...notes.map((note) => `Note: ${note}`),
  ];
  return `${blocks.join("\n")}\n${lines.join("\n")}\n`;
}
