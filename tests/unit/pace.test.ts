/** How long work will still take: of the stage at hand, steady, and not from the first moment. */
import { describe, expect, it } from "vitest";
import { Pace, shareOf } from "../../www/lib/pace.ts";
import type { Progress } from "../../www/lib/types.ts";

const at = (seconds: number, done: number, more: Partial<Progress> = {}): Progress => ({
  stage: "merge",
  layer: "",
  done,
  total: 100,
  seconds,
  ...more,
});

describe("the share done", () => {
  it("is of bytes where they are counted, else of steps", () => {
    expect(shareOf(at(0, 25))).toBe(0.25);
    expect(shareOf(at(0, 25, { bytesDone: 3, bytesTotal: 4 }))).toBe(0.75);
    expect(shareOf(at(0, 0, { total: 0 }))).toBe(0);
  });
});

describe("the time left", () => {
  it("is told after some seconds and some share, from the pace of the stage alone", () => {
    const pace = new Pace();
    // A minute went by before the stage began.
    expect(pace.secondsLeft(at(60, 0))).toBeNull();
    expect(pace.secondsLeft(at(61, 10))).toBeNull();
    expect(pace.secondsLeft(at(70, 20))).toBeCloseTo(40);
    const slow = new Pace();
    slow.secondsLeft(at(0, 0));
    expect(slow.secondsLeft(at(100, 2))).toBeNull();
  });

  it("is told in every phase", () => {
    for (const stage of [
      "load",
      "generate",
      "forward",
      "gram",
      "solve",
      "merge",
      "write",
      "compare",
    ] as const) {
      const pace = new Pace();
      pace.secondsLeft(at(0, 0, { stage }));
      expect(pace.secondsLeft(at(10, 50, { stage })), stage).toBeCloseTo(10);
    }
  });

  it("follows bytes where layers differ in size", () => {
    const pace = new Pace();
    pace.secondsLeft(at(0, 0, { bytesDone: 0, bytesTotal: 100 }));
    // Half of the layers were small ones.
    expect(pace.secondsLeft(at(10, 50, { bytesDone: 10, bytesTotal: 100 }))).toBeCloseTo(90);
  });

  it("does not jump where one layer takes long", () => {
    const pace = new Pace();
    let before = 0;
    for (let done = 0; done <= 50; done += 1) before = pace.secondsLeft(at(done, done)) ?? 0;
    expect(before).toBeCloseTo(50, 0);
    // The pace so far would say 69 seconds after a layer of 10.
    const after = pace.secondsLeft(at(60, 51)) ?? 0;
    expect(Math.abs(after - before)).toBeLessThan(12);
  });

  it("goes on where stages take turns with the same layers, and starts anew with another count", () => {
    const pace = new Pace();
    for (let done = 0; done < 40; done += 1) {
      pace.secondsLeft(at(done, done));
      // What was merged before is written.
      pace.secondsLeft(at(done + 0.5, Math.max(0, done - 1), { stage: "write" }));
    }
    // The first counts are too small to tell a turn from a new begin.
    expect(Math.abs((pace.secondsLeft(at(40, 40)) ?? 0) - 60)).toBeLessThan(5);
    expect(pace.secondsLeft(at(101, 0, { stage: "write" }))).toBeNull();
    expect(pace.secondsLeft(at(40, 40, { variant: "ties" }))).toBeNull();
  });
});
