/**
 * Counts what a worker asks of WebGPU. A software adapter says nothing of a GPU's speed, but its work is the same: a
 * readback is a round trip of milliseconds there, a pipeline tens of them, a dispatch some ten microseconds.
 */
import type { Page } from "playwright-core";

export interface GpuCounts {
  readbacks: number;
  readBytes: number;
  dispatches: number;
  submits: number;
  pipelines: number;
}

/** Starts the page's worker and counts in it. @returns what has been counted so far */
export async function countGpu(page: Page): Promise<() => Promise<GpuCounts>> {
  const started = page.waitForEvent("worker");
  await page.evaluate(() => iteris.version());
  const worker = await started;
  await worker.evaluate(() => {
    const counts = { readbacks: 0, readBytes: 0, dispatches: 0, submits: 0, pipelines: 0 };
    const wrap = <T extends object>(
      prototype: T,
      method: keyof T & string,
      count: (own: T, ...args: unknown[]) => void,
    ) => {
      const original = prototype[method] as (...args: unknown[]) => unknown;
      Object.defineProperty(prototype, method, {
        value(this: T, ...args: unknown[]) {
          count(this, ...args);
          return original.apply(this, args);
        },
      });
    };
    wrap(GPUBuffer.prototype, "mapAsync", (own, mode, _offset, size) => {
      if (((mode as number) & 1) === 0) return;
      counts.readbacks += 1;
      counts.readBytes += (size as number | undefined) ?? own.size;
    });
    wrap(GPUComputePassEncoder.prototype, "dispatchWorkgroups", () => {
      counts.dispatches += 1;
    });
    wrap(GPUComputePassEncoder.prototype, "dispatchWorkgroupsIndirect", () => {
      counts.dispatches += 1;
    });
    wrap(GPUQueue.prototype, "submit", () => {
      counts.submits += 1;
    });
    for (const method of ["createComputePipeline", "createComputePipelineAsync"] as const) {
      wrap(GPUDevice.prototype, method, () => {
        counts.pipelines += 1;
      });
    }
    Object.assign(globalThis, { gpuCounts: counts });
  });
  return () => worker.evaluate(() => (globalThis as unknown as { gpuCounts: GpuCounts }).gpuCounts);
}
