/**
 * What merges and comparisons tell before they end, through the worker's protocol, with a fake module: in which order,
 * with which values, and what is left of it after a failure or a cancel.
 */
import { beforeEach, describe, expect, it } from "vitest";
import type {
  CompareMethodsRequest,
  CompareReport,
  FailedVariant,
  MergedVariant,
  MergeRequest,
  Progress,
} from "../../www/lib/types.ts";
import { WorkerClient } from "../../www/lib/worker/client.ts";
import { coreError, type FakeBehaviour, type Seen, tinyBase } from "./fake-wasm.ts";
import { LocalWorker, startNoHelper } from "./local-worker.ts";

let behaviour: FakeBehaviour;
let seen: Seen[];
let compared: NonNullable<FakeBehaviour["compared"]>;
let client: WorkerClient;
/** What was told, in order. */
let told: string[];
let variants: MergedVariant[];
let failures: FailedVariant[];
let tasks: CompareReport[];
beforeEach(() => {
  seen = [];
  compared = [];
  told = [];
  variants = [];
  failures = [];
  tasks = [];
  behaviour = { seen, compared };
  client = new WorkerClient(() => new LocalWorker(behaviour, () => null), startNoHelper);
});

const adapters = ["one", "two"].map((name) => ({
  name,
  files: [],
  samples: ["a b"],
  heldOut: [{ text: "b", label: 0 }],
}));
const listeners = {
  onVariant: (variant: MergedVariant) => {
    variants.push(variant);
    told.push(`variant ${variant.name}`);
  },
  onFailure: (failure: FailedVariant) => {
    failures.push(failure);
    told.push(`failure ${failure.name}`);
  },
  onTask: (report: CompareReport) => {
    tasks.push(report);
    told.push(`task ${report.tasks.map(({ task }) => task).join(" ")}`);
  },
};
const common = { base: tinyBase(), device: "cpu" as const, ...listeners };
const merge = (more: Partial<MergeRequest> = {}) => client.merge({ ...common, adapters, ...more });
const compare = (more: Partial<CompareMethodsRequest> = {}) =>
  client.compareMethods({ ...common, adapters, methods: ["iteris", "ties"], ...more });
const filesOf = ({ files }: Pick<MergedVariant, "files">) => files.map(({ name }) => name);
const written = ["adapter_model.safetensors", "merge_report.json"];

describe("a merge that is compared", () => {
  it("tells the merge, its average and each task, in this order and before it resolves", async () => {
    const { comparison, average, files } = await merge().finally(() => told.push("resolved"));
    expect(told).toEqual(["variant iteris", "variant average", "task one", "task two", "resolved"]);
    expect(variants.map(({ method, seconds, device }) => [method, seconds, device.kind])).toEqual([
      ["iteris", 2, "cpu"],
      ["average", 2, "cpu"],
    ]);
    expect([...variants.map(filesOf), filesOf({ files })]).toEqual([written, written, written]);
    expect(await variants[0]?.files[0]?.blob.arrayBuffer()).toEqual(Uint8Array.of(1, 2, 3).buffer);
    expect(average?.files).toHaveLength(2);
    expect(comparison?.tasks).toEqual(tasks.flatMap((report) => report.tasks));
    expect(compared.map((one) => one.adapters.map(({ name }) => name))).toEqual([["one"], ["two"]]);
  });

  it("is one comparison of all where nobody listens to tasks", async () => {
    const { comparison } = await merge({ onTask: undefined });
    expect(compared.map((one) => one.adapters.map(({ name }) => name))).toEqual([["one", "two"]]);
    expect(comparison?.tasks.map(({ task }) => task)).toEqual(["one", "two"]);
  });

  it("makes an average of the same rank that can be read back", async () => {
    const options = {
      method: "ties",
      rank: 4,
      dtype: "f16",
      output: "base",
      format: "auto",
      maxShardBytes: 9,
    } as const;
    await merge({ options });
    expect(seen[1]?.options).toEqual({
      method: "average",
      rank: 4,
      dtype: "f16",
      output: "adapter",
      format: "peft",
    });
    expect(seen[1]?.adapters[0]).not.toHaveProperty("samples");
  });

  it.each([
    ["of one adapter", { adapters: adapters.slice(0, 1) }],
    ["of weights that add up to 0", { adapters: adapters.map((one, i) => ({ ...one, weight: 1 - 2 * i })) }],
    ["that is one itself", { options: { method: "average" } }],
    ["that is not to have one", { average: false }],
  ] as [string, Partial<MergeRequest>][])("has no average %s", async (_, more) => {
    const { average, comparison } = await merge(more);
    expect(average).toBeNull();
    expect(comparison).not.toBeNull();
    expect(seen).toHaveLength(1);
  });

  it("is compared on the tasks that are named, on samples where none are held out", async () => {
    const [one, two] = adapters;
    const mixed = [{ ...one, heldOut: undefined }, two] as MergeRequest["adapters"];
    const { comparison } = await merge({ adapters: mixed, tasks: ["one"] });
    expect(told).toEqual(["variant iteris", "variant average", "task one"]);
    expect(compared[0]?.adapters[0]?.samples).toMatchObject({ ids: Uint32Array.of(1, 2) });
    expect(comparison?.notes[0]).toMatch(/calibrated on.*: one$/);
  });

  it("is made with its average and compared on nothing, if that is wanted", async () => {
    const { comparison, average } = await merge({ tasks: [], average: true });
    expect(told).toEqual(["variant iteris", "variant average"]);
    expect({ comparison, average: average?.name }).toEqual({ comparison: null, average: "average" });
    expect(compared).toEqual([]);
  });

  it.each([
    ["a task that is none", { tasks: ["three"] }, "option_invalid", "three"],
    [
      "a task without texts",
      { tasks: ["x"], adapters: [{ name: "x", files: [], samples: "self" as const }] },
      "samples_invalid",
      "x",
    ],
  ] as [string, Partial<MergeRequest>, string, string][])("refuses %s", async (_, more, code, message) => {
    await expect(merge(more)).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
    expect({ seen, told }).toEqual({ seen: [], told: [] });
  });

  it("says whose progress it is: of the average, and of each task", async () => {
    const reports: Progress[] = [];
    await merge({ onProgress: (progress) => reports.push(progress) });
    expect([...new Set(reports.map(({ variant, task }) => variant ?? task))]).toEqual([
      undefined,
      "average",
      "one",
      "two",
    ]);
    const steps = reports.filter(({ stage }) => stage === "compare");
    expect(steps.map(({ task, done, total }) => [task, done, total])).toEqual([
      ["one", 0, 1],
      ["two", 0, 1],
    ]);
  });

  it("has told what was made when what follows fails, with the name of what failed", async () => {
    behaviour.merge = async (_, { method }) => {
      if (method === "average") throw coreError("shape_mismatch", "No.");
    };
    await expect(merge()).rejects.toMatchObject({ code: "shape_mismatch", message: "average: No." });
    expect(told).toEqual(["variant iteris"]);
  });

  it("has told what was made when what follows is cancelled", async () => {
    behaviour.endless = ["two"];
    const stop = new AbortController();
    const onProgress = ({ task }: Progress) => task === "two" && stop.abort();
    await expect(merge({ onProgress, signal: stop.signal })).rejects.toMatchObject({ code: "cancelled" });
    expect(told).toEqual(["variant iteris", "variant average", "task one"]);
  });
});

describe("a comparison of methods", () => {
  it("tells each merge before the next begins, then each task", async () => {
    behaviour.merge = async (observer, { method }) => {
      await observer.progress({ stage: "solve", layer: "", done: 0, total: 1, seconds: 0 });
      // What was posted before is heard first.
      await new Promise((resolve) => setTimeout(resolve));
      told.push(`merging ${method}`);
    };
    const result = await compare();
    expect(told).toEqual([
      "merging iteris",
      "variant iteris",
      "merging ties",
      "variant ties",
      "task one",
      "task two",
    ]);
    expect(variants.map(filesOf)).toEqual([written, written]);
    expect(result.report.tasks).toEqual(tasks.flatMap((report) => report.tasks));
    expect(result.failed).toEqual([]);
  });

  it("leaves out what cannot be made, and tells why, if that is wanted", async () => {
    behaviour.merge = async (_, { method }) => {
      if (method === "knots") throw coreError("adapter_unsupported", "Convolutions are not handled.");
    };
    const result = await compare({ methods: ["knots", "ties"], failures: "skip" });
    const failure = {
      name: "knots",
      method: "knots",
      error: { code: "adapter_unsupported", message: "Convolutions are not handled." },
    };
    expect(told).toEqual(["failure knots", "variant ties", "task one", "task two"]);
    expect([failures, result.failed]).toEqual([[failure], [failure]]);
    expect(result.variants.map(({ name }) => name)).toEqual(["ties"]);
    expect(result.report.notes).toEqual([`ties: ${written.join(" ")}`]);
  });

  it("compares nothing where nothing could be made", async () => {
    behaviour.merge = async () => {
      throw coreError("adapter_unsupported", "No.");
    };
    const result = await compare({ failures: "skip" });
    expect(told).toEqual(["failure iteris", "failure ties"]);
    expect(result).toMatchObject({ variants: [], report: { tasks: [] } });
    expect(compared).toEqual([]);
  });

  it("ends with a fault of the program whatever failures do, and has told what was made", async () => {
    behaviour.merge = async (_, { method }) => {
      if (method === "ties") throw new WebAssembly.RuntimeError("unreachable");
    };
    await expect(compare({ failures: "skip" })).rejects.toMatchObject({ code: "internal" });
    expect(told).toEqual(["variant iteris"]);
  });

  it("is cancelled by whoever has seen enough of it", async () => {
    const stop = new AbortController();
    behaviour.merge = async (observer, { method }) => {
      const step = { stage: "solve" as const, layer: "", done: 0, total: 1, seconds: 0 };
      while (await observer.progress(step)) if (method === "iteris") return;
      throw coreError("cancelled", "The work was cancelled.");
    };
    const onVariant = (variant: MergedVariant) => {
      listeners.onVariant(variant);
      stop.abort();
    };
    await expect(compare({ onVariant, signal: stop.signal })).rejects.toMatchObject({ code: "cancelled" });
    expect({ told, compared }).toEqual({ told: ["variant iteris"], compared: [] });
  });
});

it("a generation asks what samples ask, after the prompts or in their place", async () => {
  behaviour.facts = { kind: "decoder", generates: true, maxLength: 32, vocabSize: 100 };
  behaviour.generated = [];
  const file = new File(['{"prompt": "a", "completion": " b"}\n{"text": "b"}'], "p.jsonl");
  const request = { base: tinyBase(), device: "cpu" as const, maxNewTokens: 8 };
  const { prompts } = await client.generate({ ...request, prompts: "a b", samples: file });
  expect(prompts).toMatchObject([{ prompt: "a b" }, { prompt: "a", completion: " b" }, { text: "b" }]);
  await client.generate({ ...request, samples: file });
  expect(behaviour.generated.map((one) => Array.from(one.prompts.ids))).toEqual([
    [1, 2, 1, 2],
    [1, 2],
  ]);
  await expect(
    client.generate({ ...request, samples: new File(["c ".repeat(30)], "p.txt") }),
  ).rejects.toMatchObject({ message: expect.stringContaining("p.txt line 1") });
});

it("only files of the names that are asked for are digested", async () => {
  const files = ["m/a", "m/b"].map((name) => ({ name, blob: new Blob(["abc"]) }));
  const digests = await client.digestFiles(files, { names: ["b"] });
  expect(digests.map(({ name }) => name)).toEqual(["b"]);
});
