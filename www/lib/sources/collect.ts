/**
 * From what a caller has (pickers, handles, Blobs, addresses) to names with Blobs or addresses.
 *
 * The kinds are told apart by their members: `instanceof` fails for objects of another realm and for classes that Node
 * lacks.
 */
import { IterisError } from "../errors.ts";
import type { FileInput, FilesInput, NamedBlob, NamedUrl, SamplesInput } from "../types.ts";
import { nameOfUrl, normalName, withoutSharedFolder } from "./names.ts";
import type { WireFile, WireSamples } from "./wire.ts";

type Handle = FileSystemFileHandle | FileSystemDirectoryHandle;

function isHandle(input: object): input is Handle {
  return "kind" in input && (input.kind === "file" || input.kind === "directory");
}

function isNamedBlob(input: object): input is NamedBlob {
  return "blob" in input && input.blob instanceof Blob;
}

function isNamedUrl(input: object): input is NamedUrl {
  return "url" in input && (typeof input.url === "string" || input.url instanceof URL);
}

/** Addresses may be relative to the page; the worker's own address is another one. */
function absolute(url: string | URL): string {
  const here = globalThis.location?.href;
  try {
    return new URL(url, here).href;
  } catch (cause) {
    throw new IterisError("read_failed", `This is not an address: ${String(url)}`, { cause });
  }
}

function wireUrl({ name, url }: NamedUrl): { name: string; url: string } {
  const address = absolute(url);
  return { name: name ?? nameOfUrl(address), url: address };
}

/** Everything below a directory; its own name is no part of the names. */
async function walk(directory: FileSystemDirectoryHandle, prefix: string): Promise<WireFile[]> {
  const files: WireFile[] = [];
  for await (const child of directory.values()) {
    const name = prefix + child.name;
    // Version control is no part of a model and can hold thousands of files.
    if (child.kind === "file") files.push({ name, blob: await (child as FileSystemFileHandle).getFile() });
    else if (child.name !== ".git")
      files.push(...(await walk(child as FileSystemDirectoryHandle, `${name}/`)));
  }
  return files;
}

async function wireFiles(input: FileInput): Promise<WireFile[]> {
  if (typeof input === "object" && input !== null) {
    if (isHandle(input)) {
      return input.kind === "directory"
        ? walk(input, "")
        : [{ name: input.name, blob: await input.getFile() }];
    }
    if (isNamedBlob(input)) return [{ name: input.name, blob: input.blob }];
    if (isNamedUrl(input)) return [wireUrl(input)];
    if (input instanceof File) {
      // A folder picker puts the folder's own name first.
      const inside = input.webkitRelativePath?.split("/").slice(1).join("/");
      return [{ name: inside || input.name, blob: input }];
    }
  }
  throw new IterisError(
    "read_failed",
    "A file must be a File, a file or directory handle, { name, blob } or { name, url }.",
  );
}

/** The files of a folder, named as inside it, sorted by name. */
export async function collectFiles(input: FilesInput): Promise<WireFile[]> {
  const list: readonly FileInput[] =
    typeof input === "object" && input !== null && "kind" in input ? [input] : Array.from(input ?? []);
  const nested = await Promise.all(list.map(wireFiles));
  return withoutSharedFolder(nested.flat()).sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

/** Samples, without parsing them yet. */
export async function collectSamples(input: SamplesInput): Promise<WireSamples> {
  if (Array.isArray(input)) return { list: input };
  if (typeof input === "object" && input !== null) {
    const one = input as Exclude<SamplesInput, readonly unknown[]>;
    if ("pictures" in one) return { pictures: await collectFiles(one.pictures), name: one.name ?? null };
    if (isHandle(one) && one.kind === "directory") {
      return { pictures: await collectFiles(one), name: one.name };
    }
    if (isHandle(one)) return { name: one.name, blob: await one.getFile() };
    if (isNamedBlob(one)) return { name: normalName(one.name), blob: one.blob };
    if (isNamedUrl(one)) return wireUrl(one);
    if (one instanceof Blob) return { name: one instanceof File ? one.name : null, blob: one };
  }
  throw new IterisError(
    "samples_invalid",
    "Samples must be a file (.txt, .jsonl, .json, .csv, .tsv, .parquet with pictures), a list of texts, a list of { text, label }, or a folder of pictures.",
  );
}
