/** The browser's workers that rest between calls: when they are loaded, handed out, taken back and given up. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { FromHelper } from "../../www/lib/engine/share.ts";
import { Helpers, type HelperWorker } from "../../www/lib/worker/start-helper.ts";

/** A worker that does what the test says. */
class FakeWorker {
  onmessage: HelperWorker["onmessage"] = null;
  onerror: HelperWorker["onerror"] = null;
  onmessageerror: HelperWorker["onmessageerror"] = null;
  readonly heard: unknown[] = [];
  terminated = false;

  postMessage(message: unknown): void {
    this.heard.push(message);
  }

  terminate(): void {
    this.terminated = true;
  }

  say(data: FromHelper): void {
    (this.onmessage as (event: { data: FromHelper }) => void)({ data });
  }

  fail(message = ""): void {
    (this.onerror as (event: object) => void)({ message, preventDefault: () => {} });
  }
}

let workers: FakeWorker[];
beforeEach(() => {
  workers = [];
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function helpersOf(cores: number): Helpers {
  return new Helpers(cores, undefined, () => {
    const worker = new FakeWorker();
    workers.push(worker);
    return worker as unknown as HelperWorker;
  });
}

/** Whether it resolves without any time passing. */
async function isSettled(helpers: Helpers): Promise<boolean> {
  let settled = false;
  void helpers.settled().then(() => {
    settled = true;
  });
  await vi.advanceTimersByTimeAsync(0);
  return settled;
}

it("loads one for each further core, and counts those that are ready", async () => {
  const helpers = helpersOf(4);
  expect(workers).toHaveLength(3);
  expect(helpers.cores).toBe(1);
  workers[0]?.say({ type: "ready" });
  workers[1]?.say({ type: "ready" });
  expect(helpers.cores).toBe(3);
  expect(await isSettled(helpers)).toBe(false);
  workers[2]?.fail();
  expect(workers[2]?.terminated).toBe(true);
  expect(await isSettled(helpers)).toBe(true);
  expect(helpers.cores).toBe(3);
  // It would be no other script that is loaded once more.
  expect(workers).toHaveLength(3);
});

it("loads no more than seven by itself", () => {
  helpersOf(64);
  expect(workers).toHaveLength(7);
  helpersOf(1);
  expect(workers).toHaveLength(7);
});

it("lets no call wait for ever for a script that does not come", async () => {
  const helpers = helpersOf(2);
  let settled = false;
  void helpers.settled().then(() => {
    settled = true;
  });
  await vi.advanceTimersByTimeAsync(1900);
  expect(settled).toBe(false);
  await vi.advanceTimersByTimeAsync(200);
  expect(settled).toBe(true);
  expect(helpers.cores).toBe(1);
});

it("hands out those that rest, and starts others where more are asked for", () => {
  const helpers = helpersOf(2);
  workers[0]?.say({ type: "ready" });
  const heard: FromHelper[] = [];
  const start = () =>
    helpers.start(
      (message) => heard.push(message),
      () => {},
    );
  const first = start();
  expect(workers).toHaveLength(1);
  expect(helpers.cores).toBe(1);
  start();
  expect(workers).toHaveLength(2);
  first.post({ type: "ask", id: 1, question: Uint8Array.of(1) });
  expect(workers[0]?.heard).toEqual([{ type: "ask", id: 1, question: Uint8Array.of(1) }]);
  const answer = { type: "answer", id: 1, answer: Uint8Array.of(2) } as const;
  workers[0]?.say(answer);
  expect(heard).toEqual([answer]);
});

it("takes an idle one back when it has let go, without a request", async () => {
  const helpers = helpersOf(2);
  workers[0]?.say({ type: "ready" });
  const failures: unknown[] = [];
  const helper = helpers.start(
    () => {},
    (error) => failures.push(error),
  );
  helper.end(true);
  expect(workers[0]?.heard).toEqual([{ type: "rest" }]);
  expect(helpers.cores).toBe(1);
  expect(await isSettled(helpers)).toBe(false);
  workers[0]?.say({ type: "ready" });
  expect(helpers.cores).toBe(2);
  expect(await isSettled(helpers)).toBe(true);
  expect(workers).toHaveLength(1);
  // What goes wrong in it now is nobody's error, and it is not handed out any more.
  workers[0]?.fail("out of nothing");
  expect(failures).toEqual([]);
  expect(helpers.cores).toBe(1);
  expect(workers[0]?.terminated).toBe(true);
  expect(workers).toHaveLength(2);
});

it("gives up one that cannot let go, and loads another in its place", () => {
  const helpers = helpersOf(2);
  workers[0]?.say({ type: "ready" });
  helpers
    .start(
      () => {},
      () => {},
    )
    .end(true);
  workers[0]?.say({ type: "failed", error: { code: "internal", message: "Internal fault" } });
  expect(workers[0]?.terminated).toBe(true);
  expect(helpers.cores).toBe(1);
  expect(workers).toHaveLength(2);
  workers[1]?.say({ type: "ready" });
  expect(helpers.cores).toBe(2);
});

it("ends one that is busy, and loads another in its place", () => {
  const helpers = helpersOf(2);
  workers[0]?.say({ type: "ready" });
  const start = () =>
    helpers.start(
      () => {},
      () => {},
    );
  const [busy, further] = [start(), start()];
  busy.end(false);
  expect(workers[0]?.terminated).toBe(true);
  expect(workers).toHaveLength(3);
  // There are as many as there are cores for: the one that was started beyond them goes.
  further.end(true);
  expect(workers[1]?.terminated).toBe(true);
  workers[2]?.say({ type: "ready" });
  expect(helpers.cores).toBe(2);
});

it("tells a call why its worker is of no use", () => {
  const helpers = helpersOf(1);
  const failures: Error[] = [];
  helpers.start(
    () => {},
    (error) => failures.push(error),
  );
  workers[0]?.fail("boom");
  workers[0]?.fail();
  expect(failures.map(({ message }) => message)).toEqual([
    "Internal fault: a worker failed, boom",
    "Internal fault: a worker failed, its script or the wasm module cannot be loaded",
  ]);
});

it("leaves the worker alone where a policy forbids others", async () => {
  const helpers = new Helpers(4, undefined, () => {
    throw new Error("refused");
  });
  expect(await isSettled(helpers)).toBe(true);
  expect(helpers.cores).toBe(1);
});
