/** `iteris-web generate`. */
import { type GenerateResult, generate } from "../index.ts";
import { describe } from "./generated.ts";
import type { GenerateCommand } from "./parse-generate.ts";
import { progressView } from "./progress.ts";
import type { Terminal } from "./terminal.ts";

/**
 * What is asked: pictures, with how their captions begin; or the texts of the command line, as messages of a chat if that is
 * wanted, then those of the file.
 */
function asked({ images, prompts, chat, promptsFile: samples }: GenerateCommand) {
  if (images.length > 0) return { image: images, ...(prompts.length === 0 ? {} : { prompts }) };
  if (prompts.length === 0) return { samples };
  if (!chat) return { prompts, samples };
  return { messages: prompts.map((content) => [{ role: "user", content }]), samples };
}

/** Lets every variant write after every prompt, and prints what they wrote side by side. */
export async function runGenerate(command: GenerateCommand, terminal: Terminal): Promise<void> {
  const view = progressView(terminal.stderr);
  let outcome: GenerateResult;
  try {
    outcome = await generate({
      base: command.base,
      ...asked(command),
      adapters: command.adapters.map(({ name, folder }) => ({ name, files: folder })),
      ...command.sampling,
      device: command.device,
      workers: command.workers,
      onProgress: (progress) => view.show(progress),
      signal: terminal.signal,
    });
  } finally {
    view.end();
  }
  terminal.stdout.write(command.json ? `${JSON.stringify(outcome)}\n` : describe(outcome));
}
