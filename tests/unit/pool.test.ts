/** The workers that help at a merge: how they are started, asked, watched and ended. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Faults } from "../../www/lib/engine/faults.ts";
import { type HelperHost, Pool } from "../../www/lib/engine/pool.ts";
import { type FromHelper, Share, type ToHelper } from "../../www/lib/engine/share.ts";
import { IterisError } from "../../www/lib/errors.ts";
import type { MergeSource, Questions, Team } from "../../www/lib/wasm-interface.ts";
import { fakeWasm } from "./fake-wasm.ts";

/** A worker that does what the test says. */
class FakeHelper {
  readonly heard: ToHelper[] = [];
  /** As it was let go: idle or not. */
  ended: boolean | null = null;
  readonly say: (message: FromHelper) => void;
  readonly fail: (error: IterisError) => void;

  constructor(say: (message: FromHelper) => void, fail: (error: IterisError) => void) {
    this.say = say;
    this.fail = fail;
  }

  post(message: ToHelper): void {
    this.heard.push(message);
  }

  end(idle: boolean): void {
    this.ended = idle;
  }
}

// A module needs no more than its head.
const module = new WebAssembly.Module(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
const blob = new Blob(["12"]);
const source: MergeSource = {
  base: [],
  adapters: [
    { name: "a", files: [{ name: "a.safetensors", size: 2, blob }], weight: 0.5 },
    { name: "b", files: [{ name: "b.safetensors", size: 2, url: "https://example.org/b" }], path: "b" },
  ],
  options: { method: "svd" },
};

let helpers: FakeHelper[];
let isCancelled: boolean;
let pool: Pool;

const host: HelperHost = {
  room: async () => ({ cores: 4, memoryBytes: 2 ** 33 }),
  start(onMessage, onFailure) {
    const helper = new FakeHelper(onMessage, onFailure);
    helpers.push(helper);
    return helper;
  },
};

beforeEach(() => {
  helpers = [];
  isCancelled = false;
  pool = new Pool(
    host,
    () => module,
    () => isCancelled,
  );
});

afterEach(() => {
  pool.close();
  vi.useRealTimers();
});

async function teamOf(workers: number | "auto" = "auto"): Promise<Team> {
  const team = await pool.team("merge", source, workers);
  if (team === undefined) throw new Error("there is no team");
  return team;
}

const bytes = (...numbers: number[]) => Uint8Array.from(numbers);
const question = bytes(7);

describe("a pool of workers", () => {
  it("tells the core what there is, this worker left out", async () => {
    expect(await teamOf()).toMatchObject({ cores: 3, memoryBytes: 2 ** 33 });
    expect(await teamOf(3)).toMatchObject({ exactly: 2 });
    expect(await teamOf(3)).not.toHaveProperty("cores");
  });

  it("is none for one worker, or where a file can be read here alone", async () => {
    expect(await pool.team("merge", source, 1)).toBeUndefined();
    const read = async () => bytes(1);
    const base = [{ name: "model.safetensors", size: 1, read }];
    expect(await pool.team("merge", { ...source, base }, "auto")).toBeUndefined();
    const adapters = [{ name: "a", files: base }];
    expect(await pool.team("merge", { ...source, adapters }, 4)).toBeUndefined();
  });

  it("gives each the module and the inputs, so that it opens them by itself", async () => {
    (await teamOf()).start(2);
    const job = {
      name: "merge",
      base: [],
      adapters: [
        { name: "a", files: [{ name: "a.safetensors", blob }], weight: 0.5 },
        { name: "b", files: [{ name: "b.safetensors", url: "https://example.org/b" }] },
      ],
      options: { method: "svd" },
    };
    expect(helpers.map(({ heard }) => heard)).toEqual([
      [{ type: "open", module, job }],
      [{ type: "open", module, job }],
    ]);
  });

  it("gives them the merged models of a comparison, and the variants of a generation", async () => {
    const files = [{ name: "m.safetensors", size: 2, blob }];
    const wired = [{ name: "m.safetensors", blob }];
    const compared = {
      base: files,
      adapters: [{ name: "a", files }],
      merged: [{ name: "m", files }],
      options: {},
    };
    (await pool.team("compare", compared, 2))?.start(1);
    const variants = [{ name: "base" }, { name: "m", files }];
    (await pool.team("generate", { base: files, variants, options: {} }, 2))?.start(1);
    const jobs = helpers.map(({ heard }) =>
      heard.flatMap((said) => (said.type === "open" ? [said.job] : [])),
    );
    const named = (name: string) => ({ name, files: wired });
    expect(jobs.flat()).toEqual([
      { name: "compare", base: wired, adapters: [named("a")], merged: [named("m")], options: {} },
      { name: "generate", base: wired, variants: [{ name: "base" }, named("m")], options: {} },
    ]);
    const read = [{ name: "m.safetensors", size: 1, read: async () => bytes(1) }];
    const unreadable = [{ name: "m", files: read }];
    expect(
      await pool.team("generate", { base: files, variants: unreadable, options: {} }, 2),
    ).toBeUndefined();
  });

  it("hands answers to who asked, in whatever order they come", async () => {
    const team = await teamOf();
    team.start(2);
    const answers = [team.ask(0, question), team.ask(1, question), team.ask(0, question)];
    const asked = helpers.map(({ heard }) => heard.flatMap((said) => (said.type === "ask" ? [said.id] : [])));
    helpers[1]?.say({ type: "answer", id: asked[1]?.[0] ?? -1, answer: bytes(2) });
    helpers[0]?.say({ type: "answer", id: asked[0]?.[1] ?? -1, answer: bytes(3) });
    helpers[0]?.say({ type: "answer", id: asked[0]?.[0] ?? -1, answer: bytes(1) });
    expect(await Promise.all(answers)).toEqual([bytes(1), bytes(2), bytes(3)]);
  });

  it("fails what a worker was asked, and what it is asked later, with the worker's error", async () => {
    const team = await teamOf();
    team.start(2);
    const [lost, other] = [team.ask(0, question), team.ask(1, question)];
    const error = { code: "not_finite", message: "NaN in layer 3" } as const;
    helpers[0]?.say({ type: "failed", error });
    await expect(lost).rejects.toMatchObject(error);
    await expect(team.ask(0, question)).rejects.toMatchObject(error);
    helpers[0]?.fail(new IterisError("internal", "It ended."));
    await expect(team.ask(0, question)).rejects.toMatchObject(error);
    helpers[1]?.fail(new IterisError("internal", "It ended."));
    await expect(other).rejects.toMatchObject({ code: "internal", message: "It ended." });
  });

  it("fails what is asked of a worker that cannot be started", async () => {
    const none = new Pool(
      {
        room: async () => ({ cores: 2, memoryBytes: undefined }),
        start: () => {
          throw new Error("a policy forbids workers");
        },
      },
      () => module,
      () => false,
    );
    const team = await none.team("merge", source, "auto");
    team?.start(1);
    await expect(team?.ask(0, question)).rejects.toMatchObject({ code: "internal" });
    none.close();
  });

  it("lets a cancelled call go, whatever its workers are at", async () => {
    vi.useFakeTimers();
    const team = await teamOf();
    team.start(1);
    const answer = team.ask(0, question);
    const settled = expect(answer).rejects.toMatchObject({ code: "cancelled" });
    await vi.advanceTimersByTimeAsync(300);
    isCancelled = true;
    await vi.advanceTimersByTimeAsync(100);
    await settled;
  });

  it("lets all of them go when the call has ended, and says which another call may have", async () => {
    const team = await teamOf();
    team.start(4);
    const answered = team.ask(0, question);
    const [asked] = helpers[0]?.heard.filter(({ type }) => type === "ask") ?? [];
    helpers[0]?.say({ type: "ready" });
    helpers[0]?.say({ type: "answer", id: asked && "id" in asked ? asked.id : -1, answer: bytes(1) });
    await answered;
    void team.ask(1, question);
    helpers[2]?.fail(new IterisError("internal", "It ended."));
    pool.close();
    expect(helpers.map(({ ended }) => ended)).toEqual([true, false, false, true]);
  });

  it("takes none of a cancelled call for idle", async () => {
    vi.useFakeTimers();
    const team = await teamOf();
    team.start(1);
    const answer = team.ask(0, question);
    isCancelled = true;
    const settled = expect(answer).rejects.toMatchObject({ code: "cancelled" });
    await vi.advanceTimersByTimeAsync(100);
    await settled;
    pool.close();
    expect(helpers.map(({ ended }) => ended)).toEqual([false]);
  });
});

describe("a worker that helps", () => {
  function share(solve: (questions: Questions) => Promise<void>, panic: string | null = null) {
    const said: FromHelper[] = [];
    const opened: string[] = [];
    const faults = new Faults();
    const wasm = {
      ...fakeWasm(),
      instances: 0,
      initSync: () => {
        wasm.instances = Math.max(wasm.instances, 1);
      },
      __wbg_reset_state: () => {
        wasm.instances += 1;
      },
      solveShare: (_name: string, _source: object, questions: Questions) => solve(questions),
    };
    const helper = new Share({
      wasm,
      open: async (files) => {
        opened.push(...files.map(({ name }) => name));
        return files.map(({ name }) => ({ name, size: 0 }));
      },
      post: (message, handedOver) => {
        said.push(structuredClone(message, { transfer: handedOver }));
      },
      faults,
      lastPanic: () => panic,
    });
    return { helper, said, opened, faults, wasm };
  }

  const job = {
    name: "merge" as const,
    base: [{ name: "model.safetensors", blob }],
    adapters: [{ name: "a", files: [{ name: "a.safetensors", blob }] }],
    options: {},
  };
  const open: ToHelper = { type: "open", module, job };

  it("opens the inputs and answers one question after the other, under its number", async () => {
    const { helper, said, opened } = share(async ({ next, answer }) => {
      for (let turn = 0; turn < 2; turn += 1) {
        const [word = 0] = (await next()) ?? [];
        await answer(bytes(2 * word));
      }
    });
    const working = helper.receive(open);
    void helper.receive({ type: "ask", id: 11, question: bytes(3) });
    await new Promise((resolve) => setTimeout(resolve, 5));
    void helper.receive({ type: "ask", id: 12, question: bytes(4) });
    await working;
    expect(opened.sort()).toEqual(["a.safetensors", "model.safetensors"]);
    expect(said).toEqual([
      { type: "answer", id: 11, answer: bytes(6) },
      { type: "answer", id: 12, answer: bytes(8) },
    ]);
  });

  it("lets go of a job and its memory where it is told to rest, and is ready for the next", async () => {
    const until: string[] = [];
    const { helper, said, wasm } = share(async ({ next, answer }) => {
      for (let asked = await next(); asked !== undefined; asked = await next()) await answer(asked);
      until.push("its end");
    });
    for (const id of [1, 2]) {
      void helper.receive(open);
      void helper.receive({ type: "ask", id, question: bytes(id) });
      await expect.poll(() => said.length).toBe(2 * id - 1);
      await helper.receive({ type: "rest" });
      expect(wasm.instances).toBe(1 + id);
    }
    expect(until).toEqual(["its end", "its end"]);
    expect(said).toEqual([
      { type: "answer", id: 1, answer: bytes(1) },
      { type: "ready" },
      { type: "answer", id: 2, answer: bytes(2) },
      { type: "ready" },
    ]);
  });

  it("is never ready again after a failure, one for want of a question among them", async () => {
    const { helper, said } = share(async ({ next }) => {
      if ((await next()) === undefined) throw new IterisError("internal", "nobody is left to ask");
    });
    void helper.receive(open);
    await helper.receive({ type: "rest" });
    expect(said).toMatchObject([{ type: "failed", error: { code: "internal" } }]);
  });

  it("is ready at once where it is told to rest before it was asked anything", async () => {
    const { helper, said, wasm } = share(async ({ next }) => {
      await next();
    });
    void helper.receive(open);
    await helper.receive({ type: "rest" });
    expect(said).toEqual([{ type: "ready" }]);
    expect(wasm.instances).toBe(2);
  });

  it("is ready at once where it was given no job", async () => {
    const { helper, said, wasm } = share(async () => {});
    await helper.receive({ type: "rest" });
    expect(said).toEqual([{ type: "ready" }]);
    expect(wasm.instances).toBe(0);
  });

  it("says what went wrong, a panic in its own words", async () => {
    const refused = share(() => Promise.reject(new IterisError("not_finite", "NaN in layer 3")));
    await refused.helper.receive(open);
    expect(refused.said).toEqual([
      { type: "failed", error: { code: "not_finite", message: "NaN in layer 3" } },
    ]);

    const broken = share(() => new Promise(() => {}), "panicked at src/a.rs:1: no room");
    const working = broken.helper.receive(open);
    await new Promise((resolve) => setTimeout(resolve, 5));
    broken.faults.raise(new IterisError("internal", "Internal fault: unreachable"));
    await working;
    expect(broken.said).toHaveLength(1);
    expect(broken.said[0]).toMatchObject({
      type: "failed",
      error: { code: "internal", message: expect.stringContaining("no room") },
    });
  });
});
