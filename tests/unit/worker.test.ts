/**
 * The page's side and the worker's side of the protocol against each other, in one thread: messages are
 * cloned as `postMessage` clones them, and the module is a fake.
 */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Engine } from "../../www/lib/engine/engine.ts";
import { Faults } from "../../www/lib/engine/faults.ts";
import { nextTask } from "../../www/lib/engine/next-task.ts";
import { listenForPanics } from "../../www/lib/engine/panics.ts";
import { BlobSink } from "../../www/lib/engine/sink.ts";
import { IterisError, toIterisError } from "../../www/lib/errors.ts";
import type { GenerateRequest, MergeOptions, MergeRequest, Progress } from "../../www/lib/types.ts";
import type { MergeSource } from "../../www/lib/wasm-interface.ts";
import { WorkerClient } from "../../www/lib/worker/client.ts";
import { fakeGpu, real } from "./fake-gpu.ts";
import {
  coreError,
  decoder,
  type FakeBehaviour,
  fakeWasm,
  type Seen,
  smallPlan,
  tinyBase,
} from "./fake-wasm.ts";
import { LocalWorker, startNoHelper } from "./local-worker.ts";

let workers: LocalWorker[];
let behaviour: FakeBehaviour;
let seen: Seen[];
let panic: string | null;
let client: WorkerClient;

beforeEach(() => {
  workers = [];
  seen = [];
  behaviour = { seen };
  panic = null;
  client = new WorkerClient(() => {
    const worker = new LocalWorker(behaviour, () => panic);
    workers.push(worker);
    return worker;
  }, startNoHelper);
});
afterEach(() => vi.useRealTimers());

function request(more: Partial<MergeRequest> = {}): MergeRequest {
  return {
    base: tinyBase(),
    adapters: [{ name: "one", files: [], samples: ["a b", "b"] }],
    device: "cpu",
    ...more,
  };
}

describe("a merge", () => {
  it("resolves to the files in one piece each, the report and the device", async () => {
    const { files, report, device, comparison } = await client.merge(request());
    expect(files.map(({ name }) => name)).toEqual(["adapter_model.safetensors", "merge_report.json"]);
    expect(new Uint8Array(await (files[0]?.blob ?? new Blob()).arrayBuffer())).toEqual(
      Uint8Array.of(1, 2, 3),
    );
    expect(report.version).toBe(2);
    expect(device).toEqual({ kind: "cpu", why: "The CPU was asked for.", adapter: null });
    expect(comparison).toBeNull();
  });

  it("hands the core token ids, and the length they were cut to", async () => {
    await client.merge(request({ options: { method: "iteris" } }));
    expect(seen[0]?.adapters[0]?.samples).toMatchObject({
      ids: Uint32Array.of(1, 2, 2),
      lengths: Uint32Array.of(2, 1),
      truncated: 0,
    });
    expect(seen[0]?.options).toEqual({ method: "iteris", maxLength: 16 });
  });

  it("needs no samples and no tokenizer for an average", async () => {
    const { report } = await client.merge(
      request({
        base: [],
        adapters: [{ name: "one", files: [], weight: 2 }],
        options: { method: "average" },
      }),
    );
    expect(report.options.method).toBe("average");
    expect(seen[0]?.adapters[0]).toEqual({ name: "one", files: [], weight: 2 });
  });

  it("is planned from files, weights and options alone", async () => {
    const planned: MergeSource[] = [];
    Object.assign(behaviour, { planned });
    const options = { method: "iteris" } as const;
    expect(await client.planMerge(request({ options }))).toEqual(smallPlan);
    const [source] = planned;
    expect(source?.base.map(({ name }) => name)).toEqual(["config.json", "tokenizer.json"]);
    expect(source).toMatchObject({ adapters: [{ name: "one", files: [] }], options });
    expect(source?.adapters[0]).not.toHaveProperty("samples");
    expect(seen).toEqual([]);
  });

  it("cannot be planned where it cannot be made", async () => {
    behaviour.plan = coreError("shape_mismatch", "The adapters are of two models.");
    await expect(client.planMerge(request())).rejects.toMatchObject({ code: "shape_mismatch" });
  });

  it("reports progress to its end", async () => {
    const reports: Progress[] = [];
    await client.merge(request({ onProgress: (progress) => reports.push(progress) }));
    expect(reports[0]?.done).toBe(0);
    expect(reports.at(-1)?.done).toBe(2);
  });

  it("reports progress at most 20 times a second", async () => {
    const reports: Progress[] = [];
    const started = performance.now();
    behaviour.steps = 400;
    await client.merge(request({ onProgress: (progress) => reports.push(progress) }));
    const intervals = Math.ceil((performance.now() - started) / 50);
    expect(reports.length).toBeLessThanOrEqual(intervals + 2);
  });

  it("with held-out samples is compared with a linear average", async () => {
    const one = { name: "one", files: [], samples: ["a"], heldOut: [{ text: "b", label: 0 }] };
    const adapters = [one, { ...one, name: "two" }];
    const { comparison } = await client.merge(request({ adapters }));
    const files = "adapter_model.safetensors merge_report.json";
    expect(comparison?.notes).toEqual([`iteris: ${files}`, `average: ${files}`]);
  });

  it("with held-out samples for some adapters only is refused", async () => {
    const adapters = [
      { name: "one", files: [], samples: ["a"], heldOut: ["b"] },
      { name: "two", files: [], samples: ["a"] },
    ];
    await expect(client.merge(request({ adapters }))).rejects.toMatchObject({
      code: "option_invalid",
      message: expect.stringContaining("two"),
    });
  });
});

describe("a merge of a language model's adapters", () => {
  beforeEach(() => {
    behaviour.facts = decoder;
  });

  it("hands the core prompts and answers", async () => {
    const samples = [{ prompt: "a", completion: " b" }, { prompt: "a b" }, { text: "b" }];
    const options = { positions: "completion" as const, maxNewTokens: 8 };
    await client.merge(request({ adapters: [{ name: "one", files: [], samples }], options }));
    expect(seen[0]?.adapters[0]?.samples).toEqual({
      ids: Uint32Array.of(1, 1, 2, 2),
      typeIds: new Uint32Array(4),
      lengths: Uint32Array.of(1, 2, 1),
      truncated: 0,
      prompts: Uint8Array.of(0, 1, 0),
      answers: Uint32Array.of(2, 3),
      answerLengths: Uint32Array.of(2, 0, 0),
    });
    expect(seen[0]?.options).toEqual({ positions: "completion", maxNewTokens: 8, maxLength: 32 });
  });

  it("lets adapters write their samples, which needs a tokenizer only for a prompt", async () => {
    // As many tokens as the model reads beside the one that begins a text.
    const self = { count: 32, seed: 0, temperature: 1, topP: 1, maxNewTokens: 31 };
    const alone = [{ name: "one", files: [], samples: "self" as const }];
    await client.merge(request({ base: [], adapters: alone }));
    expect(seen[0]?.adapters[0]?.samples).toEqual({ self });
    expect(seen[0]?.options).toEqual({});
    const prompted = [
      { name: "one", files: [], samples: { self: { prompt: "a b", count: 2, maxNewTokens: 8 } } },
    ];
    await client.merge(request({ adapters: prompted }));
    expect(seen[1]?.adapters[0]?.samples).toEqual({
      self: { ...self, count: 2, maxNewTokens: 8, prompt: Uint32Array.of(1, 2), promptText: "a b" },
    });
    await expect(client.merge(request({ base: [], adapters: prompted }))).rejects.toMatchObject({
      code: "missing",
    });
  });

  it("with held-out samples is compared by their labels and completions", async () => {
    const compared: NonNullable<FakeBehaviour["compared"]> = [];
    behaviour.compared = compared;
    const heldOut = [
      { prompt: "a", completion: " b" },
      { text: "b", label: "a" },
    ];
    const adapters = [{ name: "one", files: [], samples: "self" as const, heldOut }];
    await client.merge(request({ adapters, options: { maxNewTokens: 8 } }));
    expect(compared[0]?.options).toEqual({ maxNewTokens: 8 });
    expect(compared[0]?.adapters[0]?.samples).toMatchObject({
      ids: Uint32Array.of(1, 2),
      prompts: Uint8Array.of(0, 1),
      labels: [null, "a"],
      labelIds: Uint32Array.of(2, 3, 1, 3),
      labelLengths: Uint32Array.of(2, 2),
    });
  });

  it.each([
    ["of a model that writes nothing", { generates: false }, "self", "samples_invalid", "writes no text"],
    ["without samples", {}, undefined, "samples_invalid", '"self" to let the adapter write them'],
    ["with nonsense", {}, { self: { count: -1 } }, "option_invalid", "count must be a whole number"],
    ["with no room for an answer", { maxLength: 4 }, [{ prompt: "a" }], "option_invalid", "leave no room"],
    [
      "with an encoder-decoder's option",
      {},
      ["a"],
      "option_invalid",
      "for encoder-decoders",
      { decoderInputs: "start" },
    ],
    [
      "of an encoder-decoder with a decoder's option",
      { kind: "encoder-decoder" },
      ["a"],
      "option_invalid",
      "for decoder-only models",
      { positions: "completion" },
    ],
    [
      "with a chat and no template",
      {},
      [{ messages: [{ role: "user", content: "a" }] }],
      "missing",
      "template",
    ],
  ])("%s is refused", async (...[, facts, samples, code, message, options]) => {
    behaviour.facts = { ...decoder, ...(facts as FakeBehaviour["facts"]) };
    const adapters = [{ name: "one", files: [], samples }] as MergeRequest["adapters"];
    const asked = (options ?? {}) as Partial<MergeOptions>;
    await expect(client.merge(request({ adapters, options: asked }))).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
    });
  });

  it("is not compared on text that the adapter writes itself", async () => {
    const adapters = [{ name: "one", files: [], samples: "self" as unknown as string[] }];
    await expect(client.compare({ base: tinyBase(), adapters, merged: [] })).rejects.toMatchObject({
      code: "samples_invalid",
      message: expect.stringContaining("one"),
    });
  });
});

describe("a generation", () => {
  const generated: NonNullable<FakeBehaviour["generated"]> = [];
  beforeEach(() => {
    generated.length = 0;
    behaviour.facts = decoder;
    behaviour.generated = generated;
  });
  const ask = (more: Partial<GenerateRequest> = {}) =>
    client.generate({ base: tinyBase(), prompts: ["a", "b a"], maxNewTokens: 8, device: "cpu", ...more });

  it("resolves to what each variant wrote after each prompt, without special tokens", async () => {
    const reports: Progress[] = [];
    const files = [{ name: "adapter_config.json", blob: new Blob(["{}"]) }];
    const adapters = [{ name: "one", files }];
    const result = await ask({ adapters, onProgress: (progress) => reports.push(progress) });
    const said = { texts: ["b a", "a"], finished: [true, false] };
    expect(result).toEqual({
      prompts: [{ prompt: "a" }, { prompt: "b a" }],
      variants: [
        { name: "base", ...said },
        { name: "one", ...said },
      ],
      seconds: 1,
      tokens: 8,
      device: { kind: "cpu", why: "The CPU was asked for.", adapter: null },
      notes: [],
    });
    expect(reports[0]).toMatchObject({ stage: "generate", done: 0, total: 3 });
    expect(generated[0]).toMatchObject({
      variants: [{ name: "base" }, { name: "one", files: [{ name: "adapter_config.json", size: 2 }] }],
      prompts: { ids: Uint32Array.of(1, 2, 1), lengths: Uint32Array.of(1, 2) },
      options: { maxNewTokens: 8, temperature: 0, topP: 1, seed: 0 },
    });
    expect(generated[0]?.variants[0]).not.toHaveProperty("files");
  });

  it("is of the base alone where nothing else is named, of the variants where they are", async () => {
    await ask({ prompts: "a", temperature: 0.5, topP: 0.9, seed: 4 });
    expect(generated[0]?.variants).toEqual([{ name: "base" }]);
    expect(generated[0]?.options).toEqual({ maxNewTokens: 8, temperature: 0.5, topP: 0.9, seed: 4 });
    await ask({ variants: [{ name: "x", files: [] }] });
    expect(generated[1]?.variants).toEqual([{ name: "x", files: [] }]);
  });

  it("takes one chat or several", async () => {
    const template = { name: "chat_template.jinja", blob: new Blob(["{{ messages | length }} a"]) };
    const turn = { role: "user", content: "a" };
    const base = [...tinyBase(), template];
    const { prompts: _, ...chats } = { base, prompts: undefined, device: "cpu" as const, maxNewTokens: 8 };
    await client.generate({ ...chats, messages: [turn] });
    await client.generate({ ...chats, messages: [[turn], [turn, { role: "assistant", content: "b" }]] });
    expect(generated.map(({ prompts }) => Array.from(prompts.lengths))).toEqual([[2], [2, 2]]);
  });

  it.each([
    [{ prompts: undefined }, "option_invalid", "Give either prompts or messages."],
    [{ messages: [] }, "option_invalid", "Give either prompts or messages."],
    [{ prompts: [] }, "option_invalid", "The list of prompts is empty."],
    [{ prompts: undefined, messages: [] }, "samples_invalid", `messages item 1: "messages" is empty.`],
    [{ prompts: [7] }, "option_invalid", "prompts item 1 must be a text, not a number."],
    [{ variants: [], adapters: undefined }, "option_invalid", "The list of variants is empty."],
    [{ variants: [{ name: "x" }], adapters: [] }, "option_invalid", "Give variants or adapters, not both"],
    [{ variants: [{ name: "x" }, { name: "x" }] }, "duplicate", "x"],
    [{ temperature: -1 }, "option_invalid", "temperature must be a number from 0 to 100, not -1."],
    [{ topP: 0 }, "option_invalid", "topP must be a number above 0, at most 1"],
    [{ maxNewTokens: 0 }, "option_invalid", "maxNewTokens must be a whole number above 0"],
    [
      { prompts: "c".repeat(3) + " a".repeat(30) },
      "samples_invalid",
      "prompts item 1: the prompt has 31 tokens",
    ],
  ])("of %j is refused", async (more, code, message) => {
    await expect(ask(more as Partial<GenerateRequest>)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
    });
    expect(generated).toHaveLength(0);
  });

  it("by an encoder is refused", async () => {
    behaviour.facts = { ...decoder, generates: false };
    await expect(ask()).rejects.toMatchObject({ code: "model_unsupported" });
  });

  it("that is cancelled stops", async () => {
    behaviour.steps = Number.POSITIVE_INFINITY;
    const stop = new AbortController();
    const running = ask({ signal: stop.signal, onProgress: () => stop.abort() });
    await expect(running).rejects.toMatchObject({ code: "cancelled" });
    expect(workers[0]?.terminated).toBe(true);
  });
});

describe("bad input", () => {
  it("keeps its code across the thread, and the worker", async () => {
    await expect(client.merge(request({ adapters: [] }))).rejects.toMatchObject({ code: "no_adapters" });
    await expect(client.inspectAdapter([])).rejects.toSatisfy(
      (error) => error instanceof IterisError && error.code === "adapter_unsupported",
    );
    await client.merge(request());
    expect(workers).toHaveLength(1);
  });

  it.each([
    ["an empty list of samples", { samples: [] }, "samples_invalid"],
    ["no samples", {}, "samples_invalid"],
    ["an empty file of samples", { samples: new File(["\n"], "a.txt") }, "samples_invalid"],
  ])("%s is refused", async (_, adapter, code) => {
    const adapters = [{ name: "one", files: [], ...adapter }];
    await expect(client.merge(request({ adapters }))).rejects.toMatchObject({ code });
  });

  it("a base without a tokenizer is refused", async () => {
    await expect(client.merge(request({ base: [] }))).rejects.toMatchObject({ code: "missing" });
  });

  it("something that is no file is refused before it is posted", async () => {
    const files = [new Blob(["x"])] as unknown as File[];
    await expect(client.inspectBase(files)).rejects.toMatchObject({ code: "read_failed" });
    expect(workers).toHaveLength(0);
  });
});

describe("cancelling", () => {
  it("a running merge stops it, replaces the worker, and a second merge works", async () => {
    behaviour.steps = Number.POSITIVE_INFINITY;
    const stop = new AbortController();
    const running = client.merge(request({ signal: stop.signal, onProgress: () => stop.abort() }));
    await expect(running).rejects.toMatchObject({ code: "cancelled" });
    expect(workers[0]?.terminated).toBe(true);
    behaviour.steps = 2;
    expect((await client.merge(request())).report.version).toBe(2);
    expect(workers).toHaveLength(2);
  });

  it("a merge that does not react terminates the worker", async () => {
    behaviour.merge = async (observer) => {
      await observer.progress({ stage: "solve", layer: "", done: 0, total: 1, seconds: 0 });
      await new Promise(() => {});
    };
    const stop = new AbortController();
    const running = client.merge(
      request({
        signal: stop.signal,
        onProgress: () => {
          vi.useFakeTimers();
          stop.abort();
          vi.advanceTimersByTime(10_000);
        },
      }),
    );
    await expect(running).rejects.toMatchObject({ code: "cancelled" });
    expect(workers[0]?.terminated).toBe(true);
  });

  it("a waiting merge leaves the running one alone", async () => {
    const stop = new AbortController();
    const first = client.merge(request());
    const second = client.merge(request({ signal: stop.signal }));
    stop.abort();
    await expect(second).rejects.toMatchObject({ code: "cancelled" });
    await expect(first).resolves.toBeDefined();
    expect(seen).toHaveLength(1);
  });

  it("before the start starts nothing", async () => {
    await expect(client.merge(request({ signal: AbortSignal.abort() }))).rejects.toMatchObject({
      code: "cancelled",
    });
    expect(workers).toHaveLength(0);
  });

  it("all by release", async () => {
    behaviour.steps = Number.POSITIVE_INFINITY;
    const calls = [client.merge(request({ onProgress: () => client.release() })), client.merge(request())];
    const outcomes = await Promise.allSettled(calls);
    expect(outcomes.map((outcome) => outcome.status === "rejected" && outcome.reason.code)).toEqual([
      "cancelled",
      "cancelled",
    ]);
  });
});

describe("a fault", () => {
  it("in the module is told with the panic's text and with what was being done, and the worker is replaced", async () => {
    behaviour.merge = async (observer) => {
      await observer.progress({ stage: "solve", layer: "a.query", done: 4, total: 9, seconds: 1 });
      panic = "panicked at src/solve.rs:7:1: no pivot";
      throw new WebAssembly.RuntimeError("unreachable");
    };
    await expect(client.merge(request())).rejects.toMatchObject({
      code: "internal",
      message:
        "Internal fault: panicked at src/solve.rs:7:1: no pivot (while merging: solve, step 5 of 9, a.query)",
    });
    behaviour = {};
    panic = null;
    await client.merge(request());
    expect(workers.map(({ terminated }) => terminated)).toEqual([true, false]);
  });

  it("for want of memory says how much was wanted and how much there was, and the worker is replaced", async () => {
    behaviour.failedAllocation = 264 << 20;
    behaviour.merge = async (observer) => {
      await observer.progress({ stage: "merge", layer: "unet.mid", done: 0, total: 722, seconds: 1 });
      throw new WebAssembly.RuntimeError("unreachable");
    };
    const refused = await client.merge(request()).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "out_of_memory" });
    expect(String(refused)).toContain("264.0 MiB more were asked for when the module held 3.0 MiB");
    expect(String(refused)).toContain("(while merging: merge, step 1 of 722, unet.mid)");
    behaviour = {};
    await client.merge(request());
    expect(workers.map(({ terminated }) => terminated)).toEqual([true, false]);
  });

  it("for want of memory that nobody awaits is told the same", async () => {
    behaviour.failedAllocation = 1 << 20;
    behaviour.merge = (observer) => {
      void observer.progress({ stage: "solve", layer: "", done: 0, total: 1, seconds: 0 });
      return new Promise(() => {});
    };
    const trap = () => workers[0]?.faults.raise(toIterisError(new WebAssembly.RuntimeError("unreachable")));
    await expect(client.merge(request({ onProgress: trap }))).rejects.toMatchObject({
      code: "out_of_memory",
      message: expect.stringContaining("1.0 MiB more were asked for"),
    });
    expect(workers[0]?.terminated).toBe(true);
  });

  it("of JavaScript's memory is told alike, and the core's own refusal as it stands; both keep the worker", async () => {
    const thrown = [
      new RangeError("Array buffer allocation failed"),
      coreError("out_of_memory", "5 GiB are needed."),
    ];
    behaviour.merge = async () => {
      throw thrown.shift();
    };
    await expect(client.merge(request())).rejects.toMatchObject({
      code: "out_of_memory",
      message: expect.stringMatching(
        /^Memory ran out: Array buffer allocation failed\. The module holds 3\.0 MiB/,
      ),
    });
    await expect(client.merge(request())).rejects.toMatchObject({
      code: "out_of_memory",
      message: "5 GiB are needed.",
    });
    expect(workers.map(({ terminated }) => terminated)).toEqual([false]);
  });

  it("of the place that results go to is told in its own words, and what it holds is taken away", async () => {
    let discarded = 0;
    const full = new IterisError("write_failed", "The disk is full: adapter_model.safetensors");
    const sink = Object.assign(new BlobSink(), {
      write: async () => {
        throw full;
      },
      discard: async () => {
        discarded += 1;
      },
    });
    const engine = new Engine({
      // The core tells a failure of its observer in words of its own.
      loadWasm: async () => {
        const fake = fakeWasm();
        const merge: typeof fake.merge = (...given) =>
          fake.merge(...given).catch((error: Error) => {
            throw coreError("write_failed", `the result cannot be written (${error.message}): x`);
          });
        return { ...fake, merge };
      },
      gpu: async () => undefined,
      gpuRemedy: "",
      faults: new Faults(),
      nextTask,
    });
    const adapters = [{ name: "one", files: [], samples: null, weight: undefined }];
    const job = { base: [], adapters, options: { method: "average" as const }, device: "cpu" as const };
    const context = { onProgress: () => {}, cancelled: () => false };
    await expect(engine.merge(job, context, sink)).rejects.toBe(full);
    expect(discarded).toBe(1);
  });

  it("that nobody awaits still ends the call", async () => {
    behaviour.merge = (observer) => {
      void observer.progress({ stage: "solve", layer: "", done: 0, total: 1, seconds: 0 });
      return new Promise(() => {});
    };
    const running = client.merge(
      request({
        onProgress: () => workers[0]?.faults.raise(new IterisError("internal", "Internal fault: trap")),
      }),
    );
    await expect(running).rejects.toMatchObject({
      code: "internal",
      message: "Internal fault: trap (while merging: solve, step 1 of 1)",
    });
    expect(workers[0]?.terminated).toBe(true);
  });

  it("of the GPU ends the call with device_lost, and the next call gets a new worker", async () => {
    behaviour.merge = (observer) => {
      void observer.progress({ stage: "solve", layer: "", done: 0, total: 1, seconds: 0 });
      return new Promise(() => {});
    };
    const running = client.merge(request({ onProgress: () => client.loseDevice() }));
    await expect(running).rejects.toMatchObject({ code: "device_lost" });
    behaviour = {};
    await client.merge(request());
    expect(workers).toHaveLength(2);
  });

  describe("of a GPU that auto had taken", () => {
    /** A client on a machine with a GPU, whose merges there fail so. */
    function withGpu(code: string, seen: Seen[], more: FakeBehaviour = {}) {
      const started: LocalWorker[] = [];
      const client = new WorkerClient(() => {
        const fails: FakeBehaviour = {
          ...more,
          seen,
          merge: async () => {
            if (seen.at(-1)?.device !== "cpu") throw coreError(code, "It has 1 MiB.");
          },
        };
        const worker = new LocalWorker(fails, () => null, fakeGpu(real));
        started.push(worker);
        return worker;
      }, startNoHelper);
      return { client, started };
    }

    it.each(["device_limit", "device_lost"])("is made good on the CPU: %s", async (code) => {
      const seen: Seen[] = [];
      const { client } = withGpu(code, seen);
      const { device, files } = await client.merge(request({ device: "auto" }));
      expect(seen.map(({ device }) => device)).toEqual(["auto", "cpu"]);
      expect(device).toMatchObject({ kind: "cpu", why: "The CPU, because the GPU gave up. It has 1 MiB." });
      // Nothing of the first try is among them.
      expect(files.map(({ blob }) => blob.size)).toEqual([3, expect.any(Number)]);
    });

    it("is final where it is another, or where the GPU was asked for", async () => {
      for (const [code, device] of [
        ["not_finite", "auto"],
        ["device_limit", "webgpu"],
      ] as const) {
        const seen: Seen[] = [];
        const { client } = withGpu(code, seen);
        await expect(client.merge(request({ device }))).rejects.toMatchObject({ code });
        expect(seen).toHaveLength(1);
      }
    });

    it("is told after the calls that waited behind it have been made", async () => {
      const seen: Seen[] = [];
      const { client, started } = withGpu("device_lost", seen);
      const outcomes = await Promise.all([
        client.merge(request({ device: "auto" })),
        client.merge(request({ device: "cpu" })),
      ]);
      expect(outcomes.map(({ device }) => device.kind)).toEqual(["cpu", "cpu"]);
      expect(seen.map(({ device }) => device)).toEqual(["auto", "cpu", "cpu"]);
      // The worker that lost its device was replaced, once.
      expect(started.map(({ terminated }) => terminated)).toEqual([true, false]);
    });

    it("at starting leaves the CPU", async () => {
      const seen: Seen[] = [];
      const { client } = withGpu("device_lost", seen, { gpuFailsToStart: true });
      const { device } = await client.merge(request({ device: "auto" }));
      expect(device).toMatchObject({ kind: "cpu", why: "The CPU: The GPU cannot be started." });
    });
  });

  it("auto tells what the core has chosen, and why", async () => {
    const client = new WorkerClient(() => new LocalWorker({}, () => null, fakeGpu(real)), startNoHelper);
    const { device } = await client.merge(request({ device: "auto" }));
    expect(device).toMatchObject({
      kind: "webgpu",
      why: "The GPU: it was measured.",
      adapter: { vendor: "nvidia" },
    });
    const plain = await client.merge(request({ device: "auto", options: { method: "ties" } }));
    expect(plain.device).toMatchObject({ kind: "cpu", why: expect.stringContaining("without samples") });
  });

  it("of the worker's script ends the call", async () => {
    const broken = new WorkerClient(() => {
      const worker = new LocalWorker({}, () => null);
      worker.postMessage = () => setTimeout(() => worker.onerror?.({ message: "" } as ErrorEvent));
      return worker;
    }, startNoHelper);
    await expect(broken.merge(request())).rejects.toMatchObject({
      code: "internal",
      message: expect.stringContaining("cannot be loaded"),
    });
  });

  it("at starting a worker ends the call", async () => {
    const none = new WorkerClient(() => {
      throw new Error("workers are blocked by the page's policy");
    }, startNoHelper);
    await expect(none.defaultOptions()).rejects.toMatchObject({ code: "internal" });
  });
});

describe("calls", () => {
  it("queue: the second starts when the first has ended", async () => {
    const order: string[] = [];
    behaviour.merge = async () => {
      order.push("start");
      await nextTask();
      await nextTask();
      order.push("end");
    };
    await Promise.all([client.merge(request()), client.merge(request())]);
    expect(order).toEqual(["start", "end", "start", "end"]);
  });

  it("after a failed one run", async () => {
    const failed = client.merge(request({ adapters: [] }));
    const options = client.defaultOptions();
    await expect(failed).rejects.toMatchObject({ code: "no_adapters" });
    expect(await options).toMatchObject({ method: "iteris" });
  });
});

describe("a panic's text", () => {
  it("is kept without its stack, once", () => {
    const printed: unknown[] = [];
    const target = { error: (...args: unknown[]) => printed.push(...args) };
    const last = listenForPanics(target);
    target.error("something else");
    expect(last()).toBeNull();
    target.error("panicked at src/a.rs:1:1:\nno\n\nStack:\n\nError\n  at f");
    expect(last()).toBe("panicked at src/a.rs:1:1:\nno");
    expect(last()).toBeNull();
    expect(printed).toHaveLength(2);
  });
});

it("a code that is not known is an internal fault", async () => {
  behaviour.merge = async () => {
    throw coreError("brand_new", "something");
  };
  await expect(client.merge(request())).rejects.toMatchObject({ code: "internal" });
});
