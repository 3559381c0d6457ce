/**
 * Files and samples in the form that crosses to the worker.
 *
 * A `File` loses its folder on the way, a directory handle would be walked late and errors would come from
 * another thread; so inputs are turned into names with Blobs or addresses before they are posted.
 */
import type { Sample } from "../types.ts";

/** A file by its Blob (cheap to post: the bytes stay where they are) or by its address. */
export type WireFile = { name: string; blob: Blob } | { name: string; url: string };

/** Texts as a file that is still to be parsed, or as they were given. */
export type WireTexts =
  | { name: string | null; blob: Blob }
  | { name: string; url: string }
  | { list: readonly (string | Sample)[] };

/** Samples: texts, or files of pictures. */
export type WireSamples = WireTexts | { pictures: readonly WireFile[]; name: string | null };
