/**
 * Every command in README.md and docs/ does what it says, on tiny models under the names that the commands use: page
 * after page, in the order of the page.
 */
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeTiny } from "../tiny.ts";
import { run } from "./command.ts";
import { writeFamily } from "./family.ts";
import { writeKohya } from "./kohya.ts";

const root = join(import.meta.dirname, "../..");
const vit = join(root, "../shared/fixtures/images/vit");
const blip = join(root, "tests/goldens/data/blip");
const pages = ["README.md", ...readdirSync(join(root, "docs")).map((name) => `docs/${name}`)];

/** The commands of a page's `sh` blocks, one a line; a backslash goes on. */
function commandsOf(page: string): string[] {
  const blocks = readFileSync(join(root, page), "utf8").matchAll(/^```sh\n([\s\S]+?)^```$/gm);
  return [...blocks].flatMap(([, block = ""]) =>
    block
      .replaceAll(/\\\n\s*/g, "")
      .split("\n")
      .map((line) => line.replace(/\s+#.*$/, "").trim())
      .filter((line) => line !== ""),
  );
}

/** The words of a command as a shell has them. */
const wordsOf = (command: string): string[] =>
  [...command.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)].map(([, one, two, plain]) => one ?? two ?? plain ?? "");

let folder: string;
let before: string;

/** A base model and two adapters with their pictures, under the names that the pages have for them. */
function copyModel(from: string, [base, a, b]: [string, string, string]): void {
  const parts = { base, a, b, "a.samples": `${a}.samples`, "b.samples": `${b}.samples` };
  for (const [part, name] of Object.entries(parts)) {
    mkdirSync(name);
    for (const file of readdirSync(join(from, part))) copyFileSync(join(from, part, file), join(name, file));
  }
}

/** The models, adapters and samples that the pages speak of, tiny. */
function furnish(): void {
  const { base, adapters } = writeTiny(folder);
  renameSync(base, "minilm");
  for (const [index, name] of ["emotion", "topic"].entries()) {
    const { files, samples } = adapters[index] ?? { files: "", samples: "" };
    renameSync(files, name);
    renameSync(samples, `${name}.txt`);
    const texts = readFileSync(`${name}.txt`, "utf8").trim().split("\n");
    writeFileSync(`${name}.test.jsonl`, texts.map((text) => JSON.stringify({ text })).join("\n"));
  }
  writeKohya("style.safetensors", [1, 2], [3, 4, 5], 1);
  writeKohya("character.safetensors", [2, 1], [1, 0, 1], 1);
  mkdirSync("family");
  const family = writeFamily("llama", join(folder, "family"));
  renameSync(family.base, "smollm2");
  cpSync(family.adapters.a, "chat", { recursive: true });
  cpSync(family.adapters.b, "code", { recursive: true });
  const lines = family.samples.b.map((prompt) => JSON.stringify({ prompt }));
  writeFileSync("code.jsonl", lines.join("\n"));
  copyModel(blip, ["blip", "positive", "negative"]);
  if (existsSync(vit)) copyModel(vit, ["vit", "cats", "dogs"]);
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-docs-"));
  before = process.cwd();
  process.chdir(folder);
});
afterAll(() => {
  process.chdir(before);
  rmSync(folder, { recursive: true });
});

test("the pages are read: each names commands", () => {
  const silent = pages.filter((page) => commandsOf(page).length === 0);
  // Its commands are Python's: `tests/peers/test_docs.py`.
  expect(silent).toEqual(["docs/python.md"]);
});

describe.each(pages.filter((page) => commandsOf(page).length > 0))("%s", (page) => {
  beforeAll(() => {
    for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true });
    furnish();
  });

  test.each(commandsOf(page))("%s", async (command) => {
    const [program, first = "", ...words] = wordsOf(command);
    if (program === "npm") {
      const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
      const script = first === "run" ? words[0] : first;
      expect(Object.keys(scripts)).toContain(script);
      return;
    }
    expect([program, first]).toEqual(["npx", "iteris-web"]);
    const needsPictures = words.some((word) => word.startsWith("cats"));
    if (needsPictures && !existsSync(vit)) {
      console.warn(`skipped: ../shared/fixtures/images/vit is not here: ${command}`);
      return;
    }
    const { code, stdout, stderr } = await run(...words, ...(usesDevice(words) ? ["--device", "cpu"] : []));
    expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout.length).toBeGreaterThan(20);
    const out = words.indexOf("--out");
    if (out !== -1) expect(readdirSync(words[out + 1] ?? "").length).toBeGreaterThan(0);
  });
});

/** Whether the command computes: no GPU is looked for in a test. */
const usesDevice = ([command = ""]: string[]): boolean => command !== "inspect";
