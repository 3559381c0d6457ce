/** Small JSON and text files of a base model. */
import { IterisError } from "../errors.ts";
import { readAll } from "../sources/open.ts";
import type { SourceFile } from "../wasm-interface.ts";

/** The text of a file at the top of the folder, `null` where it is absent. */
export async function readText(files: readonly SourceFile[], name: string): Promise<string | null> {
  const file = files.find((one) => one.name === name);
  return file === undefined ? null : new TextDecoder().decode(await readAll(file));
}

/**
 * The object in a JSON file at the top of the folder, `null` where it is absent.
 *
 * @throws IterisError `config_invalid` if it holds something else
 */
export async function readJson(
  files: readonly SourceFile[],
  name: string,
): Promise<Record<string, unknown> | null> {
  const text = await readText(files, name);
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new IterisError("config_invalid", `Not valid JSON (${why}): ${name}`, { cause });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw new IterisError("config_invalid", `Must hold a JSON object: ${name}`);
}
