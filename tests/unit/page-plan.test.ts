/** What the page tells of a merge before it starts, with a fake library. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { MergePlan, PlanRequest } from "../../www/lib/types.ts";
import { checklist, isReady } from "../../www/page/checklist.ts";
import { keepPlan, sentenceOf } from "../../www/page/plan.ts";
import { Store } from "../../www/page/state.ts";
import { begin } from "../../www/page/work.ts";
import { smallPlan, tooLargePlan } from "./fake-wasm.ts";
import { adapter, readyState } from "./page-state.ts";

let asked: PlanRequest[];
let answer: (request: PlanRequest) => Promise<MergePlan>;
vi.mock("../../www/lib/index.ts", async (original) => ({
  ...(await original<typeof import("../../www/lib/index.ts")>()),
  planMerge: (request: PlanRequest) => {
    asked.push(request);
    return answer(request);
  },
}));

let store: Store;
beforeEach(() => {
  vi.useFakeTimers();
  asked = [];
  answer = async () => smallPlan;
  store = new Store();
  Object.assign(store.state, readyState());
  store.state.settings.method = "linear";
  keepPlan(store);
});
afterEach(() => vi.useRealTimers());

/** Long enough for changes to have come to rest. */
const rest = () => vi.advanceTimersByTimeAsync(1000);

describe("the plan", () => {
  it("is asked for once changes have come to rest, and anew when inputs or options change", async () => {
    for (const rank of [3, 4, 5]) {
      store.change(({ settings }) => Object.assign(settings, { rank }));
      await vi.advanceTimersByTimeAsync(50);
    }
    expect(asked).toEqual([]);
    await rest();
    expect(asked.map(({ options }) => options?.rank)).toEqual([5]);
    expect(asked[0]?.adapters.map(({ name }) => name)).toEqual(["mood", "topic"]);
    expect(store.state.plan).toEqual(smallPlan);

    store.change(({ adapters }) => adapters.push(adapter("third")));
    await vi.advanceTimersByTimeAsync(0);
    expect(store.state.plan).toBeUndefined();
    await rest();
    expect(asked).toHaveLength(2);
  });

  it.each(["with", "without"])(
    "is not asked for again where nothing of it has changed, %s a base",
    async (how) => {
      store.change((state) => {
        if (how === "without") state.base = undefined;
      });
      await rest();
      expect(store.state.plan).toEqual(smallPlan);
      store.change(({ playground }) => Object.assign(playground, { prompt: "Dear" }));
      await rest();
      expect(asked).toHaveLength(1);
    },
  );

  it("waits for the end of a running merge", async () => {
    begin(store, "merge", "Merging");
    await rest();
    store.change(({ settings }) => Object.assign(settings, { rank: 3 }));
    await rest();
    expect(asked).toEqual([]);
    store.change((state) => {
      state.work = undefined;
    });
    await rest();
    expect(asked).toHaveLength(1);
  });

  it("is of what is there now, not of what was there when it was asked for", async () => {
    const answers: ((plan: MergePlan) => void)[] = [];
    answer = () => new Promise((resolve) => answers.push(resolve));
    store.change(() => undefined);
    await rest();
    store.change(({ settings }) => Object.assign(settings, { rank: 3 }));
    await rest();
    answers[1]?.(smallPlan);
    answers[0]?.(tooLargePlan);
    await rest();
    expect(store.state.plan).toEqual(smallPlan);
  });

  it("is not there while something lacks, for a comparison, or where it cannot be made", async () => {
    store.change((state) => Object.assign(state, { several: true }));
    await rest();
    store.change((state) => Object.assign(state, { several: false, adapters: [] }));
    await rest();
    expect(asked).toEqual([]);
    answer = async () => {
      throw new Error("of another base model");
    };
    store.change(({ adapters }) => adapters.push(adapter("one")));
    await rest();
    expect([asked.length, store.state.plan]).toEqual([1, undefined]);
  });
});

describe("a merge that memory does not hold", () => {
  it("is not ready, and the checklist says what the core says; the plan is kept up to date all the same", async () => {
    answer = async () => tooLargePlan;
    store.change(() => undefined);
    await rest();
    const items = checklist(store.state);
    expect(isReady(items)).toBe(false);
    expect(items.at(-1)).toMatchObject({
      status: "wrong",
      text: `${tooLargePlan.refusal}.`,
    });
    answer = async () => smallPlan;
    store.change(({ settings }) => Object.assign(settings, { rank: 8 }));
    await rest();
    expect(isReady(checklist(store.state))).toBe(true);
  });
});

it("is told in a sentence, without what the samples decide", () => {
  expect(sentenceOf(smallPlan)).toBe("About 6 s, 62.9 MB of memory; writes 449 MB.");
  expect(sentenceOf({ ...smallPlan, seconds: 200 })).toMatch(/^About 3 min,/);
  expect(sentenceOf({ ...smallPlan, seconds: null, peakBytes: null })).toBe("Writes 449 MB.");
});
