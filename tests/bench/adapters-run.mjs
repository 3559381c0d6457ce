// One call of the built package in a process of its own: `node adapters-run.mjs '{"adapters": […], …}'` prints what it
// took as JSON. The program's start (loading the module, compiling it, a first small call) is told apart.
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { distFolder, root } from "../../xtask/paths.mjs";

/**
 * @typedef {{ adapters: string[], base?: string, options?: Record<string, unknown>, out?: string }} Call `options` of a
 *   merge into the folder `out`; without them the first adapter is inspected
 * @typedef {{ seconds: number, start: number, peak_bytes: number, module_bytes: number }} Took `module_bytes`: the peak
 *   of WebAssembly's memory, over all of the process's modules
 */

const memories = keepMemories();
const begin = performance.now();
/** @type {typeof import("../../www/node/index.ts")} */
const { inspectAdapter, mergeInto, OutputFolder } = await import(
  pathToFileURL(join(distFolder, "node.js")).href
);
await inspectAdapter(join(root, "www/example/adapters/reviews"));
const started = performance.now();

/** @type {Call} */
const { adapters, base, options, out } = JSON.parse(process.argv[2] ?? "{}");
if (options === undefined || out === undefined) {
  await inspectAdapter(adapters[0] ?? "");
} else {
  const folder = await OutputFolder.create(out);
  const named = adapters.map((files, index) => ({ name: `adapter ${index + 1}`, files }));
  await mergeInto({ base, adapters: named, options, device: "cpu" }, folder);
  await folder.finish();
}
/** @type {Took} */
const took = {
  seconds: (performance.now() - started) / 1e3,
  start: (started - begin) / 1e3,
  peak_bytes: process.resourceUsage().maxRSS * 1024,
  // It never shrinks, so its size is its peak.
  module_bytes: memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0),
};
console.log(JSON.stringify(took));

/** The memory of every module that is made from now on; the package does not hand its own out. */
function keepMemories() {
  /** @type {WebAssembly.Memory[]} */
  const kept = [];
  const keep = (/** @type {WebAssembly.Instance} */ instance) => {
    const memory = Object.values(instance.exports).find((value) => value instanceof WebAssembly.Memory);
    if (memory instanceof WebAssembly.Memory) kept.push(memory);
  };
  const { instantiate, Instance } = WebAssembly;
  WebAssembly.instantiate = /** @type {typeof instantiate} */ (
    async (/** @type {any} */ source, /** @type {any} */ imports) => {
      const made = /** @type {any} */ (await instantiate(source, imports));
      keep(made instanceof Instance ? made : made.instance);
      return made;
    }
  );
  WebAssembly.Instance = class extends Instance {
    /** @param {WebAssembly.Module} module @param {WebAssembly.Imports} [imports] */
    constructor(module, imports) {
      super(module, imports);
      keep(this);
    }
  };
  return kept;
}
