/** The devices a call can run on, as they are asked for and as they are found. */

import type { DeviceRequest } from "../generated.ts";

export type { DeviceRequest } from "../generated.ts";

/** A device a merge can run on. */
export type DeviceKind = Exclude<DeviceRequest, "auto">;

/**
 * Which device is used, or may be: `chooseDevice` tells `auto` where the CPU and a GPU will be measured for the work at
 * hand; what a call has run on is one of the two.
 */
export interface DeviceChoice<Kind extends DeviceRequest = DeviceKind> {
  kind: Kind;
  /** One sentence that a person can read: why this device. */
  why: string;
  /** The GPU that was looked at; `null` where there is none. */
  adapter: GpuAdapterInfo | null;
}

/** The words a WebGPU adapter describes itself with; browsers leave many of them empty. */
export interface GpuAdapterInfo {
  vendor: string;
  architecture: string;
  device: string;
  description: string;
  /** A program that plays a GPU on the processor. */
  software: boolean;
  /** The most bytes of one buffer that a kernel can use. */
  bufferBytes: number;
}
