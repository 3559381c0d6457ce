/**
 * The built-in examples: fetched from beside the page, put into the same drop zones that a person would
 * use, and merged. Nothing about them is special once their files are there.
 */
import { outdate, setText } from "./edits.ts";
import { take } from "./intake.ts";
import { pictureSet } from "./picture-sets.ts";
import { describe } from "./problem.ts";
import { type Dropped, folderOf } from "./recognise.ts";
import { replaceResults } from "./replace-results.ts";
import { run } from "./run.ts";
import type { ExampleName, Store } from "./state.ts";

interface Manifest {
  title: string;
  description: string;
  base: string[];
  /** `samples` and `heldOut` are a file of texts, or pictures with what is said of them. */
  adapters: { name: string; files: string[]; samples: string | string[]; heldOut?: string | string[] }[];
}

/** Where each example lies, beside the page. */
const FOLDERS: Readonly<Record<ExampleName, string>> = {
  classifiers: "example/",
  writers: "example/generative/",
  pictures: "example/pictures/",
};

export async function runExample(store: Store, name: ExampleName): Promise<void> {
  if (store.state.loading || store.state.work) return;
  store.change((state) => {
    state.loading = name;
  });
  const fetchFile = (path: string): Promise<Dropped> => fetchFrom(FOLDERS[name], path);
  try {
    const manifest = JSON.parse(await (await fetchFile("example.json")).file.text()) as Manifest;
    const load = (paths: readonly string[]) => Promise.all(paths.map(fetchFile));
    const loadSamples = async (paths: string | string[]) =>
      typeof paths === "string"
        ? fetchFile(paths)
        : pictureSet(await load(paths), folderOf(paths[0] ?? ""))[0];
    const [base, adapters] = await Promise.all([
      load(manifest.base),
      Promise.all(
        manifest.adapters.map(async (adapter) => ({
          name: adapter.name,
          files: await load(adapter.files),
          samples: await loadSamples(adapter.samples),
          heldOut: adapter.heldOut ? await loadSamples(adapter.heldOut) : undefined,
        })),
      ),
    ]);
    const { base: oldBase, adapters: oldAdapters, open: oldOpen } = store.state;
    replaceResults(store, (state) => {
      state.base = undefined;
      state.adapters = [];
      state.open = [];
      state.result = undefined;
      state.methodComparison = undefined;
      state.recipe = undefined;
      state.several = false;
      state.notices = [];
      state.classText = "";
      Object.assign(state.playground, { prompt: null, chat: null, picture: undefined });
    });
    await take(store, base, { zone: "base" });
    for (const adapter of adapters) {
      await take(store, adapter.files, { zone: "adapters" });
      const card = store.state.adapters.at(-1);
      if (!card) continue;
      card.name = adapter.name;
      if (adapter.samples) setText(store, card.id, "samples", adapter.samples);
      if (adapter.heldOut) setText(store, card.id, "heldOut", adapter.heldOut);
    }
    store.change((state) => {
      state.loading = undefined;
      state.notices = [];
    });
    const replaced = oldBase !== undefined || oldAdapters.length > 0;
    const putBack = (): void =>
      store.change((state) => {
        state.base = oldBase;
        state.adapters = oldAdapters;
        state.open = oldOpen;
        outdate(state);
      });
    store.notify({
      place: "top",
      tone: "info",
      text: `The example, “${manifest.title}”: ${manifest.description}${replaced ? " It took the place of what you had dropped." : ""}`,
      ...(replaced ? { action: { label: "Put mine back", run: putBack } } : {}),
    });
  } catch (thrown) {
    store.change((state) => {
      state.loading = undefined;
    });
    store.notify({
      place: "top",
      tone: "error",
      text: "The example could not be loaded.",
      problem: describe(thrown),
    });
    return;
  }
  await run(store);
}

async function fetchFrom(folder: string, path: string): Promise<Dropped> {
  const response = await fetch(folder + path);
  if (!response.ok) {
    throw new Error(`${folder}${path} answered ${response.status}: the page was not built completely.`);
  }
  const name = path.slice(path.lastIndexOf("/") + 1);
  return { path, file: new File([await response.blob()], name) };
}
