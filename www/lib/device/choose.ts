/** Which device a call runs on, and the sentence that says why. */
import { IterisError } from "../errors.ts";
import type { DeviceChoice, DeviceRequest } from "../types.ts";
import { nameOfAdapter, probe } from "./probe.ts";

/** Why `auto` takes the CPU. */
const AUTO =
  "The CPU, because a GPU is slower today than one core of it: the built-in example takes 75 s on an H200 and 4.2 s on one core. Ask for webgpu by name to use the GPU.";

/**
 * Chooses a device.
 *
 * `auto` takes the CPU, whatever GPU there is: until the GPU's path makes fewer round trips, it is many times slower.
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
  if (request === "auto") return { kind: "cpu", why: AUTO, adapter: null };
  if (request !== "webgpu") {
    throw new IterisError("option_invalid", `device must be auto, webgpu or cpu, not ${String(request)}.`);
  }
  const found = await probe(gpu);
  if (!found.usable) {
    throw new IterisError("webgpu_unavailable", `WebGPU cannot be used: ${found.lacks}. ${remedy}`);
  }
  const slow = found.adapter.software ? ", a software adapter, slower than the CPU device" : "";
  const why = `WebGPU was asked for; it runs on ${nameOfAdapter(found.adapter)}${slow}.`;
  return { kind: "webgpu", why, adapter: found.adapter };
}
