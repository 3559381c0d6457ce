/**
 * A stand-in for the wasm module: it merges nothing, but reports progress, writes files, fails and hangs as
 * the core can. What it computes is not looked at by any test.
 */
import type { BaseFacts, MergeOptions, MergeReport } from "../../www/lib/types.ts";
import type { AdapterSource, IterisWasm, Observer, WasmDevice } from "../../www/lib/wasm-interface.ts";

/** What a fake merge was given. */
export interface Seen {
  adapters: AdapterSource[];
  options: Partial<MergeOptions>;
  device: WasmDevice;
}

/** How the fake behaves. */
export interface FakeBehaviour {
  /** Steps of a merge; each reports progress. */
  steps?: number;
  /** Called instead of the steps. */
  merge?: (observer: Observer) => Promise<void>;
  seen?: Seen[];
}

/** As the core throws: an `Error` with a `code`. */
export function coreError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}

const facts = { family: "bert", maxLength: 16 } as BaseFacts;

/** A module that behaves so. */
export function fakeWasm({ steps = 3, merge, seen }: FakeBehaviour = {}): IterisWasm {
  const device = (kind: "cpu" | "webgpu"): WasmDevice => ({ kind, free() {} });
  return {
    default: async () => {},
    version: () => "0.0.0",
    defaultOptions: () => ({ method: "iteris" }) as MergeOptions,
    Device: { cpu: () => device("cpu"), webgpu: async () => device("webgpu") },
    inspectBase: async () => facts,
    inspectAdapter: async () => {
      throw coreError("adapter_unsupported", "DoRA is not handled.");
    },
    async merge({ adapters, options }, device, observer) {
      seen?.push({ adapters, options, device });
      if (adapters.length === 0) throw coreError("no_adapters", "Give at least one adapter.");
      if (merge !== undefined) await merge(observer);
      for (let done = 0; merge === undefined && done < steps; done += 1) {
        const progress = {
          stage: "solve" as const,
          layer: `layer ${done}`,
          done,
          total: steps,
          seconds: done,
        };
        if (!(await observer.progress(progress))) throw coreError("cancelled", "The work was cancelled.");
      }
      await observer.write("adapter_model.safetensors", Uint8Array.of(1, 2));
      await observer.write("adapter_model.safetensors", Uint8Array.of(3));
      await observer.write("merge_report.json", new TextEncoder().encode("{}"));
      return { version: 1, options: { method: options.method ?? "iteris" } } as MergeReport;
    },
    async compare({ merged }) {
      const notes = merged.map(({ name, files }) => `${name}: ${files.map((file) => file.name).join(" ")}`);
      return { tasks: [], residuals: [], seconds: 0, notes };
    },
  };
}

/** A base model's files with the smallest tokenizer there is. */
export function tinyBase(): { name: string; blob: Blob }[] {
  const tokenizer = {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: null,
    decoder: null,
    model: {
      type: "WordPiece",
      unk_token: "?",
      continuing_subword_prefix: "##",
      vocab: { "?": 0, a: 1, b: 2 },
    },
  };
  return [
    { name: "config.json", blob: new Blob(["{}"]) },
    { name: "tokenizer.json", blob: new Blob([JSON.stringify(tokenizer)]) },
  ];
}
