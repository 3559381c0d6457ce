/**
 * Looks at the machine's WebGPU before burn is started on it.
 *
 * burn's WebGPU runtime panics instead of failing where an adapter lacks something. burn must get the adapter that was
 * looked at, so this asks with the same preference. (Of `timestamp-query`, which burn asks for and does without, {@link
 * DeviceWatch} takes care.)
 */
import type { GpuAdapterInfo } from "../types.ts";

/** An adapter that burn can use, or the reason why there is none. */
export type Probe =
  | { usable: true; adapter: GpuAdapterInfo }
  | { usable: false; lacks: string; adapter: GpuAdapterInfo | null };

/**
 * The limits that WebGPU promises of every adapter except those of its compatibility mode, and that burn's
 * kernels are written for.
 */
const neededLimits = {
  maxStorageBufferBindingSize: 128 * 1024 * 1024,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupStorageSize: 16 * 1024,
  maxStorageBuffersPerShaderStage: 8,
} as const;

// Google's SwiftShader, Mesa's llvmpipe and lavapipe, Microsoft's WARP.
const softwareNames = /swiftshader|llvmpipe|lavapipe|\bwarp\b|basic render|\bsoftware\b/i;

/** What the adapter says about itself. */
export function describeAdapter(adapter: GPUAdapter): GpuAdapterInfo {
  const { vendor, architecture, device, description } = adapter.info;
  // Chromium moved the flag from the adapter to its info.
  const fallback =
    adapter.info.isFallbackAdapter || (adapter as { isFallbackAdapter?: boolean }).isFallbackAdapter === true;
  const named = softwareNames.test(`${vendor} ${architecture} ${device} ${description}`);
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const bufferBytes = Math.min(maxBufferSize, maxStorageBufferBindingSize);
  return { vendor, architecture, device, description, software: fallback || named, bufferBytes };
}

/** A name for messages, from the words the adapter describes itself with. */
export function nameOfAdapter(info: GpuAdapterInfo): string {
  const words = info.description || [info.vendor, info.architecture, info.device].filter(Boolean).join(" ");
  return words || "an adapter that does not tell its name";
}

/** Asks for the adapter that burn would get and checks it. */
export async function probe(gpu: GPU | undefined): Promise<Probe> {
  if (gpu === undefined) {
    return { usable: false, adapter: null, lacks: "there is no WebGPU here (navigator.gpu)" };
  }
  let adapter: GPUAdapter | null;
  try {
    adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { usable: false, adapter: null, lacks: `asking for a WebGPU adapter failed (${why})` };
  }
  if (adapter === null) return { usable: false, adapter: null, lacks: "WebGPU finds no adapter" };
  const info = describeAdapter(adapter);
  for (const [name, needed] of Object.entries(neededLimits)) {
    const has = adapter.limits[name as keyof typeof neededLimits];
    if (has < needed) {
      const lacks = `${nameOfAdapter(info)} has ${name} ${has}, and ${needed} is needed`;
      return { usable: false, adapter: info, lacks };
    }
  }
  return { usable: true, adapter: info };
}
