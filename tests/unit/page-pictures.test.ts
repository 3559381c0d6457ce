/** Pictures on the page: what of a drop they are, whose they are, what is lacking, and what is told of them. */
import { readFileSync } from "node:fs";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { BaseFacts, CompareReport, SaidOfPicture, SamplesFacts } from "../../www/lib/types.ts";
import { WorkerClient } from "../../www/lib/worker/client.ts";
import { checklist } from "../../www/page/checklist.ts";
import { classesOf, classProblem } from "../../www/page/class-field.ts";
import { sampleCounts } from "../../www/page/format.ts";
import { take } from "../../www/page/intake.ts";
import { pictureSet, takePictureSets } from "../../www/page/picture-sets.ts";
import { obstacle, pictureOf, picturesAtHand } from "../../www/page/playground.ts";
import { type Dropped, samplesOf, sizeOf, titleOf } from "../../www/page/recognise.ts";
import { picturesOf } from "../../www/page/request.ts";
import { run } from "../../www/page/run.ts";
import { agreement } from "../../www/page/said.ts";
import { sameSamples } from "../../www/page/same.ts";
import { type Adapter, type State, Store, type Text } from "../../www/page/state.ts";
import { write } from "../../www/page/write.ts";
import { captioner, type FakeBehaviour, pairEncoder, type Seen, tinyCaptioner } from "./fake-wasm.ts";
import { LocalWorker, startNoHelper } from "./local-worker.ts";
import { adapter, baseFacts, readyState } from "./page-state.ts";

let client: WorkerClient;
vi.mock("../../www/lib/index.ts", async (original) => ({
  ...(await original<typeof import("../../www/lib/index.ts")>()),
  merge: (request: Parameters<WorkerClient["merge"]>[0]) => client.merge(request),
  generate: (request: Parameters<WorkerClient["generate"]>[0]) => client.generate(request),
  inspectSamples: (samples: Parameters<WorkerClient["inspectSamples"]>[0]) => client.inspectSamples(samples),
  inspectAdapter: (files: Parameters<WorkerClient["inspectAdapter"]>[0]) => client.inspectAdapter(files),
}));

let behaviour: FakeBehaviour;
let seen: Seen[];
beforeEach(() => {
  seen = [];
  behaviour = { seen, facts: captioner };
  client = new WorkerClient(() => new LocalWorker(behaviour, () => null), startNoHelper);
});

const file = (path: string, content = path): Dropped => ({
  path,
  file: new File([content], path.slice(path.lastIndexOf("/") + 1)),
});
const dropped = (...paths: string[]): Dropped[] => paths.map((path) => file(path));
const paths = (files: readonly Dropped[]): string[] => files.map(({ path }) => path);

/** Each set's path with its members, and what is left. */
function sorted(files: Dropped[], adapters: string[] = []) {
  const { sets, rest } = takePictureSets(files, adapters);
  return {
    sets: Object.fromEntries(sets.map(({ path, pictures = [] }) => [path, paths(pictures)])),
    rest: paths(rest),
  };
}

describe("pictures among what was dropped", () => {
  it("are a set with what is said of them; the rest is left", () => {
    const files = dropped(
      "a.samples/2.png",
      "a.samples/1.jpg",
      "a.samples/1.txt",
      "a.samples/notes.md",
      "b.txt",
    );
    expect(sorted([...files, file("a.samples/metadata.jsonl"), file("__MACOSX/a.samples/._1.jpg")])).toEqual({
      sets: {
        "a.samples": ["a.samples/1.jpg", "a.samples/1.txt", "a.samples/2.png", "a.samples/metadata.jsonl"],
      },
      rest: ["a.samples/notes.md", "b.txt", "__MACOSX/a.samples/._1.jpg"],
    });
  });

  it.each<[string, string[], string[], string[]]>([
    ["classes side by side", ["animals/cat/1.png", "animals/dog/1.png"], [], ["animals"]],
    ["classes of samples", ["a.samples/cat/1.png", "a.samples/dog/1.png"], [], ["a.samples"]],
    ["adapters' names", ["all/mood/1.png", "all/topic/1.png"], ["Mood", "topic"], ["all/mood", "all/topic"]],
    [
      "names of samples",
      ["blip/a.samples/1.png", "blip/b.samples/1.png"],
      [],
      ["blip/a.samples", "blip/b.samples"],
    ],
    ["one folder in another", ["data/images/1.png"], [], ["data/images"]],
    ["metadata above", ["data/images/1.png", "data/metadata.csv"], [], ["data"]],
    ["folders beside each other", ["cats/1.png", "dogs/1.png"], [], ["cats", "dogs"]],
    [
      "held-out ones",
      ["held-out/mood/1.png", "samples/mood/1.png"],
      ["mood"],
      ["held-out/mood", "samples/mood"],
    ],
  ])("are put together by %s", (_, names, adapters, roots) => {
    expect(Object.keys(sorted(dropped(...names), adapters).sets)).toEqual(roots);
  });

  it("are called as one is, or as nobody knows", () => {
    expect(Object.keys(sorted(dropped("cat.png")).sets)).toEqual(["cat.png"]);
    expect(Object.keys(sorted(dropped("cat.png", "dog.png")).sets)).toEqual(["pictures"]);
    expect(pictureSet(dropped("x/cat/1.png", "x/dog/1.png"))[0]?.path).toBe("x");
  });

  it("are no samples beside weights, nor below a model unless its folder says so", () => {
    const model = ["m/model.safetensors", "m/diagram.png", "m/assets/logo.png", "m/samples/1.png"];
    expect(sorted(dropped(...model, "ink.safetensors", "ink.preview.png", "cat.png"))).toEqual({
      sets: { "m/samples": ["m/samples/1.png"], "cat.png": ["cat.png"] },
      rest: [
        "m/model.safetensors",
        "m/diagram.png",
        "m/assets/logo.png",
        "ink.safetensors",
        "ink.preview.png",
      ],
    });
  });

  it("are told by their folder, and go to the library as a whole", async () => {
    const [set] = takePictureSets([file("x/a/1.png", "12"), file("x/a/2.png", "345")], []).sets;
    if (!set) throw new Error("no set");
    expect([titleOf(set), sizeOf(set)]).toEqual(["a", 5]);
    expect(samplesOf(set)).toEqual({
      name: "a",
      pictures: [
        { name: "x/a/1.png", blob: expect.any(File) },
        { name: "x/a/2.png", blob: expect.any(File) },
      ],
    });
    const [twin] = takePictureSets([file("y/1.png", "12"), file("y/2.png", "345")], []).sets;
    const [other] = takePictureSets([file("y/1.png", "12"), file("y/2.png", "346")], []).sets;
    expect(twin && (await sameSamples(set, twin))).toBe(true);
    expect(other && (await sameSamples(set, other))).toBe(false);
    expect(await sameSamples(set, file("1.png", "12"))).toBe(false);
  });
});

describe("a drop of pictures", () => {
  const cards = (...names: string[]): Store => {
    const store = new Store();
    store.state.adapters = names.map((name) => ({ ...adapter(name), texts: {} }));
    return store;
  };
  const given = ({ state }: Store) =>
    state.adapters.map(({ texts }) => [texts.samples?.dropped.path, texts.heldOut?.dropped.path]);
  const facts = async (store: Store): Promise<SamplesFacts | undefined> => {
    const text = store.state.adapters[0]?.texts.samples;
    await vi.waitUntil(() => text?.facts.status !== "reading");
    return text?.facts.status === "ready" ? text.facts.value : undefined;
  };

  it("goes to the adapters by name, and is read with its captions", async () => {
    const store = cards("mood", "topic");
    const metadata = '{"file_name": "1.png", "text": "a cat", "label": "cat"}';
    await take(
      store,
      [
        ...dropped("mood.samples/1.png", "mood.samples/2.png", "topic.samples/x.png", "mood.test/1.png"),
        file("mood.samples/metadata.jsonl", metadata),
      ],
      { zone: "adapters" },
    );
    expect(given(store)).toEqual([
      ["mood.samples", "mood.test"],
      ["topic.samples", undefined],
    ]);
    expect(store.state.notices.map(({ text }) => text)).toEqual([
      "Added 2 folders of pictures and 1 folder of held-out pictures.",
    ]);
    expect(await facts(store)).toMatchObject({
      name: "mood.samples",
      count: 2,
      pictures: [
        { name: "1.png", caption: "a cat", label: "cat", blob: expect.any(Blob) },
        { name: "2.png", caption: null, label: null, blob: expect.any(Blob) },
      ],
    });
  });

  it("on a slot is that slot's, all of it", async () => {
    const store = cards("mood");
    const target = { zone: "text", adapter: "mood", role: "samples" } as const;
    await take(store, dropped("animals/cat/1.png", "animals/dog/1.png"), target);
    expect((await facts(store))?.labels).toEqual(["cat", "dog"]);
    await take(store, dropped("one.png"), target);
    expect(given(store)).toEqual([["one.png", undefined]]);
  });

  it("waits where nobody knows whose it is, and is not taken twice", async () => {
    const store = cards("mood", "topic");
    await take(store, dropped("x/1.png", "x/2.png"), { zone: "adapters" });
    expect(store.state.open.map(titleOf)).toEqual(["x"]);
    expect(store.state.notices[0]?.text).toBe(
      "Added 1 file or folder of samples whose adapter is not known yet.",
    );
    await take(store, [file("y/1.png", "x/1.png"), file("y/2.png", "x/2.png")], { zone: "adapters" });
    expect(store.state.notices[0]?.text).toContain("y has the same content as x");
  });

  it("may be a table, whose pictures are shown too", async () => {
    const table = new URL("pictures/train.parquet", import.meta.url);
    const store = cards("mood");
    await take(store, [{ path: "train.parquet", file: new File([readFileSync(table)], "train.parquet") }], {
      zone: "adapters",
    });
    expect(given(store)).toEqual([["train.parquet", undefined]]);
    expect(await facts(store)).toMatchObject({ format: "pictures", count: 12, labels: ["cat", "dog"] });
    expect((await facts(store))?.pictures?.[1]).toMatchObject({
      caption: "picture 1",
      label: "dog",
      blob: expect.any(Blob),
    });
  });

  it("on “Try it” chooses the first; what is no picture is refused", async () => {
    const store = new Store();
    await take(store, dropped("notes.txt", "cat.png"), { zone: "picture" });
    expect(store.state.playground.picture?.name).toBe("cat.png");
    await take(store, dropped("notes.txt"), { zone: "picture" });
    expect(store.state.notices).toMatchObject([{ place: "picture", tone: "error" }]);
  });
});

/** Facts of pictures, so many of them with captions. */
const pictures = (count: number, answers: number): SamplesFacts => ({
  ...{ name: "a", format: "pictures", count, labelled: 0, labels: [], pairs: 0 },
  ...{ kinds: { text: 0, prompt: 0, messages: 0 }, answers, longestCharacters: 0, preview: [] },
  pictures: Array.from({ length: count }, (_, i) => ({
    ...{ name: `${i}.png`, caption: i < answers ? `${i}` : null, label: null, blob: new Blob([`${i}`]) },
  })),
});

const textOf = (value: SamplesFacts): Text => ({
  dropped: { path: "a", file: new File([], "a"), pictures: [] },
  facts: { status: "ready", value },
});

/** A base of a kind, and two adapters with samples in pictures. */
function withPictures(facts: Partial<BaseFacts>, change: (state: State) => void = () => undefined): State {
  return readyState((state) => {
    state.base = {
      ...{ name: "m", files: [], chat: false },
      facts: { status: "ready", value: { ...baseFacts, ...facts } },
    };
    for (const card of state.adapters) card.texts = { samples: textOf(pictures(4, 1)) };
    change(state);
  });
}

const card = (state: State): Adapter => {
  const [first] = state.adapters;
  if (!first) throw new Error("no adapter");
  return first;
};
const last = (state: State): string | undefined => checklist(state)[2]?.text;

describe("the checklist", () => {
  const encoder: Partial<BaseFacts> = { ...pairEncoder, kind: "image-encoder" };

  it.each<[string, Partial<BaseFacts>, string]>([
    ["a captioner", captioner, "8 pictures; 6 of them without captions: the adapter writes them"],
    ["an encoder of both", pairEncoder, "8 pictures; 6 of them without captions"],
    ["an encoder of pictures", encoder, "8 pictures"],
  ])("counts pictures for %s", (_, facts, text) => {
    expect(last(withPictures(facts))).toBe(text);
  });

  it("speaks of pictures where the base reads those", () => {
    const bare = (state: State): void => {
      for (const card of state.adapters) card.texts = {};
    };
    expect(last(withPictures(captioner, bare))).toBe(
      "Samples are missing for mood and topic. Drop a folder of pictures.",
    );
    const empty = withPictures(captioner, (state) => {
      state.adapters = [];
    });
    expect(last(empty)).toBe("Drop a folder of pictures for each adapter.");
  });

  it("refuses texts for pictures and pictures for texts", () => {
    const texts = withPictures(captioner, (state) => {
      card(state).texts = adapter("a").texts;
    });
    expect(last(texts)).toBe(
      "This base model reads pictures, and the samples of mood are texts. Drop a folder of pictures for each instead.",
    );
    expect(last(withPictures({}))).toBe(
      "This base model reads texts, and the samples of mood and topic are pictures. Drop a file of texts for each instead.",
    );
    const self = withPictures(captioner, (state) => {
      Object.assign(card(state), { texts: {}, self: { count: 1, prompt: "", seed: 0 } });
    });
    expect(last(self)).toContain("mood cannot write pictures.");
  });

  it("asks for a tokenizer where captions are read, and not where there are none", () => {
    const first = (facts: Partial<BaseFacts>) =>
      checklist(withPictures({ ...facts, hasTokenizer: false }))[0];
    expect(first(captioner)?.text).toBe("Add the base model’s tokenizer.json: captions are read with it.");
    expect(first(encoder)?.status).toBe("done");
  });

  it("counts what there is on a card", () => {
    expect(sampleCounts(pictures(4, 4))).toBe("4 pictures · all with captions");
    expect(sampleCounts({ ...pictures(1, 0), labelled: 1 })).toBe("1 picture · no captions · all labelled");
  });
});

describe("classes to choose from", () => {
  const typed = (classText: string, facts: Partial<BaseFacts> = pairEncoder) =>
    withPictures(facts, (state) => {
      state.classText = classText;
    });

  it("are the lines of their field, for models that choose", () => {
    expect(classesOf(typed(" a cat \n\na dog"))).toEqual(["a cat", "a dog"]);
    expect(classesOf(typed(" \n"))).toBeUndefined();
    expect(classesOf(typed("a\nb", captioner))).toBeUndefined();
  });

  it("are two or more, each once", () => {
    expect(classProblem(typed("a cat\na dog"))).toBeUndefined();
    expect(checklist(typed("a cat")).at(-1)?.text).toBe(
      "Classes to choose from: give two or more, one a line.",
    );
    expect(classProblem(typed("a\nb\na"))).toBe("Classes to choose from: a is there twice.");
  });
});

/** What the three say of one picture. */
const saidOf = (picture: string, ...texts: [string, string, string]): SaidOfPicture => ({
  picture,
  variants: ["base", "adapter", "iteris"].map((variant, i) => ({ variant, text: texts[i] ?? "" })),
});

describe("what is said of pictures", () => {
  it("is counted where it is what the own adapter says", () => {
    const columns = ["base", "adapter", "iteris"].map((variant) => ({
      variant,
      label: variant,
      merged: false,
    }));
    const said = [saidOf("1", "a", "b", "b"), saidOf("2", "c", "c", "c"), saidOf("3", "a", "b", "c")];
    expect(agreement(said, columns)).toBe(
      "iteris agrees with the task’s own adapter on 2 of 3 pictures; base on 1.",
    );
  });

  it("is shown after a merge, under the methods' titles, with the pictures that it was said of", async () => {
    const store = new Store();
    const state = withPictures(captioner, (state) => {
      state.settings.device = "cpu";
      const files = tinyCaptioner().map(({ name, blob }) => ({ path: name, file: new File([blob], name) }));
      if (state.base) state.base.files = files;
      for (const card of state.adapters) {
        const [set] = pictureSet([file(`${card.name}/1.png`), file(`${card.name}/2.png`)]);
        if (set && card.texts.samples) card.texts.samples.dropped = set;
      }
    });
    Object.assign(store.state, state);
    const ids = (...ids: number[]) => ids;
    behaviour.said = [
      {
        sample: 1,
        variants: [
          { variant: "base", ids: ids(5, 3) },
          { variant: "adapter", ids: ids(5, 6, 3) },
          { variant: "iteris", ids: ids(5, 6, 3) },
        ],
      },
    ];
    await run(store);
    const { comparison, models } = store.state.result ?? {};
    expect(comparison?.tasks[0]?.said).toEqual<CompareReport["tasks"][number]["said"]>([
      {
        picture: "2.png",
        variants: [
          { variant: "base", text: "a" },
          { variant: "adapter", text: "a cat" },
          { variant: "IterIS", text: "a cat" },
        ],
      },
    ]);
    expect(comparison?.pictures?.get("mood")).toBe(store.state.adapters[0]?.texts.samples);
    expect(models?.ofPictures).toBe(true);
    expect(seen[0]?.adapters[0]?.samples).toMatchObject({ source: "mood", prompts: Uint8Array.of(1, 1) });
    expect(picturesOf(baseFacts, store.state.adapters)).toBeUndefined();
  });
});

describe("“Try it” with pictures", () => {
  it("offers those at hand in turns, held-out ones first, and takes the first until one is chosen", () => {
    const state = withPictures(captioner, (state) => {
      card(state).texts.heldOut = textOf({ ...pictures(2, 0), name: "h" });
    });
    const held = card(state).texts.heldOut?.facts;
    const first = held?.status === "ready" ? held.value.pictures?.[0]?.blob : undefined;
    expect(picturesAtHand(state).map(({ name }) => name)).toEqual([
      ...["0.png", "0.png", "1.png", "1.png", "2.png", "3.png"],
    ]);
    expect(pictureOf(state)?.blob).toBe(first);
    state.playground.picture = { name: "mine.png", blob: new Blob() };
    expect(pictureOf(state)?.name).toBe("mine.png");
    expect(obstacle(state)).toBeUndefined();
  });

  it("needs a picture, and no prompt", () => {
    const bare = withPictures(captioner, (state) => {
      for (const card of state.adapters) card.texts = {};
    });
    expect(obstacle(bare)).toBe("Choose a picture first.");
  });

  it("asks for the caption of the picture, with the beginning that was given", async () => {
    const store = new Store();
    Object.assign(store.state, withPictures(captioner));
    const files = tinyCaptioner().map(({ name, blob }) => ({ path: name, file: new File([blob], name) }));
    if (store.state.base) store.state.base.files = files;
    store.state.settings.device = "cpu";
    Object.assign(store.state.playground, { maxNewTokens: 4, prompt: "a" });
    const generated: NonNullable<FakeBehaviour["generated"]> = [];
    behaviour.generated = generated;
    await write(store);
    expect(store.state.playground.written).toMatchObject({ status: "done", picture: { name: "0.png" } });
    expect(generated[0]?.images?.map(({ name }) => name)).toEqual(["0.png"]);
    expect([...(generated[0]?.prompts.ids ?? [])]).toEqual([5]);
    expect(generated[0]?.variants.map(({ name }) => name)).toEqual(["Base", "mood", "topic"]);
  });
});
