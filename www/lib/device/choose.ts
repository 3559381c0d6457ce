/** Which device a call may run on, and the sentence that says why. */
import { IterisError } from "../errors.ts";
import type { DeviceChoice, DeviceRequest, GpuAdapterInfo } from "../types.ts";
import { nameOfAdapter, probe } from "./probe.ts";

/** The CPU, and why; `adapter` is a GPU that was looked at. */
export function cpuBecause(why: string, adapter: GpuAdapterInfo | null = null): DeviceChoice<"cpu"> {
  return { kind: "cpu", why, adapter };
}

/**
 * Chooses a device, as far as that can be told before it is known what is computed.
 *
 * Of `auto` stays `auto` where there is a GPU: the core measures both, and takes what is quicker for the work. A software
 * adapter is never taken: it is a program on the same processor.
 *
 * @param gpu - `navigator.gpu`, if there is one
 * @param remedy - what a person can do where there is no WebGPU
 * @throws IterisError `webgpu_unavailable` if `webgpu` is asked for and cannot be used
 */
export async function choose(
  request: DeviceRequest,
  gpu: () => Promise<GPU | undefined>,
  remedy: string,
): Promise<DeviceChoice<DeviceRequest>> {
  if (request === "cpu") return cpuBecause("The CPU was asked for.");
  if (request !== "auto" && request !== "webgpu") {
    throw new IterisError("option_invalid", `device must be auto, webgpu or cpu, not ${String(request)}.`);
  }
  const found = await probe(await gpu());
  const { adapter } = found;
  if (request === "auto") {
    if (!found.usable) return cpuBecause(`The CPU: WebGPU cannot be used, ${found.lacks}.`, adapter);
    const name = nameOfAdapter(found.adapter);
    if (found.adapter.software) {
      const why = `The CPU: ${name} is a software adapter, which plays a GPU on the same processor.`;
      return cpuBecause(why, adapter);
    }
    const why = `The CPU or the GPU (${name}): both are measured, and the work runs on the quicker.`;
    return { kind: "auto", why, adapter };
  }
  if (!found.usable) {
    throw new IterisError("webgpu_unavailable", `WebGPU cannot be used: ${found.lacks}. ${remedy}`);
  }
  const slow = found.adapter.software ? ", a software adapter, slower than the CPU device" : "";
  const why = `WebGPU was asked for; it runs on ${nameOfAdapter(found.adapter)}${slow}.`;
  return { kind: "webgpu", why, adapter };
}
