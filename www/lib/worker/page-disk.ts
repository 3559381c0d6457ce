/**
 * This page's folder in the origin private file system, where its worker puts results that are too large for memory.
 *
 * Results must outlive the worker, which is replaced after a cancel, and must not outlive the page, which alone can
 * save them. So the page holds a lock of its folder's name, and a folder whose lock nobody holds is removed by
 * whichever page comes next.
 */
import { removeFolder } from "../engine/origin-disk.ts";
import type { OutputFile } from "../types.ts";

/** All pages' folders lie in one. */
const root = "iteris-web";

const lockOf = (name: string) => `${root}/${name}`;

/** Removes the folders of pages that are closed. */
async function clearAbandoned(): Promise<void> {
  const { held = [] } = await navigator.locks.query();
  const alive = new Set(held.map(({ name }) => name));
  const storage = await navigator.storage.getDirectory();
  const folder = await storage.getDirectoryHandle(root, { create: true });
  for await (const name of folder.keys()) {
    if (!alive.has(lockOf(name))) await removeFolder(lockOf(name));
  }
}

/**
 * Takes a folder for this page and clears away those of closed pages.
 *
 * @returns its path; `null` where the browser has no such disk, or does not give it
 */
export async function takePageDisk(): Promise<string | null> {
  try {
    if (!("locks" in navigator) || navigator.storage?.getDirectory === undefined) return null;
    const name = crypto.randomUUID();
    await new Promise<void>((held, refused) => {
      const untilClosed = () => {
        held();
        return new Promise(() => {});
      };
      navigator.locks.request(lockOf(name), untilClosed).catch(refused);
    });
    await clearAbandoned();
    return lockOf(name);
  } catch {
    return null;
  }
}

/** Removes from disk what nobody will save any more. */
export async function discard(files: readonly OutputFile[]): Promise<void> {
  const folders = new Set(files.flatMap(({ onDisk }) => onDisk ?? []));
  await Promise.all([...folders].map(removeFolder));
}
