/** Captions and classes of pictures in the command line and the library, against what the fixtures' oracle says. */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { compare, generate, merge } from "../../www/node/index.ts";
import { deltasOf, productsOf, relativeError } from "../deltas.ts";
import { run } from "./command.ts";

const fixtures = join(import.meta.dirname, "../../../shared/fixtures/images");
const present = existsSync(fixtures);
if (!present) console.warn("skipped: ../shared/fixtures/images is not here");
const blip = join(fixtures, "blip");
const clip = join(fixtures, "clip");

/** Of merged deltas, relative Frobenius error: f32 features move them by 1e-5. */
const TOLERANCE = 2e-4;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-captions-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** What the decoder reads of each picture in the oracle, which is all but the last of twelve tokens, without special ones and spaces. */
const captions = (): string[][] => {
  const { captions } = JSON.parse(readFileSync(join(blip, "facts.json"), "utf8"));
  return captions.map((written: string[]) => written.map(plain));
};
const plain = (text: string): string => text.replace(/\[[A-Z]+\]|\s+/g, "");

/** Words of a command that merges the two adapters of a fixture. */
const inputs = (model: string): string[] => [
  ...["--base", join(model, "base"), "--device", "cpu"],
  ...["--adapter", join(model, "a"), "--samples", join(model, "a.samples")],
  ...["--adapter", join(model, "b"), "--samples", join(model, "b.samples")],
];

describe.skipIf(!present)("a captioner", () => {
  test("is merged by the command line as the oracle merges it: captions are given, or written by the adapter", async () => {
    const out = join(folder, "merged");
    const { code, stdout } = await run("merge", ...inputs(blip), "--out", out, "--json");
    expect(code).toBe(0);
    const { report } = JSON.parse(stdout);
    expect(report.adapters.map(({ samples }: { samples: object }) => samples)).toEqual([
      expect.objectContaining({ count: 8, answers: "own" }),
      expect.objectContaining({ count: 8, answers: "given" }),
    ]);
    const written = deltasOf(readFileSync(join(out, "adapter_model.safetensors")));
    const oracle = productsOf(readFileSync(join(blip, "expected.a-b.safetensors")), "sweep/", "");
    expect(written.size).toBe(oracle.size);
    for (const [module, expected] of oracle) {
      const [, delta = []] = [...written].find(([name]) => name.endsWith(module)) ?? [];
      expect(relativeError(delta, expected), module).toBeLessThan(TOLERANCE);
    }
  });

  test("writes of pictures what its adapters write by transformers, in the order in which they are given", async () => {
    const [own = []] = captions();
    const order = [5, 0, 3];
    const { images, variants } = await generate({
      base: join(blip, "base"),
      adapters: [{ name: "a", files: join(blip, "a") }],
      image: order.map((i) => join(blip, `a.samples/00${i}.png`)),
      maxNewTokens: 11,
      device: "cpu",
    });
    expect(images).toEqual(order.map((i) => `00${i}.png`));
    expect(variants.map(({ name }) => name)).toEqual(["base", "a"]);
    expect(variants[1]?.texts.map(plain)).toEqual(order.map((i) => own[i]));
  });

  test("is asked on the command line, with how captions begin", async () => {
    const words = ["generate", "--base", join(blip, "base"), "--adapter", join(blip, "a"), "--device", "cpu"];
    const picture = join(blip, "a.samples/000.png");
    const [own = []] = captions();
    const { code, stdout } = await run(...words, "--image", picture, "--max-new-tokens", "11");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^> 000\.png\n {2}base/);
    expect(plain(/^ {2}a (.*)$/m.exec(stdout)?.[1] ?? "").replace("…", "")).toBe(own[0]);
    const begun = await run(...words, "--image", join(blip, "a.samples"), "--prompt", "red square", "--json");
    const outcome = JSON.parse(begun.stdout);
    expect(outcome.images).toHaveLength(8);
    expect(outcome.prompts[7]).toEqual({ prompt: "red square" });
    expect(outcome.variants.map(({ texts }: { texts: string[] }) => texts.length)).toEqual([8, 8]);
  });

  test("is compared picture by picture: what each says, and whether it is what the own adapter says", async () => {
    const { report } = await compare({
      base: join(blip, "base"),
      adapters: ["a", "b"].map((name) => ({
        name,
        files: join(blip, name),
        samples: join(blip, `${name}.samples`),
      })),
      merged: [{ name: "twin", files: join(blip, "a") }],
      options: { maxNewTokens: 11 },
      device: "cpu",
    });
    const [first, second] = report.tasks;
    expect(first?.said?.map(({ picture }) => picture)).toEqual(
      Array.from({ length: 8 }, (_, i) => `00${i}.png`),
    );
    const of = (variant: string) =>
      first?.said?.map(({ variants }) => variants.find((one) => one.variant === variant)?.text);
    expect(of("adapter")?.map((text = "") => plain(text))).toEqual(captions()[0]);
    // The same adapter under another name says the same.
    expect(of("twin")).toEqual(of("adapter"));
    expect(first?.variants.find(({ variant }) => variant === "twin")?.agreement).toBe(1);
    expect(second?.said?.[1]?.caption).toBe("painting on round green the");
  });

  test("prints it below the table", async () => {
    const { code, stdout } = await run("compare", ...inputs(blip), "--methods", "iteris");
    expect(code).toBe(0);
    expect(stdout).toContain("what each says of the pictures of a\n000.png\n");
    expect(stdout).toMatch(
      /000\.png \(stripes blue dog square square large near dog blue small the\)\n {4}base/,
    );
    const [, base, iteris] = /of 8 pictures: base (\d), iteris (\d)/.exec(stdout) ?? [];
    expect([Number(base), Number(iteris)].every((count) => count >= 0 && count <= 8)).toBe(true);
  });

  test.each<[string, string[], string]>([
    ["a prompt without a picture", ["--prompt", "a"], "give the pictures as image (--image)"],
    ["what is no picture", ["--image", join(blip, "facts.json")], "facts.json"],
    ["a picture that is not there", ["--image", join(blip, "none.png")], "there is no such file"],
    ["a pattern that matches nothing", ["--image", join(blip, "*.gif")], "no file matches the pattern"],
  ])("refuses %s", async (_, words, message) => {
    const { code, stderr } = await run("generate", "--base", join(blip, "base"), "--device", "cpu", ...words);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(message) });
  });
});

describe.skipIf(!present)("a model of pictures and texts", () => {
  /** A copy of an adapter's pictures without their captions. */
  function bare(name: string): string {
    const path = join(folder, `${name}.bare`);
    mkdirSync(path);
    for (let i = 0; i < 4; i += 1) {
      copyFileSync(join(clip, `${name}.samples/00${i}.png`), join(path, `00${i}.png`));
    }
    return path;
  }

  test("is merged by the command line as the oracle merges it", async () => {
    const out = join(folder, "merged");
    const { code, stderr } = await run("merge", ...inputs(clip), "--out", out, "--json");
    expect(code === 0 ? "" : stderr).toBe("");
    const written = deltasOf(readFileSync(join(out, "adapter_model.safetensors")));
    const oracle = productsOf(readFileSync(join(clip, "expected.a-b.safetensors")), "sweep/", "");
    expect(written.size).toBe(oracle.size);
    for (const [module, expected] of oracle) {
      const [, delta = []] = [...written].find(([name]) => name.endsWith(module)) ?? [];
      expect(relativeError(delta, expected), module).toBeLessThan(TOLERANCE);
    }
  });

  test("chooses among the classes that are named, else among captions; shares add up", async () => {
    const labels = ["a red cat", "two blue dogs", "a green house"];
    const compared = async (more: { labels?: string[] }) => {
      const { report } = await compare({
        base: join(clip, "base"),
        adapters: ["a", "b"].map((name) => ({
          name,
          files: join(clip, name),
          samples: join(clip, `${name}.samples`),
        })),
        merged: [],
        device: "cpu",
        ...more,
      });
      return report;
    };
    const named = await compared({ labels });
    expect(named.tasks[0]?.said).toHaveLength(12);
    for (const { variants } of named.tasks[0]?.said ?? []) {
      for (const { classes = [] } of variants) {
        expect(classes.map(({ label }) => label).sort()).toEqual([...labels].sort());
        expect(classes.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 5);
        expect(classes.map(({ share }) => share)).toEqual(
          classes.map(({ share }) => share).toSorted((a, b) => b - a),
        );
      }
    }
    const own = await compared({});
    expect(own.notes[0]).toMatch(/^classes to choose from: \d+ captions of the pictures$/);
    expect(own.tasks[0]?.said?.[0]?.variants[0]?.classes).toHaveLength(5);
    // A picture's own caption is what is right of it.
    expect(own.tasks.map(({ labelled }) => labelled)).toEqual([12, 12]);
    expect(named.tasks.map(({ labelled }) => labelled)).toEqual([0, 0]);
  });

  test("says of each picture what the oracle's logits say", async () => {
    const lines = readFileSync(join(clip, "a.samples/metadata.jsonl"), "utf8").trim().split("\n");
    const texts = lines.map((line) => JSON.parse(line).text as string);
    const { comparison } = await merge({
      base: join(clip, "base"),
      adapters: ["a", "b"].map((name) => ({
        name,
        files: join(clip, name),
        samples: join(clip, `${name}.samples`),
        heldOut: join(clip, `${name}.samples`),
      })),
      tasks: ["a"],
      labels: texts,
      device: "cpu",
    });
    const logits = oracleLogits("a.out.own.logits_per_image");
    for (const [i, row] of logits.entries()) {
      const most = Math.max(...row);
      const sum = row.reduce((sum, value) => sum + Math.exp(value - most), 0);
      const said = comparison?.tasks[0]?.said?.[i]?.variants.find(({ variant }) => variant === "adapter");
      const [likeliest] = said?.classes ?? [];
      expect(likeliest?.label).toBe(texts[row.indexOf(most)]);
      expect(likeliest?.share).toBeCloseTo(1 / sum, 4);
    }
  });

  test("is compared by the classes of the command line", async () => {
    const words = ["--label", "a red cat", "--label", "two blue dogs", "--methods", "average"];
    const held = ["--compare", bare("a"), "--compare", bare("b")];
    const { code, stdout, stderr } = await run("compare", ...inputs(clip), ...held, ...words);
    expect(code === 0 ? "" : stderr).toBe("");
    expect(stdout).toMatch(
      /adapter {2}(a red cat|two blue dogs) [\d.]+ %, (a red cat|two blue dogs) [\d.]+ %\n/,
    );
    expect(stdout).toContain("Pictures: a 4, b 4.");
  });
});

/** A matrix of the fixture's numbers. */
function oracleLogits(name: string): number[][] {
  const bytes = readFileSync(join(clip, "golden.safetensors"));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const { shape, data_offsets } = JSON.parse(bytes.subarray(8, start).toString())[name];
  const [rows, columns] = shape as [number, number];
  const at = (row: number, column: number) =>
    bytes.readFloatLE(start + data_offsets[0] + 4 * (row * columns + column));
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length: columns }, (_, column) => at(row, column)),
  );
}
