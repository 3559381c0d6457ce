/**
 * Saving: one file, all files as a zip, or all into a folder the person picks.
 *
 * A merged base model may be gigabytes. Files are therefore read in pieces, the zip is stored rather than compressed
 * (weights do not shrink), and where it would pass the 4 GB that the zip format allows without extensions, only files
 * and folder are offered.
 */
import { Zip, ZipPassThrough } from "fflate";
import type { OutputFile } from "../lib/index.ts";

const PIECE_BYTES = 4 << 20;
/** How much of a zip is gathered before it is handed to the browser, which may keep it on disk. */
const BLOB_BYTES = 64 << 20;
export const ZIP_LIMIT_BYTES = 4_000_000_000;

export const totalBytes = (files: readonly OutputFile[]): number =>
  files.reduce((sum, { blob }) => sum + blob.size, 0);

/** All files under one folder name, as PEFT's `from_pretrained` wants them after unpacking. */
export async function zip(files: readonly OutputFile[], folder: string): Promise<Blob> {
  const blobs: Blob[] = [];
  let pending: Uint8Array<ArrayBuffer>[] = [];
  let pendingBytes = 0;
  let failure: Error | undefined;
  const flush = (): void => {
    blobs.push(new Blob(pending));
    pending = [];
    pendingBytes = 0;
  };
  const archive = new Zip((error, chunk) => {
    if (error) {
      failure = error;
      return;
    }
    pending.push(chunk as Uint8Array<ArrayBuffer>);
    pendingBytes += chunk.length;
    if (pendingBytes >= BLOB_BYTES) flush();
  });
  for (const { name, blob } of files) {
    const entry = new ZipPassThrough(`${folder}/${name}`);
    // A fixed time, so that the same merge gives the same zip.
    entry.mtime = "2000-01-01T00:00:00";
    archive.add(entry);
    for (let start = 0; start < blob.size; start += PIECE_BYTES) {
      entry.push(new Uint8Array(await blob.slice(start, start + PIECE_BYTES).arrayBuffer()));
    }
    entry.push(new Uint8Array(0), true);
  }
  archive.end();
  if (failure) throw failure;
  flush();
  return new Blob(blobs, { type: "application/zip" });
}

/** Has the browser save a blob under a name. */
export function saveBlob(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The browser has opened the blob by then; without this it would be kept until the page is left.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

interface FolderPicker {
  showDirectoryPicker(options: { mode: "readwrite"; id?: string }): Promise<FileSystemDirectoryHandle>;
}

/** Chrome and its kin can write into a folder; elsewhere the zip does. */
export const canPickFolder = (scope: object): scope is FolderPicker => "showDirectoryPicker" in scope;

/**
 * Writes all files into a new or existing folder `name` inside the one that the person picks.
 *
 * @returns the name of the folder that was picked, or `undefined` if none was
 */
export async function saveToFolder(
  scope: FolderPicker,
  files: readonly OutputFile[],
  name: string,
): Promise<string | undefined> {
  let picked: FileSystemDirectoryHandle;
  try {
    picked = await scope.showDirectoryPicker({ mode: "readwrite", id: "iteris" });
  } catch (thrown) {
    if (thrown instanceof DOMException && thrown.name === "AbortError") return undefined;
    throw thrown;
  }
  const target = await picked.getDirectoryHandle(name, { create: true });
  for (const file of files) {
    const parts = file.name.split("/");
    const last = parts.pop() ?? file.name;
    let folder = target;
    for (const part of parts) folder = await folder.getDirectoryHandle(part, { create: true });
    const handle = await folder.getFileHandle(last, { create: true });
    const sink = await handle.createWritable();
    await file.blob.stream().pipeTo(sink);
  }
  return picked.name;
}
