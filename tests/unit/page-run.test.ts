/**
 * What the page shows while it merges and compares, as the library tells it: a fake module behind the worker's
 * protocol. What the numbers are is for other tests.
 */
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { BaseFacts } from "../../www/lib/types.ts";
import { WorkerClient } from "../../www/lib/worker/client.ts";
import { runMethodComparison } from "../../www/page/method-comparison.ts";
import { run } from "../../www/page/run.ts";
import { type Adapter, Store } from "../../www/page/state.ts";
import { cancel } from "../../www/page/work.ts";
import { coreError, type FakeBehaviour, type Seen, tinyBase } from "./fake-wasm.ts";
import { LocalWorker, startNoHelper } from "./local-worker.ts";
import { baseFacts, adapter as card } from "./page-state.ts";

let client: WorkerClient;
vi.mock("../../www/lib/index.ts", async (original) => ({
  ...(await original<typeof import("../../www/lib/index.ts")>()),
  merge: (request: Parameters<WorkerClient["merge"]>[0]) => client.merge(request),
  compareMethods: (request: Parameters<WorkerClient["compareMethods"]>[0]) => client.compareMethods(request),
}));

let behaviour: FakeBehaviour;
let seen: Seen[];
let compared: NonNullable<FakeBehaviour["compared"]>;
let store: Store;
/** Labels of the work, in order. */
let labels: string[];
beforeEach(() => {
  seen = [];
  compared = [];
  labels = [];
  behaviour = { seen, compared };
  client = new WorkerClient(() => new LocalWorker(behaviour, () => null), startNoHelper);
});

/** A card whose samples are a text file of one line. */
const withText = (name: string): Adapter => {
  const adapter = card(name);
  const text = adapter.texts.samples;
  if (text) text.dropped = { path: `${name}.txt`, file: new File(["a b"], `${name}.txt`) };
  return adapter;
};

function prepare(adapters: Adapter[], facts: Partial<BaseFacts> = {}): void {
  store = new Store();
  store.onChange(() => {
    const label = store.state.work?.label;
    if (label !== undefined && labels.at(-1) !== label) labels.push(label);
  });
  const files = tinyBase().map(({ name, blob }) => ({ path: name, file: new File([blob], name) }));
  store.state.base = {
    name: "base",
    files,
    facts: { status: "ready", value: { ...baseFacts, ...facts } },
    chat: false,
  };
  store.state.adapters = adapters;
  store.state.settings.device = "cpu";
}

describe("a merge", () => {
  beforeEach(() => prepare([withText("mood"), withText("topic")]));

  it("is shown, then the average, then each task", async () => {
    await run(store);
    expect(labels).toEqual([
      "Merging",
      "Comparing",
      "Making the linear average to compare with",
      "Comparing on mood",
      "Comparing on topic",
    ]);
    const { result, work, device, notices } = store.state;
    expect(result).toMatchObject({ title: "2 adapters merged into one", method: "iteris", stale: false });
    expect(result?.files).toHaveLength(2);
    expect(result?.comparison).toMatchObject({
      status: "done",
      texts: "calibration",
      waiting: [],
      variants: ["IterIS", "Linear average"],
      tasks: [{ task: "mood" }, { task: "topic" }],
    });
    expect([work, device.status, notices]).toEqual([undefined, "ready", []]);
    expect(seen.map(({ options }) => options.method)).toEqual(["iteris", "average"]);
  });

  it("calls methods by their titles wherever a report names them", async () => {
    behaviour.scores = ["base", "adapter", "iteris", "average"];
    await run(store);
    const { tasks, residuals } = store.state.result?.comparison ?? { tasks: [], residuals: [] };
    const titles = ["base", "adapter", "IterIS", "Linear average"];
    expect(tasks[0]?.variants.map(({ variant }) => variant)).toEqual(titles);
    expect(residuals.slice(0, 4).map(({ variant }) => variant)).toEqual(titles);
  });

  it("that fails says so, and shows nothing", async () => {
    behaviour.merge = async () => {
      throw coreError("shape_mismatch", "No.");
    };
    await run(store);
    expect(store.state.result).toBeUndefined();
    expect(store.state.notices).toMatchObject([
      { tone: "error", text: "The merge stopped.", problem: { code: "shape_mismatch" } },
    ]);
  });

  it("stays when what follows fails: the failure is the comparison's", async () => {
    behaviour.merge = async (_, { method }) => {
      if (method === "average") throw coreError("not_finite", "No.");
    };
    await run(store);
    expect(store.state.result?.files).toHaveLength(2);
    expect(store.state.result?.comparison).toMatchObject({
      status: "failed",
      waiting: [],
      problem: { code: "not_finite", message: "average: No." },
    });
    expect(store.state.notices).toEqual([]);
  });

  it("stays when what follows is cancelled, with the tasks that are through", async () => {
    behaviour.endless = ["topic"];
    store.onChange(() => {
      if (store.state.work?.label === "Comparing on topic" && !store.state.work.cancelling) cancel(store);
    });
    await run(store);
    expect(store.state.result?.comparison).toMatchObject({
      status: "cancelled",
      tasks: [{ task: "mood" }],
      waiting: [],
    });
  });

  it("is compared on the tasks that have texts", async () => {
    const untold: Adapter = { ...withText("topic"), texts: {} };
    prepare([withText("mood"), untold]);
    store.state.settings.method = "ties";
    await run(store);
    expect(compared.map(({ adapters }) => adapters.map(({ name }) => name))).toEqual([["mood"]]);
    expect(store.state.result?.comparison?.tasks).toHaveLength(1);
  });

  it("without a base model that can be run is all there is", async () => {
    prepare([withText("mood"), withText("topic")], { kind: "weights" });
    store.state.settings.method = "ties";
    await run(store);
    expect(labels).toEqual(["Merging", "Comparing"]);
    expect(seen).toHaveLength(1);
    expect(store.state.result?.comparison).toBeUndefined();
  });

  it("of a model that writes comes with the average to be tried, texts or not", async () => {
    behaviour.facts = { kind: "decoder", generates: true, maxLength: 32, vocabSize: 100 };
    const own = ["mood", "topic"].map((name) => ({ ...card(name), texts: {} }));
    prepare(own, { kind: "decoder", generates: true });
    store.state.settings.method = "ties";
    await run(store);
    expect(store.state.result?.comparison).toBeUndefined();
    expect(store.state.result?.models?.writers.map(({ name, role }) => [name, role])).toEqual([
      ["Base", "base"],
      ["mood", "adapter"],
      ["topic", "adapter"],
      ["Linear average", "merged"],
      ["TIES", "merged"],
    ]);
  });
});

describe("a comparison of methods", () => {
  beforeEach(() => {
    prepare([withText("mood"), withText("topic")]);
    store.state.several = true;
    store.state.ticked = ["iteris", "knots", "ties"];
  });
  const rows = () => store.state.methodComparison?.entries.map(({ name, status }) => [name, status]);

  it("goes from method to method, then from task to task", async () => {
    await runMethodComparison(store);
    expect(labels).toEqual([
      "Starting",
      "IterIS, 1 of 3 methods",
      "KnOTS, 2 of 3 methods",
      "TIES, 3 of 3 methods",
      "Comparing",
      "Comparing on mood",
      "Comparing on topic",
    ]);
    expect(rows()).toEqual([
      ["IterIS", "done"],
      ["KnOTS", "done"],
      ["TIES", "done"],
    ]);
    expect(store.state.methodComparison).toMatchObject({
      status: "done",
      texts: "calibration",
      tasks: [{ task: "mood" }, { task: "topic" }],
    });
    expect(seen.map(({ options }) => options.method)).toEqual(["iteris", "knots", "ties"]);
    // Samples go where a method looks at them.
    expect(seen.map(({ adapters }) => adapters[0]?.samples !== undefined)).toEqual([true, false, false]);
  });

  it("goes on without a method that does not suit, whose row says why", async () => {
    behaviour.merge = async (_, { method }) => {
      if (method === "knots") throw coreError("adapter_unsupported", "Convolutions are not handled.");
    };
    await runMethodComparison(store);
    expect(rows()?.map(([, status]) => status)).toEqual(["done", "failed", "done"]);
    expect(store.state.methodComparison?.entries[1]?.problem).toEqual({
      code: "adapter_unsupported",
      message: "Convolutions are not handled.",
    });
    expect(store.state.methodComparison?.status).toBe("done");
  });

  it("is none where no method could be used", async () => {
    behaviour.merge = async () => {
      throw coreError("adapter_unsupported", "No.");
    };
    await runMethodComparison(store);
    expect(rows()?.map(([, status]) => status)).toEqual(["failed", "failed", "failed"]);
    expect(store.state.methodComparison).toMatchObject({ status: "failed", tasks: [] });
    expect(store.state.methodComparison).not.toHaveProperty("problem");
  });

  it("that is cancelled keeps what is done", async () => {
    behaviour.merge = async (observer, { method }) => {
      const step = { stage: "solve" as const, layer: "", done: 0, total: 1, seconds: 0 };
      while (await observer.progress(step)) if (method === "iteris") return;
      throw coreError("cancelled", "The work was cancelled.");
    };
    store.onChange(() => {
      if (store.state.work?.label.startsWith("KnOTS") && !store.state.work.cancelling) cancel(store);
    });
    await runMethodComparison(store);
    expect(rows()?.map(([, status]) => status)).toEqual(["done", "waiting", "waiting"]);
    expect(store.state.methodComparison).toMatchObject({ status: "cancelled" });
    expect(store.state.methodComparison?.entries[0]?.files).toHaveLength(2);
  });

  it("that ends by a fault keeps what is done, and says whose work it was", async () => {
    behaviour.merge = async (_, { method }) => {
      if (method === "ties") throw new WebAssembly.RuntimeError("unreachable");
    };
    await runMethodComparison(store);
    expect(rows()?.map(([, status]) => status)).toEqual(["done", "done", "failed"]);
    expect(store.state.methodComparison).toMatchObject({ status: "failed", problem: { code: "internal" } });
  });
});
