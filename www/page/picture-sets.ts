/**
 * Which of the dropped files are samples in pictures, and which of those belong together: a set is a folder of pictures with
 * what is said of them, or a folder with a folder for each class inside.
 *
 * Pictures lie about elsewhere too: previews beside adapters, drawings of a model's card. Where a folder holds weights, its
 * pictures are nobody's samples.
 */
import { pictureParts } from "../lib/index.ts";
import { baseName, type Dropped, folderOf, isHidden, namesOneOf, namesRole } from "./recognise.ts";

const WEIGHTS = /\.(safetensors|bin|pt|ckpt|gguf)$/i;

/** Whether there is a picture among the files. */
export const anyPicture = (files: readonly Dropped[]): boolean =>
  pictureParts(files.map(({ path }) => path)).pictures.size > 0;

/**
 * Of dropped files those that are samples in pictures, each set as one, and the rest as it was.
 *
 * @param adapters - names of adapters: a folder of that name is a set of its own
 */
export function takePictureSets(
  files: readonly Dropped[],
  adapters: readonly string[],
): { sets: Dropped[]; rest: Dropped[] } {
  const visible = files.filter((dropped) => !isHidden(dropped));
  const { pictures, metadata, captions } = pictureParts(visible.map(({ path }) => path));
  const weights = files.filter(({ path }) => WEIGHTS.test(path)).map(({ path }) => path);
  const samples = new Set([...pictures].filter((path) => isSample(path, weights)));
  const roots = rootsOf([...samples], [...metadata], adapters);
  const rootOf = (path: string): string | undefined => {
    if (samples.has(path)) return roots.get(folderOf(path));
    if (!metadata.has(path) && !captions.has(path)) return undefined;
    return [...roots.values()].find((root) => isInside(path, root));
  };
  const sets = new Map<string, Dropped[]>();
  const rest: Dropped[] = [];
  for (const dropped of files) {
    const root = rootOf(dropped.path);
    if (root === undefined) rest.push(dropped);
    else sets.set(root, [...(sets.get(root) ?? []), dropped]);
  }
  return { sets: [...sets].flatMap(([root, members]) => pictureSet(members, root)), rest };
}

/**
 * Files as one set; none where there are no files.
 *
 * @param root - the folder that all are in; left out, the outermost that they share
 */
export function pictureSet(files: readonly Dropped[], root: string = sharedFolder(files)): Dropped[] {
  const pictures = files.toSorted((a, b) => (a.path < b.path ? -1 : 1));
  const [first] = pictures;
  if (!first) return [];
  // One picture is called as it is; several that lie in no folder have no name.
  const path = root !== "" ? root : pictures.length === 1 ? first.path : "pictures";
  return [{ path, file: first.file, pictures }];
}

function sharedFolder(files: readonly Dropped[]): string {
  const tops = new Set(files.map(({ path }) => (path.includes("/") ? path.slice(0, path.indexOf("/")) : "")));
  const [top = ""] = tops;
  return tops.size === 1 ? top : "";
}

function isSample(path: string, weights: readonly string[]): boolean {
  const folder = folderOf(path);
  // `ink.preview.png` beside `ink.safetensors`.
  const beside = weights.filter((file) => folderOf(file) === folder);
  if (folder === "") return !beside.some((file) => path.startsWith(file.replace(WEIGHTS, "")));
  if (beside.length > 0) return false;
  const models = weights.map(folderOf).filter((model) => model !== "" && folder.startsWith(`${model}/`));
  return models.every((model) => folder.slice(model.length).split("/").some(namesRole));
}

const isInside = (path: string, root: string): boolean =>
  root === "" ? !path.includes("/") : path.startsWith(`${root}/`);

/** The folder of the set that each folder of pictures is of. */
function rootsOf(
  pictures: readonly string[],
  metadata: readonly string[],
  adapters: readonly string[],
): Map<string, string> {
  const folders = [...new Set(pictures.map(folderOf))];
  const described = new Set(metadata.map(folderOf));
  const speaks = (folder: string): boolean =>
    namesRole(baseName(folder)) || namesOneOf(baseName(folder), adapters);
  const rootOf = (folder: string): string => {
    for (let above = folder; above !== ""; above = folderOf(above)) {
      if (described.has(above)) return above;
    }
    const parent = folderOf(folder);
    if (parent === "" || speaks(folder)) return folder;
    const siblings = folders.filter((other) => folderOf(other) === parent);
    // Folders that say nothing of themselves, side by side, are classes.
    const areClasses = siblings.length > 1 && !siblings.some(speaks);
    return speaks(parent) || areClasses ? parent : folder;
  };
  return new Map(folders.map((folder) => [folder, rootOf(folder)]));
}
