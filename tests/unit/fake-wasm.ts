/**
 * A stand-in for the wasm module: it merges nothing, but reports progress, writes files, fails and hangs as
 * the core can. What it computes is not looked at by any test.
 */
import { createHash } from "node:crypto";
import { METHODS } from "../../www/lib/methods.ts";
import { readRange } from "../../www/lib/sources/open.ts";
import type { BaseFacts, DeviceRequest, MergeOptions, MergePlan, MergeReport } from "../../www/lib/types.ts";
import type {
  AdapterSource,
  CandidateLabels,
  CoreSaid,
  GenerateSource,
  IterisWasm,
  MergeSource,
  Observer,
  WasmDevice,
} from "../../www/lib/wasm-interface.ts";

/** What a fake merge was given. */
export interface Seen {
  basePath: string | undefined;
  adapters: AdapterSource[];
  options: Partial<MergeOptions>;
  device: DeviceRequest;
}

/** How the fake behaves. */
export interface FakeBehaviour {
  /** Steps of a merge; each reports progress. */
  steps?: number;
  /** Called instead of the steps. */
  merge?: (observer: Observer, options: Partial<MergeOptions>) => Promise<void>;
  /** What the report of a merge says beside options and seconds. */
  report?: Partial<MergeReport>;
  seen?: Seen[];
  /** What comparisons and generations were given. */
  compared?: {
    adapters: AdapterSource[];
    options: { maxNewTokens?: number; labels?: CandidateLabels } | undefined;
  }[];
  /** What comparisons say of the pictures of each task. */
  said?: CoreSaid[];
  generated?: GenerateSource[];
  /** The variants that comparisons have numbers of. */
  scores?: readonly string[];
  /** Tasks whose comparison goes on until it is cancelled. */
  endless?: readonly string[];
  /** A GPU that an adapter was found for, and that cannot be started. */
  gpuFailsToStart?: boolean;
  /** Bytes of a request for memory that was refused. */
  failedAllocation?: number;
  /** What plans were asked for, and what they are told. */
  planned?: MergeSource[];
  plan?: MergePlan | Error;
  /** In place of an encoder's facts. */
  facts?: Partial<BaseFacts>;
}

/** As the core throws: an `Error` with a `code`. */
export function coreError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}

const encoder: Partial<BaseFacts> = {
  family: "bert",
  architecture: "BertModel",
  kind: "encoder",
  generates: false,
  answerLength: 4,
  maxLength: 16,
  vocabSize: 100,
};

/** Facts of a model that writes. */
export const decoder: Partial<BaseFacts> = {
  family: "llama",
  architecture: "LlamaForCausalLM",
  kind: "decoder",
  generates: true,
  answerLength: 4,
  maxLength: 32,
  vocabSize: 100,
};

/** Facts of a model that writes captions. */
export const captioner: Partial<BaseFacts> = {
  family: "blip",
  architecture: "BlipForConditionalGeneration",
  kind: "image-to-text",
  generates: true,
  answerLength: 4,
  maxLength: 16,
  vocabSize: 100,
  picture: { channels: 3, height: 32, width: 32 },
};

/** Facts of a model that encodes pictures and texts. */
export const pairEncoder: Partial<BaseFacts> = {
  family: "clip",
  architecture: "CLIPModel",
  kind: "image-text-encoder",
  generates: false,
  answerLength: 4,
  maxLength: 5,
  vocabSize: 100,
  picture: { channels: 3, height: 32, width: 32 },
};

/** Two SDXL adapters of rank 32, merged linearly. */
export const smallPlan: MergePlan = {
  layers: 986,
  workers: 1,
  bytesRead: 449_816_760,
  bytesWritten: 449_403_748,
  peakBytes: 62_914_560,
  operations: 1.2e10,
  seconds: 6.2,
  limitBytes: 2 ** 32,
  fits: true,
  refusal: null,
};

/** One that memory does not hold, with the core's sentence. */
export const tooLargePlan: MergePlan = {
  ...smallPlan,
  peakBytes: 5 * 2 ** 30,
  fits: false,
  refusal: "This merge needs 5.0 GiB of memory at its widest layer, and there are 4.0 GiB; ask for less",
};

/** A module that behaves so. */
export function fakeWasm(behaviour: FakeBehaviour = {}): IterisWasm {
  const {
    steps = 3,
    merge,
    report,
    seen,
    compared,
    endless,
    scores = [],
    said,
    generated,
    facts = encoder,
  } = behaviour;
  const kinds = new Map<WasmDevice, DeviceRequest>();
  const device = (kind: DeviceRequest): WasmDevice => {
    const made = { free() {} };
    kinds.set(made, kind);
    return made;
  };
  /** Where it runs on a device: the GPU is quicker for all. */
  const chosen = (device: WasmDevice) => {
    const kind = kinds.get(device) ?? "cpu";
    const deviceWhy = kind === "auto" ? "The GPU: it was measured." : null;
    return { device: kind === "cpu" ? ("cpu" as const) : ("webgpu" as const), deviceWhy };
  };
  return {
    default: async () => {},
    initSync: () => {},
    __wbg_reset_state: () => {},
    version: () => "0.0.0",
    failedAllocation: () => behaviour.failedAllocation,
    memoryBytes: () => 3 << 20,
    defaultOptions: () => ({ method: "iteris", maxNewTokens: null }) as MergeOptions,
    methods: () => METHODS.map(({ name }) => name),
    digests: (files) =>
      Promise.all(
        files.map(async (file) => {
          const sha256 = createHash("sha256");
          // In pieces, as the core reads.
          for (let at = 0; at < file.size; at += 1) sha256.update(await readRange(file, at, at + 1));
          return { name: file.name, bytes: file.size, sha256: sha256.digest("hex") };
        }),
      ),
    compiled: () => {
      throw coreError("internal", "There is no module.");
    },
    solveShare: async () => {},
    Device: {
      cpu: () => device("cpu"),
      webgpu: async () => device("webgpu"),
      async quicker() {
        if (behaviour.gpuFailsToStart) throw coreError("webgpu_unavailable", "The GPU cannot be started.");
        return device("auto");
      },
    },
    inspectBase: async () => facts as BaseFacts,
    inspectAdapter: async () => {
      throw coreError("adapter_unsupported", "DoRA is not handled.");
    },
    async plan(request) {
      behaviour.planned?.push(request);
      const { plan = smallPlan } = behaviour;
      if (plan instanceof Error) throw plan;
      return plan;
    },
    async merge({ basePath, adapters, options }, device, observer) {
      seen?.push({ basePath, adapters, options, device: kinds.get(device) ?? "cpu" });
      if (adapters.length === 0) throw coreError("no_adapters", "Give at least one adapter.");
      if (merge !== undefined) await merge(observer, options);
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
      const method = options.method ?? "iteris";
      const { device: ranOn, deviceWhy } = chosen(device);
      const said = {
        version: 2,
        options: { method },
        seconds: { total: 2 },
        device: ranOn,
        ...(deviceWhy === null ? {} : { device_why: deviceWhy }),
        ...report,
      } as MergeReport;
      await observer.write("merge_report.json", new TextEncoder().encode(JSON.stringify(said)));
      return said;
    },
    async compare({ adapters, merged, options }, device, observer) {
      compared?.push({ adapters, options });
      const step = { stage: "compare" as const, layer: "", done: 0, total: 1, seconds: 0 };
      for (let going = true; going; going = adapters.some(({ name }) => endless?.includes(name))) {
        if (!(await observer.progress(step))) throw coreError("cancelled", "The work was cancelled.");
      }
      const notes = merged.map(({ name, files }) => `${name}: ${files.map((file) => file.name).join(" ")}`);
      const variants = scores.map((variant) => ({ variant, agreement: 1, accuracy: null, cosine: 1 }));
      const tasks = adapters.map(({ name }) => ({
        ...{ task: name, samples: 1, labelled: 0, variants },
        ...(said === undefined ? {} : { said }),
      }));
      const residuals = adapters.flatMap(({ name: task }) =>
        scores.map((variant) => ({ module: "a", task, variant, residual: 0.5 })),
      );
      return { report: { tasks, residuals, seconds: 0, notes }, ...chosen(device) };
    },
    /** Writes `b a` after the first prompt and is cut short after the others. */
    async generate(request, device, observer) {
      generated?.push(request);
      for (let done = 0; done < steps; done += 1) {
        const progress = { stage: "generate" as const, layer: "", done, total: steps, seconds: done };
        if (!(await observer.progress(progress))) throw coreError("cancelled", "The work was cancelled.");
      }
      const prompts = request.prompts.lengths.length;
      const lengths = Uint32Array.from({ length: prompts }, (_, i) => (i === 0 ? 3 : 1));
      const ids = Uint32Array.from({ length: prompts + 2 }, (_, i) => [2, 1, 3][i] ?? 1);
      const finished = Array.from({ length: prompts }, (_, i) => i === 0);
      return {
        variants: request.variants.map(({ name }) => ({ name, ids, lengths, finished })),
        seconds: 1,
        tokens: ids.length * request.variants.length,
        notes: [],
        ...chosen(device),
      };
    },
  };
}

/** A captioner's files: words in lower case between `[CLS]` and `[SEP]`, as BERT's tokenizer has them. */
export function tinyCaptioner(): { name: string; blob: Blob }[] {
  const special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]"];
  const words = [...special, "a", "cat", "dog", "red", "on", "mat"];
  const marked = (id: string) => ({ SpecialToken: { id, type_id: 0 } });
  const ids = (id: string) => ({ id, ids: [words.indexOf(id)], tokens: [id] });
  const tokenizer = {
    added_tokens: special.map((content, id) => ({ id, content, special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: {
      type: "TemplateProcessing",
      single: [marked("[CLS]"), { Sequence: { id: "A", type_id: 0 } }, marked("[SEP]")],
      pair: [],
      special_tokens: { "[CLS]": ids("[CLS]"), "[SEP]": ids("[SEP]") },
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: "[UNK]",
      continuing_subword_prefix: "##",
      vocab: Object.fromEntries(words.map((word, id) => [word, id])),
    },
  };
  return [
    { name: "config.json", blob: new Blob(['{"text_config": {"eos_token_id": 2, "sep_token_id": 3}}']) },
    { name: "tokenizer.json", blob: new Blob([JSON.stringify(tokenizer)]) },
    { name: "tokenizer_config.json", blob: new Blob(['{"sep_token": "[SEP]", "bos_token": "[DEC]"}']) },
  ];
}

/** A base model's files with the smallest tokenizer there is: two words and `<end>`, which ends answers. */
export function tinyBase(): { name: string; blob: Blob }[] {
  const tokenizer = {
    added_tokens: [{ id: 3, content: "<end>", special: true, normalized: false }],
    normalizer: null,
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: null,
    decoder: null,
    model: {
      type: "WordPiece",
      unk_token: "?",
      continuing_subword_prefix: "##",
      vocab: { "?": 0, a: 1, b: 2, "<end>": 3 },
    },
  };
  return [
    { name: "config.json", blob: new Blob(['{"eos_token_id": 3}']) },
    { name: "tokenizer.json", blob: new Blob([JSON.stringify(tokenizer)]) },
  ];
}
