/** Samples of a task, texts or pictures, from what crosses to the worker. */
import { openFiles } from "../sources/open.ts";
import type { WireSamples } from "../sources/wire.ts";
import { picturesOf, type TaskSet } from "./pictures.ts";
import { readTexts } from "./read.ts";

/** Opens pictures, or reads and parses texts. */
export async function openSamples(source: WireSamples): Promise<TaskSet> {
  if ("pictures" in source) return picturesOf(await openFiles(source.pictures), source.name);
  return readTexts(source);
}
