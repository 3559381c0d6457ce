/**
 * From a drop or a picker to a flat list of files with their paths.
 *
 * A `DataTransfer` is emptied as soon as the event handler returns, so every entry is taken from it before the first
 * `await`.
 */
import type { Dropped } from "./recognise.ts";

/** The files of a drop; folders are read through to the bottom. */
export async function filesOfDrop(transfer: DataTransfer): Promise<Dropped[]> {
  const entries: FileSystemEntry[] = [];
  const loose: Dropped[] = [];
  for (const item of transfer.items) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry();
    if (entry) {
      entries.push(entry);
    } else {
      const file = item.getAsFile();
      if (file) loose.push({ path: file.name, file });
    }
  }
  const read = await Promise.all(entries.map((entry) => filesOfEntry(entry)));
  return [...loose, ...read.flat()];
}

/** The files of an `<input type="file">`, with folder paths where a folder was chosen. */
export function filesOfInput(input: HTMLInputElement): Dropped[] {
  return [...(input.files ?? [])].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

async function filesOfEntry(entry: FileSystemEntry): Promise<Dropped[]> {
  if (isFile(entry)) {
    const file = await new Promise<File>((resolve, reject) => {
      entry.file(resolve, reject);
    });
    return [{ path: entry.fullPath.replace(/^\//, ""), file }];
  }
  if (!isDirectory(entry)) return [];
  const reader = entry.createReader();
  const children: FileSystemEntry[] = [];
  // A reader hands out at most a hundred entries at a time, and none when it is done.
  for (;;) {
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => {
      reader.readEntries(resolve, reject);
    });
    if (batch.length === 0) break;
    children.push(...batch);
  }
  return (await Promise.all(children.map((child) => filesOfEntry(child)))).flat();
}

const isFile = (entry: FileSystemEntry): entry is FileSystemFileEntry => entry.isFile;
const isDirectory = (entry: FileSystemEntry): entry is FileSystemDirectoryEntry => entry.isDirectory;

/** Whether what is being dragged holds files (a dragged text selection does not). */
export const carriesFiles = (event: DragEvent): boolean =>
  event.dataTransfer?.types.includes("Files") ?? false;

/**
 * Makes the whole document take drops: a file let go beside a zone would otherwise make the browser
 * leave the page and lose everything. `onDrop` learns the zone under the pointer, if any.
 */
export function acceptDrops(
  onDrop: (files: Promise<Dropped[]>, zone: HTMLElement | undefined) => void,
): void {
  let marked: HTMLElement | undefined;
  const mark = (zone: HTMLElement | undefined): void => {
    if (zone === marked) return;
    marked?.removeAttribute("data-over");
    zone?.setAttribute("data-over", "");
    marked = zone;
  };
  const zoneOf = (event: DragEvent): HTMLElement | undefined =>
    event.target instanceof Element
      ? (event.target.closest<HTMLElement>("[data-zone]") ?? undefined)
      : undefined;

  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    if (event.dataTransfer) event.dataTransfer.dropEffect = "copy";
    mark(zoneOf(event));
    document.documentElement.setAttribute("data-dragging", "");
  });
  const stop = (): void => {
    mark(undefined);
    document.documentElement.removeAttribute("data-dragging");
  };
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) stop();
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event) || !event.dataTransfer) return;
    event.preventDefault();
    stop();
    onDrop(filesOfDrop(event.dataTransfer), zoneOf(event));
  });
}
