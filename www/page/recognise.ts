/**
 * Says what dropped files are: a base model, adapters, samples, a recipe, or nothing of use.
 *
 * Names and folders are looked at, and of safetensors files what their headers say, never the contents, so that a
 * whole tree of many gigabytes is sorted at once. A wrong guess would be merged silently: so a text file goes to an
 * adapter only when its place or its name says so, or when no other adapter could be meant. Everything else is left
 * for the person to decide.
 */
import type { NamedBlob, WeightsKind } from "../lib/index.ts";

/** A file with the path it had under whatever was dropped, such as `models/emoint/labels.json`. */
export interface Dropped {
  path: string;
  file: File;
  /** Its name inside its model where that is not the file's own: `unet/model.safetensors`. */
  part?: string;
  /** Of samples in pictures: all their files, of which `file` is the first. `path` is their folder's then. */
  pictures?: Dropped[];
}

/** What a person calls it: a file by its name, pictures by their folder's. */
export const titleOf = ({ path, file, pictures }: Dropped): string => (pictures ? baseName(path) : file.name);

/** In bytes. */
export const sizeOf = ({ file, pictures }: Dropped): number =>
  pictures ? pictures.reduce((sum, { file }) => sum + file.size, 0) : file.size;

/** Samples as the library takes them. */
export function samplesOf(dropped: Dropped): File | { pictures: NamedBlob[]; name: string } {
  if (!dropped.pictures) return dropped.file;
  const pictures = dropped.pictures.map(({ path, file }) => ({ name: path, blob: file }));
  return { pictures, name: titleOf(dropped) };
}

/**
 * The files of a card as the library takes them. They are of one folder, so their own names tell them apart, or the
 * parts of a pipeline do; a file added later may have come from elsewhere, and its path would say so.
 */
export const namedBlobs = (files: readonly Dropped[]): NamedBlob[] =>
  files.map(({ file, part }) => ({ name: part ?? file.name, blob: file }));

/** The files of one folder that belong together. `folder` is its path, "" for loose files. */
export interface Group {
  folder: string;
  label: string;
  files: Dropped[];
}

export interface Recognised {
  bases: Group[];
  adapters: Group[];
  texts: Dropped[];
  /** Reports of merges, to be repeated. */
  recipes: Dropped[];
  /** The same beside the adapter that was made: whoever drops that means the adapter. */
  reports: Dropped[];
  /** Files that were left aside, by path: told as a count, with the names on request. */
  ignored: string[];
}

/** What an adapter's text file is used for. */
export type Role = "samples" | "heldOut";

const MODEL_WEIGHTS =
  /^(model|pytorch_model|diffusion_pytorch_model)([.-].*)?\.(safetensors|bin|pt)$|^model\.safetensors\.index\.json$/i;
const ADAPTER_MARK = /^adapter_(config\.json|model\.(safetensors|bin|pt))$/i;
const TEXT = /\.(txt|jsonl|ndjson|json|csv|tsv|parquet)$/i;
const PICKLE_OF_ADAPTER = /^adapter_model\.(bin|pt)$/i;
const SAFETENSORS = /\.safetensors$/i;
const REPORT = /^merge_report.*\.json$/i;
/** Names that say no more than that this is an adapter: its folder's name says more. */
const NAMELESS = /^(pytorch_lora_weights|lora|adapter)$/i;
/** The weights of a diffusion pipeline's part, without those of another precision beside them. */
const PART_WEIGHTS =
  /^(diffusion_pytorch_model|model|pytorch_model)(-\d+-of-\d+)?\.safetensors$|^(diffusion_pytorch_model|model)\.safetensors\.index\.json$/i;

/** Files that a Hugging Face model or adapter folder holds and that are never samples. */
const MODEL_FILES = new Set([
  "config.json",
  "adapter_config.json",
  "labels.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "vocab.txt",
  "merges.txt",
  "chat_template.jinja",
  "chat_template.json",
  "generation_config.json",
  "preprocessor_config.json",
  "modules.json",
  "sentence_bert_config.json",
  "config_sentence_transformers.json",
]);

/** In a model's own folder most text files are settings or notes; these names say that they are samples. */
const TEXT_BY_NAME = /sample|calib|text|held|test|eval|valid|dev/i;

/** Leftovers of training that would otherwise look like samples. */
const TRAINING_FILES =
  /^(trainer_state|all_results|(train|eval|test)_results|requirements|readme|license|notice)\.|\.index\.json$|^model_index\.json$/i;

export const baseName = (path: string): string => path.slice(path.lastIndexOf("/") + 1);
export const folderOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf("/")));

/** What an operating system leaves behind. */
export const isHidden = ({ path }: Dropped): boolean =>
  path.split("/").some((part) => part.startsWith(".") || part === "__MACOSX");

/** Whether the file belongs to a model's or an adapter's folder by its name. */
function isModelFile(name: string): boolean {
  return MODEL_FILES.has(name.toLowerCase()) || MODEL_WEIGHTS.test(name) || ADAPTER_MARK.test(name);
}

function isText(name: string): boolean {
  return TEXT.test(name) && !MODEL_FILES.has(name.toLowerCase()) && !TRAINING_FILES.test(name);
}

/**
 * Sorts dropped files.
 *
 * @param files what was dropped, in any order
 * @param zone  where: "base" takes loose model files even when the weights are not among them, so
 *              that a forgotten `tokenizer.json` can be added afterwards, and checkpoints of any name;
 *              "texts" takes every file as text
 * @param kinds what the headers of safetensors files say
 */
export function recognise(
  files: readonly Dropped[],
  zone: "base" | "adapters" | "texts",
  kinds: ReadonlyMap<File, WeightsKind> = new Map(),
): Recognised {
  const result: Recognised = { bases: [], adapters: [], texts: [], recipes: [], reports: [], ignored: [] };
  const visible: Dropped[] = [];
  for (const dropped of files) {
    if (isHidden(dropped)) {
      result.ignored.push(dropped.path);
    } else {
      visible.push(dropped);
    }
  }
  if (zone === "texts") {
    result.texts = visible;
    return result;
  }
  const rest = takePipelines(visible, result);
  for (const [folder, members] of byFolder(rest)) sortFolder(folder, members, { zone, kinds, result });
  return result;
}

/** Diffusion pipelines, which are folders of models; returns what is not of one. */
function takePipelines(files: readonly Dropped[], result: Recognised): Dropped[] {
  const roots = files
    .filter(({ path }) => baseName(path) === "model_index.json")
    .map(({ path }) => folderOf(path));
  const rest: Dropped[] = [];
  const groups = new Map(
    roots.map((folder) => [folder, { folder, label: baseName(folder), files: [] as Dropped[] }]),
  );
  for (const dropped of files) {
    const name = baseName(dropped.path);
    const folder = folderOf(dropped.path);
    const root = roots.find((root) => folderOf(folder) === root && folder !== root);
    if (root !== undefined && PART_WEIGHTS.test(name)) {
      groups.get(root)?.files.push({ ...dropped, part: `${baseName(folder)}/${name}` });
    } else if (root !== undefined || roots.includes(folder)) {
      result.ignored.push(dropped.path);
    } else {
      rest.push(dropped);
    }
  }
  result.bases.push(...[...groups.values()].filter((group) => group.files.length > 0));
  return rest;
}

interface Sorting {
  zone: "base" | "adapters";
  kinds: ReadonlyMap<File, WeightsKind>;
  result: Recognised;
}

/** Says what the files of one folder are, and adds them to the result. */
function sortFolder(folder: string, all: readonly Dropped[], { zone, kinds, result }: Sorting): void {
  const single = all.filter(({ file }) => isAdapterFile(file, kinds));
  for (const dropped of single) result.adapters.push(groupOfFile(folder, dropped));
  const members = all.filter((dropped) => !single.includes(dropped));
  const names = members.map((member) => baseName(member.path));
  const isAdapter = names.some((name) => ADAPTER_MARK.test(name));
  // A folder with a configuration and no weights is a part of something else (sentence-transformers
  // keeps `1_Pooling/config.json` under the model), unless somebody puts it on the base's zone by hand.
  const isBase =
    !isAdapter &&
    (names.some((name) => MODEL_WEIGHTS.test(name)) ||
      (zone === "base" && folder === "" && names.some(isModelFile)));
  const inModel = folder !== "" && (isAdapter || isBase);
  // Weights of a free name may be anything, such as a head that was saved beside an adapter: only where a base is
  // asked for, or where nothing is around them, are they one.
  const takesAny = !isAdapter && !isBase && (zone === "base" || folder === "");
  const hasWeights = members.some(({ file }) => kinds.get(file) === "weights");
  const whole = isBase || (takesAny && hasWeights && names.includes("config.json"));
  const group: Group = { folder, label: baseName(folder), files: [] };
  for (const member of members) {
    const name = baseName(member.path);
    const weights = kinds.get(member.file) === "weights";
    if (REPORT.test(name)) (inModel || isAdapter ? result.reports : result.recipes).push(member);
    else if ((isAdapter || whole) && belongs(name, isAdapter)) group.files.push(member);
    else if (takesAny && weights && whole) group.files.push(member);
    else if (takesAny && weights) result.bases.push(groupOfFile(folder, member));
    else if (isText(name) && !(inModel && !TEXT_BY_NAME.test(name))) result.texts.push(member);
    else result.ignored.push(member.path);
  }
  if (isAdapter) result.adapters.push(group);
  else if (whole && group.files.length > 0) result.bases.push(group);
}

/** Whether the one file is an adapter, whatever it is called. */
const isAdapterFile = (file: File, kinds: ReadonlyMap<File, WeightsKind>): boolean =>
  kinds.get(file) === "adapter" && !ADAPTER_MARK.test(file.name);

function groupOfFile(folder: string, dropped: Dropped): Group {
  const stem = baseName(dropped.path).replace(SAFETENSORS, "");
  return { folder, label: NAMELESS.test(stem) && folder !== "" ? baseName(folder) : stem, files: [dropped] };
}

/** Which of a model folder's files the program wants: pickles only where nothing else would be seen. */
function belongs(name: string, adapter: boolean): boolean {
  if (adapter)
    return ADAPTER_MARK.test(name) || PICKLE_OF_ADAPTER.test(name) || /^(config|labels)\.json$/i.test(name);
  return isModelFile(name) && !/^labels\.json$/i.test(name);
}

function byFolder(files: readonly Dropped[]): Map<string, Dropped[]> {
  const folders = new Map<string, Dropped[]>();
  for (const dropped of files) {
    const folder = folderOf(dropped.path);
    const members = folders.get(folder);
    if (members) members.push(dropped);
    else folders.set(folder, [dropped]);
  }
  return new Map([...folders].sort(([a], [b]) => a.localeCompare(b)));
}

/** What the assignment needs to know of an adapter. */
export interface Receiver {
  id: string;
  name: string;
  /** The folder it was dropped from, "" when its files were loose or picked by hand. */
  folder: string;
  hasSamples: boolean;
  hasHeldOut: boolean;
  /** The name of the file of samples that a recipe knows to be its. */
  source?: string | undefined;
}

export interface Assignment {
  text: Dropped;
  adapter: string;
  role: Role;
}

const HELD_OUT = /(^|[^a-z])(held[^a-z]*out|test|eval|evaluation|valid|validation|dev)([^a-z]|$)/i;
const plain = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, " ")
    .trim();

/** Of folders only this name counts: a folder `test` may just as well be somebody's attempts. */
const HELD_OUT_FOLDER = /^held[^a-z]*out$/i;

/** Whether a name holds one of these as whole words. */
export const namesOneOf = (name: string, names: readonly string[]): boolean =>
  names.some((one) => plain(one) !== "" && ` ${plain(name)} `.includes(` ${plain(one)} `));

/** Whether a folder's name says that it holds samples, whoever's. */
export const namesRole = (name: string): boolean => TEXT_BY_NAME.test(name);

/** A file's role by its name: `emoint.test.jsonl` and `held-out/emoint.jsonl` are held out, `emoint.txt` is for calibration. */
export function roleOf(path: string): Role {
  const heldOut = HELD_OUT.test(baseName(path)) || HELD_OUT_FOLDER.test(baseName(folderOf(path)));
  return heldOut ? "heldOut" : "samples";
}

/**
 * Gives each text file to the adapter it is meant for; what stays open is returned in `open`.
 * A file in an adapter's own folder is that adapter's; otherwise the longest adapter name that the
 * file's name holds decides; a single file left goes to the single adapter left without one.
 */
export function assign(
  texts: readonly Dropped[],
  receivers: readonly Receiver[],
): { assigned: Assignment[]; open: Dropped[] } {
  const assigned: Assignment[] = [];
  const taken = new Set<string>();
  for (const receiver of receivers) {
    if (receiver.hasSamples) taken.add(`samples ${receiver.id}`);
    if (receiver.hasHeldOut) taken.add(`heldOut ${receiver.id}`);
  }
  const give = (text: Dropped, adapter: string, role = roleOf(text.path)): boolean => {
    if (taken.has(`${role} ${adapter}`)) return false;
    taken.add(`${role} ${adapter}`);
    assigned.push({ text, adapter, role });
    return true;
  };

  let open = texts.filter((text) => {
    const sources = receivers.filter(({ source }) => source === baseName(text.path));
    const [known] = sources;
    if (known && sources.length === 1 && give(text, known.id, "samples")) return false;
    const receiver = meant(text, receivers);
    return !(receiver && give(text, receiver.id));
  });
  for (const role of ["samples", "heldOut"] as const) {
    const left = open.filter((text) => roleOf(text.path) === role);
    const lacking = receivers.filter((receiver) => !taken.has(`${role} ${receiver.id}`));
    const [text] = left;
    const [receiver] = lacking;
    // A name that points at one adapter is not handed to another one for want of a better.
    if (left.length === 1 && lacking.length === 1 && text && receiver && !meant(text, receivers)) {
      give(text, receiver.id);
      open = open.filter((other) => other !== text);
    }
  }
  return { assigned, open };
}

/** The adapter that a text file's place or name points at, if there is one. */
function meant(text: Dropped, receivers: readonly Receiver[]): Receiver | undefined {
  const folder = folderOf(text.path);
  if (folder !== "") {
    const inside = receivers.find((receiver) => receiver.folder === folder);
    if (inside) return inside;
    // `emoint/samples.txt` beside `emoint/adapter/adapter_config.json`.
    const below = receivers.filter((receiver) => receiver.folder.startsWith(`${folder}/`));
    if (below.length === 1) return below[0];
  }
  return named(baseName(text.path).replace(/\.[^.]*$/, ""), receivers) ?? named(baseName(folder), receivers);
}

/** The longest adapter name that `text` holds as whole words: `emotion cause` before `emotion`. */
function named(text: string, receivers: readonly Receiver[]): Receiver | undefined {
  const words = ` ${plain(text)} `;
  return receivers
    .filter((receiver) => plain(receiver.name) !== "" && words.includes(` ${plain(receiver.name)} `))
    .sort((a, b) => plain(b.name).length - plain(a.name).length)[0];
}

/** `wanted`, or `wanted 2`, `wanted 3`, … when the name is taken: adapters are told apart by name. */
export function freeName(wanted: string, taken: readonly string[]): string {
  const base = wanted.trim() || "adapter";
  const lower = new Set(taken.map((name) => name.toLowerCase()));
  if (!lower.has(base.toLowerCase())) return base;
  for (let number = 2; ; number += 1) {
    const name = `${base} ${number}`;
    if (!lower.has(name.toLowerCase())) return name;
  }
}
