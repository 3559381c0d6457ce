/** Samples of a task, texts or pictures, from what crosses to the worker. */
import { openFile, openFiles } from "../sources/open.ts";
import type { WireSamples } from "../sources/wire.ts";
import { isParquet } from "./parquet.ts";
import { picturesOf } from "./picture-files.ts";
import { isPicture, type TaskSet } from "./pictures.ts";
import { readTexts } from "./read.ts";

/** Whether one file is, or holds, pictures by its name. */
export function holdsPictures(name: string): boolean {
  return isPicture(name) || isParquet(name);
}

/** Opens pictures, or reads and parses texts. */
export async function openSamples(source: WireSamples): Promise<TaskSet> {
  if ("pictures" in source) return picturesOf(await openFiles(source.pictures), source.name);
  if ("list" in source || source.name === null || !holdsPictures(source.name)) return readTexts(source);
  const file = "url" in source ? source : { name: source.name, blob: source.blob };
  return picturesOf([await openFile(file)], source.name);
}
