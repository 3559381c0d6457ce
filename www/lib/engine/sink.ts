/** Where the files of a merge go. */
import type { OutputFile } from "../types.ts";
import type { SourceFile } from "../wasm-interface.ts";

/** Takes the files of a merge as they are written, piece by piece. */
export interface Sink {
  write(file: string, bytes: Uint8Array): Promise<void>;
  /** What was written, to be read again by a comparison. */
  sources(): Promise<SourceFile[]>;
}

/** The finished files of a sink that keeps them; none of one that writes them elsewhere. */
export function filesIn(sink: Sink): OutputFile[] {
  return sink instanceof BlobSink ? sink.files() : [];
}

/** Keeps the files as Blobs, which browsers move out of memory where they are large. */
export class BlobSink implements Sink {
  readonly #parts = new Map<string, Blob[]>();

  async write(file: string, bytes: Uint8Array): Promise<void> {
    const parts = this.#parts.get(file) ?? [];
    // Making a Blob copies: `bytes` may be a view into memory that wasm uses again.
    parts.push(new Blob([bytes as Uint8Array<ArrayBuffer>]));
    this.#parts.set(file, parts);
  }

  /** The finished files. */
  files(): OutputFile[] {
    return [...this.#parts].map(([name, parts]) => ({
      name,
      blob: new Blob(parts, {
        type: name.endsWith(".json") ? "application/json" : "application/octet-stream",
      }),
    }));
  }

  async sources(): Promise<SourceFile[]> {
    return this.files().map(({ name, blob }) => ({ name, size: blob.size, blob }));
  }
}
