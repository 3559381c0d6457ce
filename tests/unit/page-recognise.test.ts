import { describe, expect, it } from "vitest";
import {
  assign,
  type Dropped,
  freeName,
  namedBlobs,
  type Receiver,
  recognise,
  roleOf,
} from "../../www/page/recognise.ts";

const dropped = (...paths: string[]): Dropped[] =>
  paths.map((path) => ({ path, file: new File(["x"], path.slice(path.lastIndexOf("/") + 1)) }));
const paths = (files: Dropped[]): string[] => files.map(({ path }) => path);

const receiver = (name: string, more: Partial<Receiver> = {}): Receiver => ({
  id: name,
  name,
  folder: "",
  hasSamples: false,
  hasHeldOut: false,
  ...more,
});

/** Which adapter got which text in which role. */
function given(texts: Dropped[], receivers: Receiver[]): string[] {
  return assign(texts, receivers).assigned.map(
    ({ text, adapter, role }) => `${text.path} > ${adapter} ${role}`,
  );
}

describe("recognise", () => {
  it("sorts a folder that holds a base model, adapters and samples", () => {
    const found = recognise(
      dropped(
        "all/bert/config.json",
        "all/bert/model.safetensors",
        "all/bert/tokenizer.json",
        "all/bert/vocab.txt",
        "all/mood/adapter_config.json",
        "all/mood/adapter_model.safetensors",
        "all/mood/labels.json",
        "all/topic/adapter_config.json",
        "all/topic/adapter_model.safetensors",
        "all/mood.samples.txt",
        "all/topic.csv",
      ),
      "adapters",
    );
    expect(found.bases.map(({ label, files }) => [label, files.length])).toEqual([["bert", 4]]);
    expect(found.adapters.map(({ label }) => label)).toEqual(["mood", "topic"]);
    expect(found.adapters[0]?.files.map(({ file }) => file.name)).toEqual([
      "adapter_config.json",
      "adapter_model.safetensors",
      "labels.json",
    ]);
    expect(paths(found.texts)).toEqual(["all/mood.samples.txt", "all/topic.csv"]);
    expect(found.ignored).toEqual([]);
  });

  it("does not take a configuration without weights for a second base model", () => {
    const found = recognise(
      dropped("m/config.json", "m/model.safetensors", "m/1_Pooling/config.json"),
      "base",
    );
    expect(found.bases.map(({ folder }) => folder)).toEqual(["m"]);
    expect(found.ignored).toEqual(["m/1_Pooling/config.json"]);
  });

  it("knows shards and their index", () => {
    const [base] = recognise(
      dropped(
        "m/config.json",
        "m/model-00001-of-00002.safetensors",
        "m/model-00002-of-00002.safetensors",
        "m/model.safetensors.index.json",
      ),
      "base",
    ).bases;
    expect(base?.files).toHaveLength(4);
  });

  it("keeps a chat template with its model, and a text beside it with its adapter", () => {
    const found = recognise(
      dropped(
        "all/base/config.json",
        "all/base/model.safetensors",
        "all/base/generation_config.json",
        "all/base/chat_template.jinja",
        "all/base/tokenizer.model",
        "all/held-out/past.jsonl",
        "all/samples/past.jsonl",
      ),
      "adapters",
    );
    expect(found.bases[0]?.files.map(({ file }) => file.name)).toEqual([
      "config.json",
      "model.safetensors",
      "generation_config.json",
      "chat_template.jinja",
    ]);
    expect(given(found.texts, [receiver("past", { folder: "all/adapters/past" })])).toEqual([
      "all/held-out/past.jsonl > past heldOut",
      "all/samples/past.jsonl > past samples",
    ]);
    expect(recognise(dropped("chat_template.jinja"), "base").bases).toHaveLength(1);
  });

  it("takes a loose tokenizer.json on the base's zone, and nowhere else", () => {
    expect(recognise(dropped("tokenizer.json"), "base").bases).toHaveLength(1);
    const elsewhere = recognise(dropped("tokenizer.json"), "adapters");
    expect(elsewhere.bases).toEqual([]);
    expect(elsewhere.ignored).toEqual(["tokenizer.json"]);
  });

  it("hands pickles on, so that the refusal is told and not guessed", () => {
    const [adapter] = recognise(dropped("a/adapter_config.json", "a/adapter_model.bin"), "adapters").adapters;
    expect(adapter?.files.map(({ file }) => file.name)).toContain("adapter_model.bin");
    expect(recognise(dropped("m/config.json", "m/pytorch_model.bin"), "base").bases).toHaveLength(1);
  });

  it("takes from a model's own folder only texts whose name says so", () => {
    const adapter = ["a/adapter_config.json", "a/adapter_model.safetensors"];
    const found = recognise(dropped(...adapter, "a/samples.txt", "a/inputs.json", "a/notes.txt"), "adapters");
    expect(paths(found.texts)).toEqual(["a/samples.txt"]);
    expect(found.ignored).toEqual(["a/inputs.json", "a/notes.txt"]);
  });

  it("takes each file whose header says so for an adapter, whatever else lies beside it", () => {
    const files = dropped(
      "loras/ink.safetensors",
      "loras/wool.safetensors",
      "sd/pytorch_lora_weights.safetensors",
    );
    const kinds = new Map(files.map(({ file }) => [file, "adapter" as const]));
    const found = recognise(files, "adapters", kinds);
    expect(found.adapters.map(({ label, files }) => [label, files.length])).toEqual([
      ["ink", 1],
      ["wool", 1],
      ["sd", 1],
    ]);
    expect(found.bases).toEqual([]);
    // One that is called like a base model's file, on the base model's zone.
    const [odd] = dropped("model.safetensors");
    const named = recognise(odd ? [odd] : [], "base", new Map(odd ? [[odd.file, "adapter"]] : []));
    expect([named.adapters.length, named.bases.length]).toEqual([1, 0]);
  });

  it("takes weights of a free name for a base model only where they can be nothing else", () => {
    const weights = (files: Dropped[]) => new Map(files.map(({ file }) => [file, "weights" as const]));
    const loose = dropped("dreamshaper.safetensors");
    expect(recognise(loose, "adapters", weights(loose)).bases.map(({ label }) => label)).toEqual([
      "dreamshaper",
    ]);
    const head = dropped(
      "merged/adapter_config.json",
      "merged/adapter_model.safetensors",
      "merged/heads/mood.safetensors",
    );
    const merged = recognise(head, "adapters", weights(head));
    expect([merged.adapters.length, merged.bases.length]).toEqual([1, 0]);
    expect(merged.ignored).toEqual(["merged/heads/mood.safetensors"]);
  });

  it("keeps a diffusion pipeline's parts together, each under its folder", () => {
    const found = recognise(
      dropped(
        "sd/model_index.json",
        "sd/unet/config.json",
        "sd/unet/diffusion_pytorch_model.safetensors",
        "sd/unet/diffusion_pytorch_model.fp16.safetensors",
        "sd/text_encoder/model.safetensors",
        "sd/tokenizer/vocab.json",
      ),
      "base",
    );
    expect(found.bases).toHaveLength(1);
    expect(
      namedBlobs(found.bases[0]?.files ?? [])
        .map(({ name }) => name)
        .sort(),
    ).toEqual(["text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"]);
    expect(found.texts).toEqual([]);
  });

  it("takes a report for a recipe, but not one that lies in the adapter that was made", () => {
    expect(paths(recognise(dropped("merge_report (1).json"), "adapters").recipes)).toEqual([
      "merge_report (1).json",
    ]);
    const made = ["out/adapter_config.json", "out/adapter_model.safetensors", "out/merge_report.json"];
    const found = recognise(dropped(...made), "adapters");
    expect([found.recipes.length, found.reports.length, found.texts.length]).toEqual([0, 1, 0]);
  });

  it("leaves out what training and file managers leave behind", () => {
    const found = recognise(
      dropped(
        "a/adapter_config.json",
        "a/adapter_model.safetensors",
        "a/optimizer.pt",
        "a/trainer_state.json",
        "a/README.md",
        "a/.DS_Store",
        "__MACOSX/a/samples.txt",
        "a/requirements.txt",
      ),
      "adapters",
    );
    expect(found.texts).toEqual([]);
    expect(found.ignored.sort()).toEqual([
      "__MACOSX/a/samples.txt",
      "a/.DS_Store",
      "a/README.md",
      "a/optimizer.pt",
      "a/requirements.txt",
      "a/trainer_state.json",
    ]);
  });
});

describe("assign", () => {
  it("goes by the adapter's name in the file's name", () => {
    const texts = dropped("emoint.samples.txt", "emoint.test.jsonl", "isear.samples.txt");
    expect(given(texts, [receiver("emoint"), receiver("isear")])).toEqual([
      "emoint.samples.txt > emoint samples",
      "emoint.test.jsonl > emoint heldOut",
      "isear.samples.txt > isear samples",
    ]);
  });

  it("takes the longest name that fits", () => {
    expect(given(dropped("emotion-cause.txt"), [receiver("emotion"), receiver("emotion cause")])).toEqual([
      "emotion-cause.txt > emotion cause samples",
    ]);
  });

  it("does not find a name inside another word", () => {
    const { open } = assign(dropped("emotional.txt"), [receiver("emotion"), receiver("topic")]);
    expect(open).toHaveLength(1);
  });

  it("gives a file in an adapter's folder to that adapter, whatever its name", () => {
    const receivers = [receiver("a", { folder: "x/a" }), receiver("b", { folder: "x/b" })];
    expect(given(dropped("x/b/samples.txt"), receivers)).toEqual(["x/b/samples.txt > b samples"]);
  });

  it("gives a file beside an adapter's only folder to that adapter", () => {
    const receivers = [
      receiver("one", { folder: "x/mood/adapter" }),
      receiver("two", { folder: "x/topic/adapter" }),
    ];
    expect(given(dropped("x/mood/texts.txt"), receivers)).toEqual(["x/mood/texts.txt > one samples"]);
  });

  it("gives the last file to the last adapter without one", () => {
    const receivers = [receiver("a", { hasSamples: true }), receiver("b")];
    expect(given(dropped("texts.txt"), receivers)).toEqual(["texts.txt > b samples"]);
  });

  it("gives a file to the adapter whose samples a recipe says it is, even if its name says test", () => {
    const receivers = [receiver("a", { source: "first-test.txt" }), receiver("b", { source: "b.txt" })];
    expect(given(dropped("first-test.txt"), receivers)).toEqual(["first-test.txt > a samples"]);
    // Samples that are called alike in every folder go by their place.
    const alike = ["a", "b"].map((name) => receiver(name, { folder: name, source: "samples.txt" }));
    expect(given(dropped("b/samples.txt"), alike)).toEqual(["b/samples.txt > b samples"]);
  });

  it("leaves open what could be for either of two adapters", () => {
    const { assigned, open } = assign(dropped("texts.txt"), [receiver("a"), receiver("b")]);
    expect(assigned).toEqual([]);
    expect(paths(open)).toEqual(["texts.txt"]);
  });

  it("does not hand a named file to another adapter when its own is served", () => {
    const { assigned, open } = assign(dropped("a.txt"), [receiver("a", { hasSamples: true }), receiver("b")]);
    expect(assigned).toEqual([]);
    expect(open).toHaveLength(1);
  });
});

it("tells held-out files from calibration files by whole words", () => {
  expect(["a.test.jsonl", "held-out.txt", "heldout_a.csv", "dev.tsv", "a-eval.json"].map(roleOf)).toEqual(
    Array(5).fill("heldOut"),
  );
  expect(roleOf("all/held-out/a.jsonl")).toBe("heldOut");
  expect(["contest.txt", "device.txt", "a.samples.txt", "test/a.txt"].map(roleOf)).toEqual(
    Array(4).fill("samples"),
  );
});

it("finds a free name without regard to case", () => {
  expect(freeName("mood", [])).toBe("mood");
  expect(freeName("Mood", ["mood"])).toBe("Mood 2");
  expect(freeName("mood", ["mood", "mood 2"])).toBe("mood 3");
  expect(freeName("  ", [])).toBe("adapter");
});
