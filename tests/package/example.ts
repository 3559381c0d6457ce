/** The merge of the built-in example that every installed package must repeat, made with this checkout's dist/. */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { distFolder, root } from "../../xtask/paths.mjs";

export const exampleFolder = join(root, "www/example");

interface Manifest {
  base: string[];
  adapters: { name: string; files: string[]; samples: string }[];
}

/** Two share the work everywhere: their number decides in which order sums are added up. */
export const WORKERS = 2;

/** The example's inputs as folders and files. */
export function exampleInputs() {
  const manifest: Manifest = JSON.parse(readFileSync(join(exampleFolder, "example.json"), "utf8"));
  const folderOf = (files: string[]) => dirname(join(exampleFolder, files[0] ?? ""));
  return {
    base: folderOf(manifest.base),
    workers: WORKERS,
    adapters: manifest.adapters.map(({ name, files, samples }) => ({
      name,
      files: folderOf(files),
      samples: join(exampleFolder, samples),
    })),
  };
}

/** Name and base64 of every file of the merge, but for the report: that one tells seconds. */
export type Made = Record<string, string>;

let inTree: Promise<Made> | undefined;

/** The merge with the build of this checkout, on the CPU device: made once for all files. */
export function mergeInTree(): Promise<Made> {
  inTree ??= mergeNow();
  return inTree;
}

async function mergeNow(): Promise<Made> {
  // Not the sources: a thread is a file of its own, and Node cannot read TypeScript.
  const built = pathToFileURL(join(distFolder, "node.js")).href;
  const { merge }: typeof import("../../www/node/index.ts") = await import(built);
  const { files } = await merge({ ...exampleInputs(), device: "cpu", options: { schedule: "sweep" } });
  const made: Made = {};
  for (const { name, blob } of files) made[name] = Buffer.from(await blob.arrayBuffer()).toString("base64");
  return withoutReport(made);
}

export function withoutReport({ "merge_report.json": report, ...rest }: Made): Made {
  if (report === undefined) throw new Error(`no merge_report.json among ${Object.keys(rest).join(", ")}`);
  return rest;
}
