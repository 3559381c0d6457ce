/**
 * A tiny language model with two adapters, laid out on disk as a person would have it. Its words are `w3`, `w4`, …,
 * and what it writes is known from transformers.
 */
import { cpSync, mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Family, type FamilyName, writeFamily } from "../cli/family.ts";

export interface FamilyFolder extends Family {
  /** Holds everything below. */
  folder: string;
  /** Files of samples, by adapter. */
  sampleFiles: { a: string; b: string };
}

/** `base/`, an adapter each in `a/` and `b/`, and their prompts (texts, for an encoder-decoder) beside them. */
export function layOutFamily(name: FamilyName): FamilyFolder {
  const folder = mkdtempSync(join(tmpdir(), "iteris-page-"));
  const family = writeFamily(name, folder);
  const key = name === "llama" ? "prompt" : "text";
  const write = (file: string, texts: readonly string[], labels: readonly string[] = []): string => {
    const path = join(folder, file);
    const lines = texts.map((text, i) => JSON.stringify({ [key]: text, label: labels[i] || null }));
    writeFileSync(path, `${lines.join("\n")}\n`);
    return path;
  };
  const own = (adapter: "a" | "b"): string => {
    const path = join(folder, adapter);
    mkdirSync(path);
    cpSync(family.adapters[adapter], path, { recursive: true });
    write(`${adapter}.test.jsonl`, family.prompts, family.generated[adapter].texts);
    return path;
  };
  return {
    ...family,
    folder,
    adapters: { a: own("a"), b: own("b") },
    sampleFiles: {
      a: write("a.samples.jsonl", family.samples.a),
      b: write("b.samples.jsonl", family.samples.b),
    },
  };
}
