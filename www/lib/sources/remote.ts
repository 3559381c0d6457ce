/**
 * A file at an address, read by HTTP range requests.
 *
 * A server may ignore `Range` (then the whole file came and is kept as a Blob), and a cross-origin server may hide
 * `Content-Range` (then the length is asked for by `HEAD`). A short or shifted answer must not be taken for the tensor
 * that was asked for; so every answer's status and length are checked.
 */
import { IterisError } from "../errors.ts";
import type { SourceFile } from "../wasm-interface.ts";

async function request(url: string, name: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { ...init, credentials: "same-origin" });
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new IterisError(
      "read_failed",
      `The server cannot be reached or forbids reading (${why}): ${name}`,
      {
        cause,
      },
    );
  }
  if (!response.ok && response.status !== 416) {
    throw new IterisError("read_failed", `The server answers ${response.status}: ${name}`);
  }
  return response;
}

/** The total in `bytes 0-0/1234`, if the server tells it. */
function totalOf(response: Response): number | null {
  const match = /\/(\d+)$/.exec(response.headers.get("content-range") ?? "");
  return match?.[1] === undefined ? null : Number(match[1]);
}

async function lengthByHead(url: string, name: string): Promise<number> {
  const header = (await request(url, name, { method: "HEAD" })).headers.get("content-length");
  if (header === null || !/^\d+$/.test(header)) {
    throw new IterisError("read_failed", `The server does not tell the file's length: ${name}`);
  }
  return Number(header);
}

/** Finds out the length of the file at `url` and how to read it. */
export async function openRemote(name: string, url: string): Promise<SourceFile> {
  const first = await request(url, name, { headers: { range: "bytes=0-0" } });
  if (first.status === 416) return { name, size: 0, blob: new Blob([]) };
  if (first.status !== 206) {
    const blob = await first.blob();
    return { name, size: blob.size, blob };
  }
  const size = totalOf(first) ?? (await lengthByHead(url, name));
  await first.body?.cancel();
  return {
    name,
    size,
    url,
    async read(start, end) {
      if (end <= start) return new Uint8Array();
      const response = await request(url, name, { headers: { range: `bytes=${start}-${end - 1}` } });
      if (response.status !== 206) {
        throw new IterisError("read_failed", `The server stopped answering range requests: ${name}`);
      }
      const bytes = new Uint8Array(await response.arrayBuffer());
      if (bytes.length !== end - start) {
        throw new IterisError(
          "read_failed",
          `The server sent ${bytes.length} bytes where ${end - start} were asked for: ${name}`,
        );
      }
      return bytes;
    },
  };
}
