/**
 * The tokenizer's chat template: a Jinja program from the model's files that writes a chat as one text.
 *
 * It is rendered with what transformers' `apply_chat_template` gives it. It is a program of somebody else's: it may
 * refuse a chat (`raise_exception`: no system turn, turns that do not alternate), and that refusal must reach the
 * person with the place of the sample.
 */
import { Template } from "@huggingface/jinja";
import { IterisError } from "../errors.ts";
import type { ChatMessage } from "../types.ts";
import type { SourceFile } from "../wasm-interface.ts";
import { readJson, readText } from "./json-file.ts";
import { stripFunctions, usePythonStrip } from "./python-strip.ts";

/** A template that was parsed. */
export interface ChatTemplate {
  /**
   * The chat as text; with `reply`, up to where the assistant's next turn begins.
   *
   * @throws Error with the template's own words if it does not take this chat
   */
  render(messages: readonly ChatMessage[], reply: boolean): string;
}

/** The template in a configuration: a text, or several by name, of which `default` counts. */
function sourceIn(config: Record<string, unknown>, file: string): string | null {
  const found = config.chat_template;
  if (found === undefined || found === null) return null;
  if (typeof found === "string") return found;
  const entries: [unknown, unknown][] = Array.isArray(found)
    ? found.map((one) => [one?.name, one?.template])
    : Object.entries(found);
  const source = entries.find(([name]) => name === "default")?.[1];
  if (typeof source === "string") return source;
  const has = entries.map(([name]) => String(name)).join(", ");
  throw new IterisError(
    "config_invalid",
    `None of the chat templates is named "default"; there are (${has}): ${file}`,
  );
}

/** In the order in which transformers looks for it. */
async function findSource(
  files: readonly SourceFile[],
  config: Record<string, unknown>,
): Promise<{ source: string; file: string } | null> {
  const own = "chat_template.jinja";
  const alone = await readText(files, own);
  if (alone !== null) return { source: alone, file: own };
  const inConfig = sourceIn(config, "tokenizer_config.json");
  if (inConfig !== null) return { source: inConfig, file: "tokenizer_config.json" };
  const older = "chat_template.json";
  const inOlder = sourceIn((await readJson(files, older)) ?? {}, older);
  return inOlder === null ? null : { source: inOlder, file: older };
}

/**
 * Loads the template of a base model's tokenizer; `null` where it has none.
 *
 * @param config - `tokenizer_config.json`
 * @param specialTokens - `bos_token` and so on, which the template may write
 * @throws IterisError `config_invalid` if it cannot be parsed
 */
export async function loadChatTemplate(
  files: readonly SourceFile[],
  config: Record<string, unknown>,
  specialTokens: Record<string, string>,
): Promise<ChatTemplate | null> {
  const found = await findSource(files, config);
  if (found === null) return null;
  let template: Template;
  try {
    template = new Template(found.source);
    usePythonStrip(template.parsed);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new IterisError("config_invalid", `The chat template cannot be read (${why}): ${found.file}`, {
      cause,
    });
  }
  return {
    // The engine brings raise_exception and strftime_now itself.
    render: (messages, reply) =>
      template.render({
        ...specialTokens,
        ...stripFunctions,
        messages,
        tools: null,
        documents: null,
        add_generation_prompt: reply,
      }),
  };
}
