/** The real module without memory: what is told of a trap that says nothing itself. Needs dist/. */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";

const library = join(import.meta.dirname, "../../dist/node.js");

/** Leaves the module's first instance 40 MiB, and lets it read an adapter; then once more. */
const script = `
const { Instance } = WebAssembly;
WebAssembly.Instance = function (...given) {
  WebAssembly.Instance = Instance;
  const made = new Instance(...given);
  const { memory } = made.exports;
  memory.grow(65536 - 640 - memory.buffer.byteLength / 65536);
  return made;
};
const { inspectAdapter } = await import(process.argv[1]);
for (let i = 0; i < 2; i += 1) {
  await inspectAdapter(process.argv[2]).catch(({ code, message }) => console.log(JSON.stringify({ code, message })));
}
`;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "iteris-memory-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

test("a header that does not fit is want of memory, with what was wanted and where; the next call has room", async () => {
  // A header of 90 MB, which is as long as one may be; the file's bytes are not there, and take no room on the disk.
  const path = join(folder, "adapter_model.safetensors");
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(90_000_000n);
  writeFileSync(path, length);
  truncateSync(path, 100_000_000);
  writeFileSync(
    join(folder, "adapter_config.json"),
    JSON.stringify({ peft_type: "LORA", r: 4, lora_alpha: 4 }),
  );
  const line = ["--input-type=module", "--eval", script, library, folder];
  const { stdout } = await promisify(execFile)(process.execPath, line);
  const [first, second] = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(first.code).toBe("out_of_memory");
  expect(first.message).toMatch(
    /^Memory ran out: 85\.8 MiB more were asked for when the module held 40\d\d\.\d MiB\. .* \(while reading an adapter \(adapter_model\.safetensors\)\)\.$/,
  );
  // What is wrong with the file itself.
  expect(second.code).toBe("header_invalid");
});
