/** `iteris-web generate`. */

import type { Placed } from "../../lib/samples/record.ts";
import type { GenerateResult, Sample } from "../../lib/types.ts";
import { generateAfter, withFiles } from "../run.ts";
import { describe, type GenerateOutcome } from "./generated.ts";
import type { GenerateCommand } from "./parse-generate.ts";
import { progressView } from "./progress.ts";
import type { Terminal } from "./terminal.ts";

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
