/** The built-in examples' files, laid out on disk as a person would have them. */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, extname, join } from "node:path";
import { root } from "../../xtask/paths.mjs";

interface Manifest {
  base: string[];
  /** `samples` and `heldOut` are a file of texts, or pictures with what is said of them. */
  adapters: { name: string; files: string[]; samples: string | string[]; heldOut?: string | string[] }[];
}

/** Where each example lies. */
const sources = {
  classifiers: join(root, "www/example"),
  writers: join(root, "www/example/generative"),
  pictures: join(root, "www/example/pictures"),
};

/** One of the built-in examples. */
export type ExampleName = keyof typeof sources;

/** The example's manifest, as the page reads it. */
export const readManifest = (name: ExampleName = "classifiers"): Manifest =>
  JSON.parse(readFileSync(join(sources[name], "example.json"), "utf8")) as Manifest;

export interface ExampleFolder {
  /** Holds everything below. */
  folder: string;
  base: string;
  adapters: { name: string; folder: string; samples: string; heldOut: string | undefined }[];
}

/** Copies the example to a temporary folder: `base/`, a folder an adapter, and their samples beside them. */
export function layOutExample(name: ExampleName = "classifiers"): ExampleFolder {
  const manifest = readManifest(name);
  const folder = mkdtempSync(join(tmpdir(), "iteris-page-"));
  const copy = (file: string, to: string): string => {
    copyFileSync(join(sources[name], file), to);
    return to;
  };
  const base = join(folder, "base");
  mkdirSync(base);
  for (const file of manifest.base) copy(file, join(base, basename(file)));
  const adapters = manifest.adapters.map(({ name, files, samples, heldOut }) => {
    const own = join(folder, name);
    mkdirSync(own);
    for (const file of files) copy(file, join(own, basename(file)));
    const put = (files: string | string[], as: string): string => {
      if (typeof files === "string") return copy(files, join(folder, `${as}${extname(files)}`));
      mkdirSync(join(folder, as));
      for (const file of files) copy(file, join(folder, as, basename(file)));
      return join(folder, as);
    };
    return {
      name,
      folder: own,
      samples: put(samples, `${name}.samples`),
      heldOut: heldOut && put(heldOut, `${name}.test`),
    };
  });
  return { folder, base, adapters };
}
