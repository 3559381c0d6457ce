/** The devices a call can run on, as they are asked for and as they are found. */

/** A device a merge can run on. */
export type DeviceKind = "cpu" | "webgpu";

/** What the caller asks for: a device, or `auto` to have one chosen. */
export type DeviceRequest = DeviceKind | "auto";

/** What `chooseDevice` found. */
export interface DeviceChoice {
  kind: DeviceKind;
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
