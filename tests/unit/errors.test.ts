import { describe, expect, it } from "vitest";
import { errorCodes, IterisError, toIterisError, toPlainError } from "../../www/lib/errors.ts";
import { ERROR_CODES } from "../../www/lib/generated.ts";

describe("the codes", () => {
  it("are those of the core, and that of what the core knows nothing of", () => {
    expect(Object.keys(errorCodes)).toEqual([...Object.keys(ERROR_CODES), "recipe_mismatch"]);
  });
});

describe("what was thrown", () => {
  it("keeps a known code and its message, whoever made it", () => {
    const core = Object.assign(new Error("no such tensor: x"), { code: "missing" });
    expect(toIterisError(core)).toBeInstanceOf(IterisError);
    expect(toPlainError(core)).toEqual({ code: "missing", message: "no such tensor: x" });
    expect(toPlainError({ code: "missing", message: "posted" })).toEqual({
      code: "missing",
      message: "posted",
    });
    const mine = new IterisError("duplicate", "twice");
    expect(toIterisError(mine)).toBe(mine);
  });

  it.each([
    // As V8, SpiderMonkey and JavaScriptCore say it.
    "Array buffer allocation failed",
    "Invalid array length",
    "Out of memory",
    "WebAssembly.Memory.grow(): Maximum memory size exceeded",
    "WebAssembly.instantiate(): Out of memory: Cannot allocate Wasm memory for new instance",
  ])("is want of memory if JavaScript says: %s", (message) => {
    expect(toPlainError(new RangeError(message))).toEqual({
      code: "out_of_memory",
      message: `Memory ran out: ${message}`,
    });
  });

  it.each([
    [
      "a stack that is too deep",
      new RangeError("Maximum call stack size exceeded"),
      "Internal fault: Maximum call stack size exceeded",
    ],
    ["an error of the system", Object.assign(new Error("no"), { code: "ENOENT" }), "Internal fault: no"],
    ["a trap", new WebAssembly.RuntimeError("unreachable"), "Internal fault: unreachable"],
    ["a word", "oops", "Internal fault: oops"],
    ["nothing", undefined, "Internal fault: undefined"],
    ["a code of the prototype", { code: "toString", message: "x" }, "Internal fault: [object Object]"],
  ])("is an internal fault if it is %s", (_, thrown, message) => {
    expect(toPlainError(thrown)).toEqual({ code: "internal", message });
  });
});
