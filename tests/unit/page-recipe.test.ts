import { describe, expect, it } from "vitest";
import type { Recipe } from "../../www/lib/recipe.ts";
import type { MergeReport } from "../../www/lib/types.ts";
import { checklist } from "../../www/page/checklist.ts";
import { baseTitle, recipeLines } from "../../www/page/recipe-lines.ts";
import {
  type Card,
  differingFiles,
  type Followed,
  lackingAdapters,
  matchCards,
  repetition,
} from "../../www/page/recipe-match.ts";
import { adapter, readyState } from "./page-state.ts";

const file = (name: string, content: string) => ({ name, bytes: 1, sha256: content.padEnd(64, "0") });

const wanted = (name: string, weights: string, path: string | null = null): Recipe["adapters"][number] => ({
  name,
  path,
  weight: 1,
  files: [file("adapter_config.json", "c"), file("adapter_model.safetensors", weights)],
  samples: { source: `${name}.txt`, path: null, count: 50, self: null, written: false, sha256: "5" },
});

const recipe: Recipe = {
  version: 2,
  createdBy: "iteris-web 0.1.0",
  options: { method: "iteris" },
  device: "cpu",
  workers: 2,
  base: { name: "bert", path: null, files: [file("model.safetensors", "b")] },
  adapters: [wanted("mood", "1"), wanted("topic", "2", "../lora/topic-v2")],
  output: [file("adapter_model.safetensors", "9"), file("README.md", "7")],
};

const card = (id: string, name: string, weights: string, source = ""): Card => ({
  id,
  name,
  source,
  digests: [file("adapter_config.json", "c"), file("adapter_model.safetensors", weights)],
});

describe("matching", () => {
  it("goes by what the files hold before it goes by names", () => {
    const swapped = [card("x", "mood", "2"), card("y", "topic", "1")];
    expect(matchCards(recipe, swapped)).toEqual(["y", "x"]);
  });

  it("takes the name, then the folder, for files that are others", () => {
    expect(matchCards(recipe, [card("x", "Mood", "8"), card("y", "mine", "8", "topic-v2")])).toEqual([
      "x",
      "y",
    ]);
    expect(matchCards(recipe, [card("x", "other", "8")])).toEqual([undefined, undefined]);
  });

  it("keeps what was found when it is called otherwise, and lets go of what is removed", () => {
    const renamed = [card("x", "topic", "8"), card("y", "mood", "8")];
    expect(matchCards(recipe, renamed, ["x", "y"])).toEqual(["x", "y"]);
    expect(matchCards(recipe, [], ["x", "y"])).toEqual([undefined, undefined]);
  });

  it("gives no card to two adapters of the recipe", () => {
    const twins: Recipe = { ...recipe, adapters: [wanted("a", "1"), wanted("b", "1")] };
    expect(matchCards(twins, [card("x", "a", "1")])).toEqual(["x", undefined]);
  });
});

describe("files that are not the recipe's", () => {
  it("are told for what is here, and for nothing that is still missing", () => {
    const cards = [card("x", "mood", "8")];
    expect(differingFiles(recipe, undefined, cards, ["x", undefined])).toEqual([
      { input: "mood", file: "adapter_model.safetensors", why: "changed" },
    ]);
    const base = [file("model.safetensors", "other")];
    expect(differingFiles(recipe, base, [], [undefined, undefined])).toEqual([
      { input: "base model", file: "model.safetensors", why: "changed" },
    ]);
    expect(
      differingFiles(recipe, [file("model.safetensors", "b")], [card("x", "mood", "1")], ["x", undefined]),
    ).toEqual([]);
  });
});

const followed = (more: Partial<Followed> = {}): Followed => ({
  file: "merge_report.json",
  recipe,
  cards: ["mood", "topic"],
  differing: [],
  checking: false,
  ...more,
});

describe("a recipe that is followed", () => {
  it("says what it still wants, by name", () => {
    const state = readyState((s) => {
      s.base = undefined;
      s.adapters = [adapter("mood")];
      s.recipe = followed({ cards: ["mood", undefined] });
      for (const each of s.adapters) each.texts = {};
    });
    expect(lackingAdapters(followed({ cards: ["mood", undefined] }))).toEqual(["topic"]);
    expect(checklist(state).map(({ text }) => text)).toEqual([
      "Drop the base model’s folder: the recipe used bert.",
      "Drop topic: the recipe merges it.",
      "Samples are missing for mood: the recipe used mood.txt.",
    ]);
    expect(
      recipeLines(state, followed({ cards: ["mood", undefined] })).map(({ name, standing }) => [
        name,
        standing,
      ]),
    ).toEqual([
      ["bert", "lacking"],
      ["mood", "here"],
      ["topic", "lacking"],
    ]);
  });

  it("shows what is another file than it was", () => {
    const state = readyState();
    const differing = [{ input: "topic", file: "adapter_model.safetensors", why: "changed" as const }];
    const lines = recipeLines(state, followed({ differing }));
    expect(lines.map(({ standing }) => standing)).toEqual(["here", "here", "differs"]);
    expect(lines[2]?.why).toContain("adapter_model.safetensors is not the file of the recipe");
  });
});

it("calls a base model by its folder, or by its files where the merge was not told", () => {
  const files = [file("model.safetensors", "b"), file("config.json", "c")];
  expect(baseTitle({ name: "base model", path: "../models/minilm", files })).toBe("minilm");
  expect(baseTitle({ name: "bert", path: null, files })).toBe("bert");
  expect(baseTitle({ name: "base model", path: null, files })).toBe("model.safetensors, 1 B");
  const shards = [file("model-1.safetensors", "b"), file("model-2.safetensors", "b")];
  expect(baseTitle({ name: "base model", path: null, files: shards })).toBe("2 safetensors files, 2 B");
});

describe("a repetition", () => {
  const report = (weights: string, more: Partial<MergeReport> = {}): MergeReport =>
    ({
      options: {},
      device: "cpu",
      workers: 2,
      adapters: recipe.adapters.map(({ name }) => ({ name, samples: { sha256: "5", self: null } })),
      output: [file("adapter_model.safetensors", weights), file("README.md", "other")],
      ...more,
    }) as unknown as MergeReport;

  it("is the same when its weights are, whatever the card says", () => {
    expect(repetition(followed(), report("9")).same).toBe(true);
  });

  it("says why it is not: other files, other samples, another device, other cores", () => {
    const differing = [{ input: "mood", file: "a", why: "changed" as const }];
    expect(repetition(followed({ differing }), report("8")).text).toContain(
      "Other files were given for mood.",
    );
    const samples = [{ name: "mood", samples: { sha256: "6", self: null } }];
    const other = report("8", { adapters: samples as unknown as MergeReport["adapters"] });
    expect(repetition(followed(), other).text).toContain("Other samples were given for mood.");
    expect(repetition(followed(), report("8", { device: "webgpu" })).text).toContain("another device");
    expect(repetition(followed(), report("8", { workers: 3 })).text).toContain("another number of cores (2)");
    expect(repetition(followed(), report("8")).same).toBe(false);
  });
});
