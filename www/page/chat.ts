/**
 * Whether a base model's files hold a chat template, which decides if a prompt can be a message of a chat.
 *
 * It is only looked for here; the library reads it, and says so where it cannot be used.
 */
import type { Dropped } from "./recognise.ts";

export async function hasChatTemplate(files: readonly Dropped[]): Promise<boolean> {
  const named = (name: string): File | undefined => files.find(({ file }) => file.name === name)?.file;
  if (named("chat_template.jinja")) return true;
  for (const name of ["tokenizer_config.json", "chat_template.json"]) {
    const file = named(name);
    if (file && (await holdsTemplate(file))) return true;
  }
  return false;
}

async function holdsTemplate(file: File): Promise<boolean> {
  try {
    const config: unknown = JSON.parse(await file.text());
    return (
      typeof config === "object" && config !== null && "chat_template" in config && !!config.chat_template
    );
  } catch {
    // Damaged or gone: the library says which when it reads the model.
    return false;
  }
}
