/**
 * WebGPU in Node, through the optional npm package `webgpu` (Dawn, Chrome's implementation).
 *
 * The core's wgpu looks for the GPU where a browser has it: at `navigator.gpu` of a window or a worker. So
 * this makes the process look like a worker, and it has to before the wasm module starts its device.
 */

/** What the package `webgpu` exports. */
interface Dawn {
  create(flags: string[]): GPU;
  globals: Record<string, unknown>;
}

/** What a person can do where WebGPU is missing. */
export const nodeGpuRemedy =
  "In Node, WebGPU comes from an optional package beside this one: npm install webgpu. Or use the CPU device.";

let found: Promise<GPU | undefined> | null = null;

/** Dawn's `GPU`, or `undefined` where the package is not installed. */
export function nodeGpu(): Promise<GPU | undefined> {
  found ??= start();
  return found;
}

async function start(): Promise<GPU | undefined> {
  const present = (globalThis.navigator as Navigator | undefined)?.gpu;
  if (present !== undefined) return present;
  let dawn: Dawn;
  try {
    // A name the type checker cannot follow: the package is optional and mostly absent.
    const name: string = "webgpu";
    dawn = await import(/* @vite-ignore */ name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ERR_MODULE_NOT_FOUND") return undefined;
    // Installed, but not for this machine. Whoever looks for an adapter learns why there is none.
    return { requestAdapter: () => Promise.reject(error) } as unknown as GPU;
  }
  Object.assign(globalThis, dawn.globals);
  const gpu = dawn.create([]);
  const place = globalThis as { navigator?: object; WorkerGlobalScope?: unknown };
  // Node 20 has no navigator; later ones have, and it cannot be assigned.
  if (place.navigator === undefined) Object.defineProperty(globalThis, "navigator", { value: {} });
  Object.defineProperty(globalThis.navigator, "gpu", { value: gpu });
  place.WorkerGlobalScope ??= class {};
  return gpu;
}
