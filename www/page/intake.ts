/**
 * Takes dropped files into the state: recognises them, turns away what is already there, has the
 * rest inspected by the worker and says in one sentence what was taken.
 *
 * A base model of many gigabytes may be dropped together with small files. Nothing here reads it: it is told from
 * others by name, size and time, and only adapters and texts are compared by their bytes.
 */
import { inspectAdapterInto, inspectBaseInto, setText } from "./edits.ts";
import { list, plural } from "./format.ts";
import { anyPicture, pictureSet, takePictureSets } from "./picture-sets.ts";
import { describe } from "./problem.ts";
import { followRecipe, takeRecipe } from "./recipe-intake.ts";
import { recipeOfCard } from "./recipe-match.ts";
import {
  assign,
  type Dropped,
  freeName,
  type Group,
  type Receiver,
  type Role,
  recognise,
  titleOf,
} from "./recognise.ts";
import { same, sameContent, sameSamples } from "./same.ts";
import { type Adapter, adapterById, type State, type Store, type Tell } from "./state.ts";
import { weightsKinds } from "./weights-kinds.ts";

/** Where something was dropped: on a zone, on an adapter's slot for texts, or just on the page. */
export type Target =
  | { zone: "base" | "adapters" | "picture" }
  | { zone: "text"; adapter: string; role: Role };

let adapterCount = 0;

let turn: Promise<void> = Promise.resolve();

/**
 * Takes what was dropped or picked. One at a time, in the order of the drops: a second one must see what the first
 * one added, also where that was a folder that took long to walk.
 */
export function take(
  store: Store,
  files: readonly Dropped[] | Promise<readonly Dropped[]>,
  target: Target,
): Promise<void> {
  const place = target.zone === "base" || target.zone === "picture" ? target.zone : "adapters";
  const tell: Tell = (notice) => store.notify({ place, ...notice });
  turn = Promise.all([files, turn])
    .then(([dropped]) => takeNow(store, dropped, target, tell))
    .catch((thrown: unknown) => {
      tell({ tone: "error", text: "What you dropped could not be read.", problem: describe(thrown) });
    });
  return turn;
}

async function takeNow(store: Store, files: readonly Dropped[], target: Target, tell: Tell): Promise<void> {
  store.change((state) => {
    state.notices = state.notices.filter((notice) => notice.tone === "error");
  });
  if (files.length === 0) {
    tell({ tone: "info", text: "There was no file in what you dropped." });
    return;
  }
  if (target.zone === "text") {
    await takeText(store, files, target, tell);
    return;
  }
  if (target.zone === "picture") {
    takePicture(store, files, tell);
    return;
  }
  const kinds = await weightsKinds(files);
  const named = [
    ...store.state.adapters.map(({ name }) => name),
    ...recognise(files, target.zone, kinds).adapters.map(({ label }) => label),
  ];
  const { sets, rest } = takePictureSets(files, named);
  const found = recognise(rest, target.zone, kinds);
  const taken: string[] = [];
  const [recipe] = found.recipes;
  if (recipe) taken.push(...(await takeRecipe(store, recipe, tell)));
  const [base, ...moreBases] = found.bases;
  if (base) taken.push(...takeBase(store, base, tell));
  if (moreBases.length > 0) {
    tell({
      tone: "info",
      text: `There was more than one base model in what you dropped; ${base?.label ?? "the first"} was taken.`,
      details: moreBases.map((group) => group.folder),
    });
  }
  for (const group of found.adapters) taken.push(...(await takeAdapter(store, group, tell)));
  // Whose samples a file is may be the recipe's to say.
  await followRecipe(store);
  taken.push(...(await takeTexts(store, [...sets, ...found.texts], found.ignored, tell)));
  const [report] = found.reports;
  if (report && !recipe && !store.state.recipe) offerRecipe(store, report, tell);

  if (taken.length > 0) {
    const rest = found.ignored.length;
    const aside = rest > 0 ? ` ${plural(rest, "other file")} ${rest === 1 ? "is" : "are"} not needed.` : "";
    tell({
      tone: "info",
      text: `Added ${list(taken)}.${aside}`,
      ...(rest > 0 ? { details: found.ignored } : {}),
    });
  } else if (found.ignored.length > 0) {
    tell({
      tone: "error",
      text: "Nothing here looks like a base model, an adapter or samples.",
      details: found.ignored,
      problem: {
        code: "missing",
        message:
          "A base model has config.json and model.safetensors; an adapter adapter_config.json and adapter_model.safetensors, or is one .safetensors file of kohya, ComfyUI or diffusers; samples are .txt, .jsonl, .json, .csv or .tsv, or a folder of pictures; a recipe is a merge_report.json.",
      },
    });
  }
}

/** An adapter that was merged here brings the recipe of its merge along. */
function offerRecipe(store: Store, report: Dropped, tell: Tell): void {
  tell({
    tone: "info",
    text: `${report.path} tells how that adapter was merged.`,
    action: {
      label: "Load it as a recipe",
      run: () => void takeRecipe(store, report, tell).then(() => followRecipe(store)),
    },
  });
}

function takeBase(store: Store, group: Group, tell: Tell): string[] {
  const present = store.state.base;
  const names = (files: readonly Dropped[]): Set<string> =>
    new Set(files.map((dropped) => dropped.file.name));
  if (present) {
    const known = names(present.files);
    if (
      group.files.every(({ file }) => present.files.some((other) => same(other.file, file))) &&
      group.files.length > 0
    ) {
      tell({
        tone: "info",
        text: `The base model “${present.name}” is here already; it was not added again.`,
      });
      return [];
    }
    // A few files that the model lacks complete it; a whole model takes its place.
    const completes =
      group.files.every(({ file }) => !known.has(file.name)) && !names(group.files).has("config.json");
    if (completes) {
      const files = [...present.files, ...group.files];
      inspectBaseInto(store, present.name, files);
      return [`${list(group.files.map(({ file }) => file.name))} to the base model`];
    }
  }
  const name = group.label || "base model";
  inspectBaseInto(store, name, group.files);
  return [present ? `the base model “${name}” in place of “${present.name}”` : `the base model “${name}”`];
}

const weightsOf = (files: readonly Dropped[]): Dropped | undefined =>
  files.find(({ file }) => /\.(safetensors|bin|pt)$/i.test(file.name));

/** Whether the weights are PEFT's, which come with a configuration beside them; those of one file are complete. */
const ofFolder = (weights: Dropped | undefined): boolean =>
  weights?.file.name.toLowerCase().startsWith("adapter_model.") ?? true;

async function takeAdapter(store: Store, group: Group, tell: Tell): Promise<string[]> {
  const weights = weightsOf(group.files);
  for (const adapter of store.state.adapters) {
    const other = weightsOf(adapter.files);
    if (weights && other && (await sameContent(weights.file, other.file))) {
      tell({
        tone: "info",
        text: `“${group.label || "This adapter"}” has the same weights as “${adapter.name}”, which is here already; it was not added again.`,
      });
      return [];
    }
    // The two files of one adapter, dropped one after the other.
    const complementary =
      group.folder === adapter.folder &&
      group.files.every(({ file }) => !adapter.files.some((known) => known.file.name === file.name));
    if (complementary && !(weights && other) && ofFolder(other ?? weights)) {
      inspectAdapterInto(store, adapter, [...adapter.files, ...group.files]);
      return [`${list(group.files.map(({ file }) => file.name))} to ${adapter.name}`];
    }
  }
  adapterCount += 1;
  const adapter: Adapter = {
    id: `adapter-${adapterCount}`,
    name: freeName(
      group.label || "adapter",
      store.state.adapters.map(({ name }) => name),
    ),
    folder: group.folder,
    files: [],
    weight: 1,
    facts: { status: "reading" },
    texts: {},
    self: undefined,
  };
  store.change((state) => {
    state.adapters.push(adapter);
  });
  inspectAdapterInto(store, adapter, group.files);
  return [`the adapter “${adapter.name}”`];
}

/** Also tries the texts that were dropped earlier and waited for their adapter. Adds to `ignored`. */
async function takeTexts(
  store: Store,
  texts: readonly Dropped[],
  ignored: string[],
  tell: Tell,
): Promise<string[]> {
  const known = [...store.state.open, ...usedTexts(store.state)];
  const fresh: Dropped[] = [];
  for (const text of texts) {
    let twin: Dropped | undefined;
    for (const other of [...known, ...fresh]) {
      if (await sameSamples(text, other)) twin = other;
    }
    if (twin) {
      tell({
        tone: "info",
        text: `${titleOf(text)} has the same content as ${titleOf(twin)}, which is here already; it was not added again.`,
      });
    } else {
      fresh.push(text);
    }
  }
  const receivers = store.state.adapters.map(
    (adapter): Receiver => ({
      id: adapter.id,
      name: adapter.name,
      folder: adapter.folder,
      hasSamples: adapter.texts.samples !== undefined,
      hasHeldOut: adapter.texts.heldOut !== undefined,
      source: recipeOfCard(store.state.recipe, adapter.id)?.samples?.source ?? undefined,
    }),
  );
  const { assigned, open: unplaced } = assign([...store.state.open, ...fresh], receivers);
  // A JSON file in a dropped folder that no name ties to an adapter is somebody's settings, not samples.
  const open = unplaced.filter(({ path }) => !(path.includes("/") && path.toLowerCase().endsWith(".json")));
  ignored.push(...unplaced.filter((text) => !open.includes(text)).map(({ path }) => path));
  store.change((state) => {
    state.open = open;
  });
  for (const { text, adapter, role } of assigned) setText(store, adapter, role, text);
  const counted = (role: Role, what: string, which: (text: Dropped) => boolean): string[] => {
    const number = assigned.filter((assignment) => assignment.role === role && which(assignment.text)).length;
    return number > 0 ? [plural(number, what, what.replace(/^folder|file$/, "$&s"))] : [];
  };
  const waiting = fresh.filter((text) => open.includes(text)).length;
  return [
    ...counted("samples", "samples file", ({ pictures }) => !pictures),
    ...counted("samples", "folder of pictures", ({ pictures }) => pictures !== undefined),
    ...counted("heldOut", "held-out file", ({ pictures }) => !pictures),
    ...counted("heldOut", "folder of held-out pictures", ({ pictures }) => pictures !== undefined),
    ...(waiting > 0
      ? [`${plural(waiting, "file or folder", "files or folders")} of samples whose adapter is not known yet`]
      : []),
  ];
}

async function takeText(
  store: Store,
  files: readonly Dropped[],
  { adapter: id, role }: { adapter: string; role: Role },
  tell: Tell,
): Promise<void> {
  const { texts } = recognise(files, "texts");
  const [text, ...more] = anyPicture(texts) ? pictureSet(texts) : texts;
  if (!text) return;
  if (more.length > 0) {
    tell({ tone: "info", text: `One file of texts per adapter: ${text.file.name} was taken.` });
  }
  for (const adapter of store.state.adapters) {
    for (const used of Object.values(adapter.texts)) {
      if (used === adapterById(store.state, id)?.texts[role]) continue;
      if (await sameSamples(text, used.dropped)) {
        tell({
          tone: "info",
          text: `${titleOf(text)} has the same content as ${titleOf(used.dropped)}, which “${adapter.name}” uses already.`,
        });
        return;
      }
    }
  }
  setText(store, id, role, text);
}

/** Of a drop where one picture is looked at, the first. */
function takePicture(store: Store, files: readonly Dropped[], tell: Tell): void {
  const [picture] = takePictureSets(files, []).sets.flatMap(({ pictures = [] }) =>
    pictures.filter((dropped) => anyPicture([dropped])),
  );
  if (!picture) {
    tell({ tone: "error", text: "There is no picture (.png, .jpg, .webp, .gif, .bmp) in what you dropped." });
    return;
  }
  store.change(({ playground }) => {
    playground.picture = { name: picture.file.name, blob: picture.file };
  });
}

const usedTexts = (state: State): Dropped[] =>
  state.adapters.flatMap((adapter) => Object.values(adapter.texts).map((text) => text.dropped));
