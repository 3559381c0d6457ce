/** Several merges of the same inputs and their comparison, through the worker's protocol, with a fake module. */
import { beforeEach, describe, expect, it } from "vitest";
import { Engine } from "../../www/lib/engine/engine.ts";
import { Faults } from "../../www/lib/engine/faults.ts";
import { nextTask } from "../../www/lib/engine/next-task.ts";
import type { CompareMethodsRequest, Progress } from "../../www/lib/types.ts";
import { WorkerClient } from "../../www/lib/worker/client.ts";
import { coreError, decoder, type FakeBehaviour, fakeWasm, type Seen, tinyBase } from "./fake-wasm.ts";
import { LocalWorker, startNoHelper } from "./local-worker.ts";

let behaviour: FakeBehaviour;
let seen: Seen[];
let compared: NonNullable<FakeBehaviour["compared"]>;
let client: WorkerClient;
beforeEach(() => {
  seen = [];
  compared = [];
  behaviour = { seen, compared };
  client = new WorkerClient(() => new LocalWorker(behaviour, () => null), startNoHelper);
});

const one = { name: "one", files: [], samples: ["a b"], heldOut: [{ text: "b", label: 0 }] };
const compare = (more: Partial<CompareMethodsRequest> = {}) =>
  client.compareMethods({
    base: tinyBase(),
    adapters: [one],
    methods: ["iteris", "average"],
    device: "cpu",
    ...more,
  });
const files = "adapter_model.safetensors merge_report.json";

describe("comparing methods", () => {
  it("gives every merge with its files, and one comparison of all", async () => {
    const { variants, report, device } = await compare();
    expect(variants.map(({ name, method, seconds }) => [name, method, seconds])).toEqual([
      ["iteris", "iteris", 2],
      ["average", "average", 2],
    ]);
    for (const { files, report, name } of variants) {
      expect(files.map((file) => file.name)).toEqual(["adapter_model.safetensors", "merge_report.json"]);
      expect(report.options.method).toBe(name);
    }
    expect(report.notes).toEqual([`iteris: ${files}`, `average: ${files}`]);
    expect(device.kind).toBe("cpu");
    expect(compared).toHaveLength(1);
  });

  it("calibrates on samples and compares on held-out ones", async () => {
    await compare();
    expect(seen[0]?.adapters[0]?.samples).toMatchObject({ ids: Uint32Array.of(1, 2) });
    expect(seen[1]?.adapters[0]).not.toHaveProperty("samples");
    expect(compared[0]?.adapters[0]?.samples).toMatchObject({ ids: Uint32Array.of(2), labels: [0] });
  });

  it("without held-out samples compares on those of the calibration, and says so", async () => {
    const { report } = await compare({ adapters: [{ ...one, heldOut: undefined }] });
    expect(compared[0]?.adapters[0]?.samples).toMatchObject({ ids: Uint32Array.of(1, 2) });
    expect(report.notes[0]).toMatch(/calibrated on.*: one$/);
  });

  it("gives each merge what all share and what is its own", async () => {
    const methods: CompareMethodsRequest["methods"] = [
      "ties",
      { name: "sparse", options: { method: "ties", density: 0.1 } },
      { options: { schedule: "iterate" } },
    ];
    const { variants } = await compare({ methods, options: { density: 0.4, rank: 2, maxLength: 8 } });
    expect(variants.map(({ name, method }) => [name, method])).toEqual([
      ["ties", "ties"],
      ["sparse", "ties"],
      ["iteris", "iteris"],
    ]);
    expect(seen.map(({ options }) => options)).toEqual([
      { method: "ties", density: 0.4, rank: 2, maxLength: 8 },
      { method: "ties", density: 0.1, rank: 2, maxLength: 8 },
      { method: "iteris", schedule: "iterate", rank: 2, maxLength: 8 },
    ]);
  });

  it("compares what was merged before, too", async () => {
    const merged = [{ name: "mine", files: [{ name: "adapter_config.json", blob: new Blob(["{}"]) }] }];
    const { variants, report } = await compare({ methods: ["ties"], merged });
    expect(variants.map(({ name }) => name)).toEqual(["ties"]);
    expect(report.notes).toEqual([`ties: ${files}`, "mine: adapter_config.json"]);
  });

  it("reports whose progress it is", async () => {
    const reports: Progress[] = [];
    await compare({ onProgress: (progress) => reports.push(progress) });
    const merging = reports.filter(({ stage }) => stage !== "compare");
    expect([...new Set(merging.map(({ variant }) => variant))]).toEqual(["iteris", "average"]);
  });

  it("merges one after the other", async () => {
    const order: string[] = [];
    behaviour.merge = async (observer, { method }) => {
      order.push(`${method} begins`);
      await observer.progress({ stage: "solve", layer: "", done: 0, total: 1, seconds: 0 });
      order.push(`${method} ends`);
    };
    await compare();
    expect(order).toEqual(["iteris begins", "iteris ends", "average begins", "average ends"]);
  });

  it("is cancelled within any of the merges", async () => {
    const stop = new AbortController();
    const step = { stage: "solve" as const, layer: "", done: 0, total: 1, seconds: 0 };
    behaviour.merge = async (observer, { method }) => {
      while (await observer.progress(step)) if (method === "iteris") return;
      throw coreError("cancelled", "The work was cancelled.");
    };
    const onProgress = ({ variant }: Progress) => variant === "average" && stop.abort();
    await expect(compare({ onProgress, signal: stop.signal })).rejects.toMatchObject({ code: "cancelled" });
    expect(compared).toEqual([]);
  });

  it("tells which merge failed", async () => {
    behaviour.merge = async (_, { method }) => {
      if (method === "knots") throw coreError("adapter_unsupported", "Convolutions are not handled.");
    };
    await expect(compare({ methods: ["ties", "knots"] })).rejects.toMatchObject({
      code: "adapter_unsupported",
      message: "knots: Convolutions are not handled.",
    });
  });

  it.each([
    ["no method", { methods: [] }, "option_invalid", "at least one method"],
    ["a method that is none", { methods: ["soup" as "ties"] }, "option_invalid", "soup"],
    ["a name twice", { methods: ["ties", { options: { method: "ties" } }] }, "duplicate", "ties"],
    ["a name of the table's own", { methods: [{ name: "base", options: {} }] }, "duplicate", "base"],
    [
      "a merged adapter of a method's name",
      { merged: [{ name: "iteris", files: [] }] },
      "duplicate",
      "iteris",
    ],
    ["no texts", { methods: ["ties"], adapters: [{ name: "two", files: [] }] }, "samples_invalid", "two"],
  ] as [string, Partial<CompareMethodsRequest>, string, string][])(
    "refuses %s",
    async (_, more, code, message) => {
      await expect(compare(more)).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
      expect(seen).toEqual([]);
    },
  );

  it("refuses texts that adapters write themselves before the first merge", async () => {
    behaviour.facts = decoder;
    const adapters = [{ name: "one", files: [], samples: "self" as const }];
    await expect(compare({ adapters })).rejects.toMatchObject({ code: "samples_invalid" });
    expect(seen).toEqual([]);
  });
});

it("a base that cannot be run is refused where samples are read, and merged where none are", async () => {
  behaviour.facts = { kind: "weights", architecture: "UNet2DConditionModel" };
  const adapters = [one];
  await expect(client.merge({ base: tinyBase(), adapters, device: "cpu" })).rejects.toMatchObject({
    code: "model_unsupported",
    message: expect.stringContaining("choose a method that needs no samples"),
  });
  await expect(compare({ methods: ["ties"] })).rejects.toMatchObject({ code: "model_unsupported" });
  const plain = [{ name: "one", files: [] }];
  const { report } = await client.merge({ adapters: plain, options: { method: "ties" }, device: "cpu" });
  expect(report.options.method).toBe("ties");
});

it("digests of files are those of their bytes, with progress by bytes", async () => {
  const reports: Progress[] = [];
  const list = [
    { name: "m/a", blob: new Blob(["abc"]) },
    { name: "m/b", blob: new Blob([]) },
  ];
  const digests = await client.digestFiles(list, { onProgress: (progress) => reports.push(progress) });
  expect(digests).toEqual([
    { name: "a", bytes: 3, sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
    { name: "b", bytes: 0, sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
  ]);
  expect(reports.map(({ layer, done, total }) => [layer, done, total])).toEqual([
    ["a", 0, 3],
    ["b", 3, 3],
  ]);
});

it("digests are cancelled in the middle of a file, too", async () => {
  let reads = 0;
  const read = async () => {
    reads += 1;
    return Uint8Array.of(0);
  };
  const engine = new Engine({
    loadWasm: async () => fakeWasm(),
    gpu: async () => undefined,
    gpuRemedy: "",
    faults: new Faults(),
    nextTask,
  });
  const context = { onProgress: () => {}, cancelled: () => reads === 3 };
  const digests = engine.digests([{ name: "a", size: 100, read }], context);
  await expect(digests).rejects.toMatchObject({ code: "cancelled" });
  expect(reads).toBe(3);
});
