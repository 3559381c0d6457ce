import { type AdapterInput, IterisError, merge } from "iteris-web";

interface Manifest {
  base: string[];
  adapters: { name: string; files: string[]; samples: string }[];
}

async function file(path: string): Promise<File> {
  const response = await fetch(`/example/${path}`);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return new File([await response.blob()], path.slice(path.lastIndexOf("/") + 1));
}

/** Merges the example; the files it makes, each as base64. */
async function mergeExample(): Promise<Record<string, string>> {
  const manifest: Manifest = await (await fetch("/example/example.json")).json();
  const adapters: AdapterInput[] = [];
  for (const { name, files, samples } of manifest.adapters) {
    adapters.push({ name, files: await Promise.all(files.map(file)), samples: await file(samples) });
  }
  const base = await Promise.all(manifest.base.map(file));
  const { files } = await merge({
    ...{ base, adapters, device: "cpu", options: { schedule: "sweep" } },
    // As in ../../example.ts.
    workers: 2,
  });
  const made: Record<string, string> = {};
  for (const { name, blob } of files) {
    made[name] = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(String(reader.result).replace(/^.*,/, ""));
      reader.readAsDataURL(blob);
    });
  }
  return made;
}

/** The code of the error of a merge of no adapters. */
async function mergeNothing(): Promise<string> {
  try {
    const manifest: Manifest = await (await fetch("/example/example.json")).json();
    await merge({ base: await Promise.all(manifest.base.map(file)), adapters: [] });
    return "none";
  } catch (error) {
    return error instanceof IterisError ? error.code : "untyped";
  }
}

Object.assign(globalThis, { mergeExample, mergeNothing });
