// Where things lie: the checkout, and a folder outside it for what is slow to make and worth keeping.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

export const root = dirname(import.meta.dirname);

/** `ITERIS_CACHE`, or `iteris-web` in the user's cache folder: build outputs, the Python environment, the test model. */
export const cache =
  process.env.ITERIS_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "iteris-web");

export const nativeTarget = join(cache, "target");
export const wasmTarget = join(cache, "target-wasm");
export const peersFolder = join(cache, "peers");

export const glueFolder = join(root, "www/wasm");
export const distFolder = join(root, "dist");
export const pageFolder = join(root, "build/page");

/** @param {string | Uint8Array} bytes */
export function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

/** A command of an installed npm package. @param {string} name */
export function npmBin(name) {
  return join(root, "node_modules/.bin", name);
}

/**
 * Does `make` unless the last time it ran to its end, it ran for the same `key`.
 * @param {string} file where the key of the last time is kept
 * @param {string} key everything that the result depends on
 * @param {() => void | Promise<void>} make
 */
export async function once(file, key, make) {
  if (existsSync(file) && readFileSync(file, "utf8") === key) return false;
  await make();
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, key);
  return true;
}
