/** Pictures that are asked about, each by itself, without captions and labels. */
import { IterisError } from "../errors.ts";
import { collectFiles } from "../sources/collect.ts";
import type { WireFile } from "../sources/wire.ts";
import type { FileInput, ImageInput } from "../types.ts";
import { isPicture } from "./pictures.ts";

/**
 * The pictures that a caller gives, in order; of a folder those in it, by name.
 *
 * @throws IterisError `option_invalid` where there are none, `read_failed` for what is no file
 */
export async function collectImages(image: ImageInput | readonly ImageInput[]): Promise<WireFile[]> {
  const list = Array.isArray(image) ? image : [image];
  const nested = await Promise.all(list.map((one: ImageInput, i) => filesOf(one, i + 1)));
  return someImages(nested.flat());
}

/** @throws IterisError `option_invalid` for none */
export function someImages<T>(images: T[]): T[] {
  if (images.length > 0) return images;
  throw new IterisError(
    "option_invalid",
    "image holds no picture; give one or several (.png, .jpg, .webp, .gif or .bmp).",
  );
}

async function filesOf(image: ImageInput, number: number): Promise<WireFile[]> {
  if (image instanceof Blob && !(image instanceof File)) return [{ name: `picture ${number}`, blob: image }];
  const files = await collectFiles([image as FileInput]);
  const isFolder = "kind" in image && image.kind === "directory";
  return isFolder ? files.filter(({ name }) => isPicture(name)) : files;
}
