/**
 * Hidden folders that are being written, and what is left of them when their process was killed.
 *
 * A folder's name tells whose it is: `.merged-unfinished-<machine>-<process id>-<random>`. So it has an owner from the
 * moment it is there, and a run on another machine that shares the disk is not taken for a dead one.
 */
import { readdir, rename, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";

const suffixReplaced = "-replaced";

const machine = () => encodeURIComponent(hostname());

/** What the name of this process's hidden folder begins with; a random end follows. */
export function unfinishedPrefix(name: string): string {
  return `.${name}-unfinished-${machine()}-${process.pid}-`;
}

/** Where the folder that `work` replaces waits for the moment in which it does. */
export function replacedBy(work: string): string {
  return `${work}${suffixReplaced}`;
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    // A process that may not be signalled is one that is there.
    return (cause as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

/** Whether a hidden folder of `prefix` belongs to a process of this machine that is gone. */
function isAbandoned(name: string, prefix: string): boolean {
  if (!name.startsWith(prefix)) return false;
  const owner = /^(\d+)-[^-]+(-replaced)?$/.exec(name.slice(prefix.length));
  return owner?.[1] !== undefined && !isRunning(Number(owner[1]));
}

/**
 * Removes what killed runs to `target` have left beside it. A folder that was about to be replaced when the run was
 * killed gets its name back.
 */
export async function clearAbandoned(target: string): Promise<void> {
  const parent = dirname(target);
  const prefix = `.${basename(target)}-unfinished-${machine()}-`;
  const names = await readdir(parent).catch((): string[] => []);
  for (const name of names.filter((name) => isAbandoned(name, prefix))) {
    const path = join(parent, name);
    if (name.endsWith(suffixReplaced) && !names.includes(basename(target))) await rename(path, target);
    else await rm(path, { recursive: true, force: true });
  }
}
