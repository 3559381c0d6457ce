/** Which device a call runs on, and the sentence that says why. */
import { IterisError } from "../errors.ts";
import type { DeviceChoice, DeviceRequest } from "../types.ts";
import { nameOfAdapter, probe } from "./probe.ts";

/**
 * Chooses a device.
 *
 * `auto` takes WebGPU on a real adapter. It takes the CPU on a software adapter, which plays a GPU on the
 * same processor and is slower at it than the CPU device.
 *
 * @param gpu - `navigator.gpu`, if there is one
 * @param remedy - what a person can do where there is no WebGPU
 * @throws IterisError `webgpu_unavailable` if `webgpu` is asked for and cannot be used
 */
export async function choose(
  request: DeviceRequest,
  gpu: GPU | undefined,
  remedy: string,
): Promise<DeviceChoice> {
  if (request === "cpu") return { kind: "cpu", why: "The CPU was asked for.", adapter: null };
  if (request !== "auto" && request !== "webgpu") {
    throw new IterisError("option_invalid", `device must be auto, webgpu or cpu, not ${String(request)}.`);
  }
  const found = await probe(gpu);
  if (request === "webgpu") {
    if (!found.usable) {
      throw new IterisError("webgpu_unavailable", `WebGPU cannot be used: ${found.lacks}. ${remedy}`);
    }
    const slow = found.adapter.software ? ", a software adapter, slower than the CPU device" : "";
    const why = `WebGPU was asked for; it runs on ${nameOfAdapter(found.adapter)}${slow}.`;
    return { kind: "webgpu", why, adapter: found.adapter };
  }
  if (!found.usable) return { kind: "cpu", why: `The CPU, because ${found.lacks}.`, adapter: found.adapter };
  const name = nameOfAdapter(found.adapter);
  return found.adapter.software
    ? {
        kind: "cpu",
        why: `The CPU, because WebGPU has only a software adapter (${name}).`,
        adapter: found.adapter,
      }
    : { kind: "webgpu", why: `WebGPU on ${name}.`, adapter: found.adapter };
}
