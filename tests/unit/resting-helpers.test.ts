/** The browser's workers that rest between calls: when they are loaded, handed out, taken back and given up. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { FromHelper, ToHelper } from "../../www/lib/engine/share.ts";
import { IterisError } from "../../www/lib/errors.ts";
import { mostResting, RestingHelpers } from "../../www/lib/worker/resting-helpers.ts";

/** A worker that does what the test says. */
interface Fake {
  say(message: FromHelper): void;
  fail(): void;
  heard: ToHelper[];
  ended: boolean;
}

let workers: Fake[];
/** What calls were told of workers that failed them. */
let failures: string[];
beforeEach(() => {
  workers = [];
  failures = [];
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function helpersOf(most: number): RestingHelpers {
  const start: RestingHelpers["start"] = (say, onFailure) => {
    const fail = () => onFailure(new IterisError("internal", "It ended."));
    const fake: Fake = { say, fail, heard: [], ended: false };
    workers.push(fake);
    const end = () => {
      fake.ended = true;
    };
    return { post: (message) => fake.heard.push(message), end };
  };
  return new RestingHelpers(start, most, 2 ** 32);
}

/** A helper for a call that hears nothing. */
function taken(helpers: RestingHelpers) {
  return helpers.start(
    () => {},
    ({ message }) => failures.push(message),
  );
}

/** The cores that a call may take, and how long it waited to know. */
async function roomOf(helpers: RestingHelpers): Promise<{ cores: number; waited: number }> {
  const asked = Date.now();
  const room = helpers.room().then(({ cores }) => ({ cores, waited: Date.now() - asked }));
  await vi.advanceTimersByTimeAsync(5000);
  return await room;
}

it("are one for each further core, seven at most, and fewer where there is little memory", () => {
  expect([1, 2, 8, 64].map((cores) => mostResting(cores, undefined))).toEqual([0, 1, 7, 7]);
  expect([0.25, 1, 2, 4, 8].map((memoryGib) => mostResting(16, memoryGib))).toEqual([0, 0, 1, 3, 7]);
  expect(mostResting(2, 8)).toBe(1);
});

it("are loaded at once, and counted when they are ready", async () => {
  const helpers = helpersOf(2);
  expect(workers).toHaveLength(2);
  workers[0]?.say({ type: "ready" });
  const room = helpers.room();
  workers[1]?.say({ type: "ready" });
  expect(await room).toEqual({ cores: 3, memoryBytes: 2 ** 32 });
  expect(await roomOf(helpers)).toEqual({ cores: 3, waited: 0 });
  expect(workers).toHaveLength(2);
});

it("let no call wait for ever for a script that does not come", async () => {
  const helpers = helpersOf(2);
  workers[0]?.say({ type: "ready" });
  expect(await roomOf(helpers)).toEqual({ cores: 2, waited: 2000 });
});

it("are tried once more before each call where their script cannot be loaded, and the call goes on without", async () => {
  const helpers = helpersOf(1);
  workers[0]?.fail();
  expect(workers).toHaveLength(1);
  const room = helpers.room();
  expect(workers).toHaveLength(2);
  workers[1]?.fail();
  expect(await room).toMatchObject({ cores: 1 });
  expect(workers.map(({ ended }) => ended)).toEqual([true, true]);
  expect(failures).toEqual([]);
});

it("are handed out to calls, and others are started where more are asked for", async () => {
  const helpers = helpersOf(1);
  workers[0]?.say({ type: "ready" });
  const heard: FromHelper[] = [];
  const first = helpers.start(
    (message) => heard.push(message),
    () => {},
  );
  expect(workers).toHaveLength(1);
  taken(helpers);
  expect(workers).toHaveLength(2);
  first.post({ type: "ask", id: 1, question: Uint8Array.of(1) });
  expect(workers.map(({ heard }) => heard.length)).toEqual([1, 0]);
  const answer = { type: "answer", id: 1, answer: Uint8Array.of(2) } as const;
  workers[0]?.say(answer);
  expect(heard).toEqual([answer]);
});

it("are taken back when they have let go of a call, and given to the next", async () => {
  const helpers = helpersOf(1);
  workers[0]?.say({ type: "ready" });
  taken(helpers).end(true);
  expect(workers[0]?.heard).toEqual([{ type: "rest" }]);
  const room = helpers.room();
  await vi.advanceTimersByTimeAsync(1000);
  workers[0]?.say({ type: "ready" });
  expect(await room).toMatchObject({ cores: 2 });
  taken(helpers).post({ type: "ask", id: 1, question: Uint8Array.of(1) });
  expect(workers[0]?.heard.map(({ type }) => type)).toEqual(["rest", "ask"]);
  expect(workers).toHaveLength(1);
});

it("are given up where they fail while they rest, and another is loaded before the next call", async () => {
  const helpers = helpersOf(1);
  workers[0]?.say({ type: "ready" });
  taken(helpers).end(true);
  workers[0]?.say({ type: "ready" });
  workers[0]?.fail();
  expect(failures).toEqual([]);
  expect(workers.map(({ ended }) => ended)).toEqual([true]);
  const room = helpers.room();
  workers[1]?.say({ type: "ready" });
  expect(await room).toMatchObject({ cores: 2 });
});

it("are given up where they cannot let go of a call", async () => {
  const helpers = helpersOf(1);
  workers[0]?.say({ type: "ready" });
  taken(helpers).end(true);
  workers[0]?.say({ type: "failed", error: { code: "internal", message: "Internal fault" } });
  expect(workers[0]?.ended).toBe(true);
  void helpers.room();
  expect(workers).toHaveLength(2);
});

it("are ended where they are busy when a call ends, and replaced before the next, not before", async () => {
  const helpers = helpersOf(1);
  workers[0]?.say({ type: "ready" });
  taken(helpers).end(false);
  expect(workers[0]?.ended).toBe(true);
  // A call that was cancelled ends all workers: to load one more for it would be for nothing.
  expect(workers).toHaveLength(1);
  void helpers.room();
  expect(workers).toHaveLength(2);
});

it("are ended where there are more than cores", () => {
  const helpers = helpersOf(1);
  workers[0]?.say({ type: "ready" });
  const [first, further] = [taken(helpers), taken(helpers)];
  workers[1]?.say({ type: "ready" });
  first.end(true);
  further.end(true);
  expect(workers.map(({ heard, ended }) => [heard.map(({ type }) => type), ended])).toEqual([
    [["rest"], false],
    [[], true],
  ]);
});

it("tell a call of their failure", () => {
  const helpers = helpersOf(0);
  taken(helpers);
  workers[0]?.fail();
  expect(failures).toEqual(["It ended."]);
});
