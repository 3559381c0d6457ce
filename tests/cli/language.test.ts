/** Language models through the whole package: tokens in, text out, merged with what adapters write. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { compare, generate, inspectBase, merge, type NodeMergeRequest } from "../../www/node/index.ts";
import { deltasOf, relativeError } from "../deltas.ts";
import { writeTiny } from "../tiny.ts";
import { run } from "./command.ts";
import { type Family, type FamilyName, writeFamily } from "./family.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-language-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const file = (name: string, lines: readonly unknown[]) => {
  const path = join(folder, name);
  writeFileSync(path, lines.map((line) => JSON.stringify(line)).join("\n"));
  return path;
};

const families: FamilyName[] = ["llama", "t5"];

describe.each(families)("generate with %s", (name) => {
  test("writes what transformers writes, for the base and each adapter", async () => {
    const family = writeFamily(name, folder);
    const reports: string[] = [];
    const { variants, tokens, notes } = await generate({
      base: family.base,
      variants: [
        { name: "base" },
        { name: "a", files: family.adapters.a },
        { name: "b", files: family.adapters.b },
      ],
      prompts: family.prompts,
      maxNewTokens: family.maxNewTokens,
      device: "cpu",
      onProgress: ({ stage }) => reports.push(stage),
    });
    const { base, a, b } = family.generated;
    expect(variants).toEqual([
      { name: "base", ...base },
      { name: "a", ...a },
      { name: "b", ...b },
    ]);
    expect(tokens).toBeGreaterThan(3 * family.prompts.length);
    expect(notes).toEqual([]);
    expect(reports).toContain("generate");
  });

  test("on the command line prints variants side by side", async () => {
    const family = writeFamily(name, folder);
    const { a } = family.adapters;
    const prompts = join(folder, "prompts.txt");
    writeFileSync(prompts, family.prompts.slice(1).join("\n"));
    const line = ["generate", "--base", family.base, "--adapter", a, "--device", "cpu"];
    const length = ["--max-new-tokens", String(family.maxNewTokens)];
    const asked = ["--prompt", family.prompts[0] ?? "", "--prompts", prompts];
    const { code, stdout, stderr } = await run(...line, ...length, ...asked);
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining("writing text") });
    expect(stdout).toContain(`> ${family.prompts[1]}\n  base  ${family.generated.base.texts[1]}`);
    expect(stdout).toMatch(/\d+ tokens in \d+\.\d s\. The CPU was asked for\.\n$/);

    const printed = JSON.parse((await run(...line, ...length, ...asked, "--json")).stdout);
    expect(Object.keys(printed).sort()).toEqual([
      "device",
      "notes",
      "prompts",
      "seconds",
      "tokens",
      "variants",
    ]);
    expect(printed.variants[1]).toEqual({ name: "a", ...family.generated.a });
  });

  test("sampled with a seed writes the same again, and with another seed something else", async () => {
    const family = writeFamily(name, folder);
    const write = async (seed: number) => {
      const request = { base: family.base, prompts: family.prompts, device: "cpu" as const };
      return (await generate({ ...request, maxNewTokens: 16, temperature: 1.5, seed })).variants;
    };
    const first = await write(1);
    expect(await write(1)).toEqual(first);
    expect(await write(2)).not.toEqual(first);
  });
});

function requestFor(family: Family, samples: { a: unknown; b: unknown }): NodeMergeRequest {
  const adapter = (name: "a" | "b") => ({ name, files: family.adapters[name], samples: samples[name] });
  return { base: family.base, adapters: [adapter("a"), adapter("b")], device: "cpu" } as NodeMergeRequest;
}

/** Holds the merged deltas against the goldens'. */
async function expectSweep(family: Family, files: Awaited<ReturnType<typeof merge>>["files"]) {
  const weights = files.find(({ name }) => name === "adapter_model.safetensors");
  const merged = deltasOf(Buffer.from(await (weights?.blob ?? new Blob()).arrayBuffer()));
  const expected = family.sweep();
  expect(merged.size).toBe(expected.size);
  for (const [module, delta] of expected) {
    const found = [...merged].find(([name]) => name.endsWith(module))?.[1] ?? [];
    expect(relativeError(found, delta), module).toBeLessThan(1e-3);
  }
}

describe("merge", () => {
  test("of Llama's adapters on texts gives the oracle's deltas", async () => {
    const family = writeFamily("llama", folder);
    const { files, report } = await merge(requestFor(family, family.samples));
    expect(report.adapters.map(({ samples }) => samples?.answers)).toEqual(["none", "none"]);
    expect(report.options).toMatchObject({ positions: "all", decoder_inputs: "own", max_new_tokens: null });
    await expectSweep(family, files);
  });

  test("of T5's adapters on what they write themselves, or on the same as targets, gives the oracle's deltas", async () => {
    const family = writeFamily("t5", folder);
    const options = { maxNewTokens: family.maxNewTokens };
    const own = await merge({ ...requestFor(family, family.samples), options });
    expect(own.report.adapters.map(({ samples }) => samples?.answers)).toEqual(["own", "own"]);
    await expectSweep(family, own.files);
    // A target ends with </s>; an answer that was cut short does not, but its last token is never read.
    const given = (name: "a" | "b") =>
      family.samples[name].map((text, i) => ({ text, target: family.targets?.[name][i] }));
    const { report } = await merge(requestFor(family, { a: given("a"), b: given("b") }));
    expect(report.adapters.map(({ samples }) => samples?.answers)).toEqual(["given", "given"]);
  });

  test("of T5's adapters on the start token alone writes nothing first", async () => {
    const family = writeFamily("t5", folder);
    const request = requestFor(family, family.samples);
    const { report } = await merge({ ...request, options: { decoderInputs: "start" } });
    expect(report.adapters.map(({ samples }) => samples?.answers)).toEqual(["start", "start"]);
    expect(report.options.decoder_inputs).toBe("start");
  });

  test("on prompts, with completions and without, counts the completions alone if asked", async () => {
    const family = writeFamily("llama", folder);
    const [prompt = ""] = family.prompts;
    const samples = [{ prompt, completion: " w5 w6" }, { prompt: family.prompts[3] }];
    const request = requestFor(family, { a: samples, b: samples });
    const all = await merge(request);
    const some = await merge({ ...request, options: { positions: "completion", maxNewTokens: 4 } });
    expect(some.report.options).toMatchObject({ positions: "completion", max_new_tokens: 4 });
    const [counted, others] = [some, all].map(({ report }) => report.adapters[0]?.samples);
    expect(others?.answers).toBe("mixed");
    // w5 w6 </s>, and at most four tokens of the adapter.
    expect(counted?.answer_tokens).toBeGreaterThan(3);
    expect(counted?.answer_tokens).toBeLessThanOrEqual(3 + 4);
  });

  test("on samples that the adapters write says so, and is the same for the same seed", async () => {
    const family = writeFamily("llama", folder);
    const self = { count: 4, maxNewTokens: 8, seed: 7, prompt: "w9 w10" };
    const request = requestFor(family, { a: "self", b: { self } });
    const [one, two] = [await merge(request), await merge(request)];
    expect(one.report.adapters.map(({ samples }) => samples?.self)).toEqual([
      // 64 positions, one of which the beginning of the text takes.
      { count: 32, max_new_tokens: 63, temperature: 1, top_p: 1, seed: 0, prompt_tokens: 0, prompt: null },
      { count: 4, max_new_tokens: 8, temperature: 1, top_p: 1, seed: 7, prompt_tokens: 3, prompt: "w9 w10" },
    ]);
    const sums = ({ report }: typeof one) => report.adapters.map(({ samples }) => samples?.sha256);
    expect(sums(one)).toEqual(sums(two));
  });

  test("with --samples self needs no samples and no tokenizer", async () => {
    const family = writeFamily("llama", folder);
    rmSync(join(family.base, "tokenizer.json"));
    const out = join(folder, "merged");
    const line = ["merge", "--base", family.base, "--out", out, "--device", "cpu", "--seed", "3"];
    const adapters = Object.values(family.adapters).flatMap((path) => [
      "--adapter",
      path,
      "--samples",
      "self",
    ]);
    const { code, stdout, stderr } = await run(...line, ...adapters);
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringContaining("Merged a, b with iteris") });
    expect(stderr).toContain("writing text");
    const report = JSON.parse(readFileSync(join(out, "merge_report.json"), "utf8"));
    expect(report.adapters[0].samples.self).toMatchObject({ count: 32, seed: 3 });
  });

  test("tells how all do on held-out prompts, and which answers are right", async () => {
    const family = writeFamily("llama", folder);
    const finished = family.prompts.flatMap((prompt, i) => {
      const { texts, finished } = family.generated.a;
      // An answer of no words cannot be written as a label.
      return finished[i] && texts[i] !== "" ? [{ prompt, label: texts[i] }] : [];
    });
    const heldOut = file("held-out.jsonl", finished);
    const out = join(folder, "merged");
    const samples = file("a.jsonl", family.samples.a);
    const line = ["merge", "--base", family.base, "--adapter", family.adapters.a, "--samples", samples];
    const more = ["--compare", heldOut, "--out", out, "--device", "cpu", "--json"];
    const { code, stdout } = await run(...line, ...more);
    expect(code).toBe(0);
    const { comparison } = JSON.parse(stdout);
    expect(comparison.tasks[0]).toMatchObject({ samples: finished.length, labelled: finished.length });
    const own = comparison.tasks[0].variants.find(
      ({ variant }: { variant: string }) => variant === "adapter",
    );
    expect(own).toMatchObject({ agreement: 1, accuracy: 1 });
  });
});

describe("bad input", () => {
  test("a tokenizer of more words than the model has is refused where they are used", async () => {
    const family = writeFamily("llama", folder, 60);
    const { vocabSize } = await inspectBase(family.base);
    expect(vocabSize).toBe(53);
    const samples = { a: ["w9 w52"], b: ["w9", "w10 w57"] };
    await expect(merge(requestFor(family, samples))).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining('samples item 2: token 57 ("w57") is outside'),
    });
    await expect(generate({ base: family.base, prompts: ["w58"], device: "cpu" })).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining("prompts item 1"),
    });
  });

  test("a language model without its tokenizer is told what lacks", async () => {
    const family = writeFamily("t5", folder);
    rmSync(join(family.base, "tokenizer.json"));
    const refusal = { code: "missing", message: expect.stringContaining("tokenizer.json") };
    await expect(merge(requestFor(family, family.samples))).rejects.toMatchObject(refusal);
    await expect(generate({ base: family.base, prompts: "w5", device: "cpu" })).rejects.toMatchObject(
      refusal,
    );
  });

  test("a chat without a chat template is told what lacks", async () => {
    const family = writeFamily("llama", folder);
    const line = ["generate", "--base", family.base, "--chat", "--prompt", "w5", "--device", "cpu"];
    expect(await run(...line)).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("chat_template.jinja"),
    });
    writeFileSync(join(family.base, "chat_template.jinja"), "{{ bos_token }}{{ messages[0].content }} w7");
    writeFileSync(join(family.base, "tokenizer_config.json"), JSON.stringify({ bos_token: "<s>" }));
    expect(await run(...line, "--max-new-tokens", "8", "--json")).toMatchObject({ code: 0 });
  });

  test("options of another kind of model are refused", async () => {
    const [llama, t5] = [writeFamily("llama", join(folder, "l")), writeFamily("t5", join(folder, "t"))];
    await expect(
      merge({ ...requestFor(llama, llama.samples), options: { decoderInputs: "start" } }),
    ).rejects.toMatchObject({ code: "option_invalid" });
    await expect(
      merge({ ...requestFor(t5, t5.samples), options: { positions: "completion" } }),
    ).rejects.toMatchObject({ code: "option_invalid" });
  });

  test("an encoder writes nothing", async () => {
    const { base, adapters } = writeTiny(folder);
    const refusal = { code: "model_unsupported", message: expect.stringContaining("writes no text") };
    await expect(generate({ base, prompts: "w5", device: "cpu" })).rejects.toMatchObject(refusal);
    const asked = adapters.map(({ name, files }) => ({ name, files, samples: "self" as const }));
    await expect(merge({ base, adapters: asked, device: "cpu" })).rejects.toMatchObject({
      code: "samples_invalid",
    });
    const prompts = adapters.map((adapter) => ({ ...adapter, samples: [{ prompt: "w5" }] }));
    await expect(merge({ base, adapters: prompts, device: "cpu" })).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining("encoder"),
    });
  });

  test("a comparison needs samples of the task", async () => {
    const family = writeFamily("llama", folder);
    const adapters = [{ name: "a", files: family.adapters.a }];
    await expect(compare({ base: family.base, adapters, merged: [], device: "cpu" })).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining("a"),
    });
  });
});
