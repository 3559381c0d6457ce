import { describe, expect, it } from "vitest";
import { choose } from "../../www/lib/device/choose.ts";
import { DeviceWatch } from "../../www/lib/device/watch.ts";
import { fakeGpu, real, swiftShader } from "./fake-gpu.ts";

const given = (gpu: GPU | undefined) => async () => gpu;

describe("auto", () => {
  it.each([
    ["no WebGPU", undefined, "there is no WebGPU here"],
    ["no adapter", fakeGpu(null), "finds no adapter"],
    ["a failing request", fakeGpu(new Error("blocked")), "(blocked)"],
    [
      "small buffers",
      fakeGpu({ ...real, limits: { maxStorageBufferBindingSize: 1 << 20 } }),
      "maxStorageBufferBindingSize 1048576",
    ],
    ["a software adapter", fakeGpu(swiftShader), "google swiftshader is a software adapter"],
  ])("takes the CPU with %s, and says why", async (_, gpu, why) => {
    expect(await choose("auto", given(gpu), "")).toMatchObject({
      kind: "cpu",
      why: expect.stringContaining(why),
    });
  });

  it("is left to the core where there is a GPU", async () => {
    expect(await choose("auto", given(fakeGpu(real)), "")).toMatchObject({
      kind: "auto",
      why: "The CPU or the GPU (nvidia ampere): both are measured, and the work runs on the quicker.",
      adapter: { vendor: "nvidia", software: false },
    });
  });
});

describe("webgpu", () => {
  it.each([
    ["no WebGPU", undefined, "navigator.gpu"],
    ["no adapter", fakeGpu(null), "finds no adapter"],
    [
      "small buffers",
      fakeGpu({ ...real, limits: { maxStorageBufferBindingSize: 1 << 20 } }),
      "maxStorageBufferBindingSize 1048576",
    ],
    [
      "small workgroups",
      fakeGpu({ ...real, limits: { maxComputeInvocationsPerWorkgroup: 128 } }),
      "maxComputeInvocationsPerWorkgroup 128",
    ],
    [
      "little workgroup memory",
      fakeGpu({ ...real, limits: { maxComputeWorkgroupStorageSize: 8192 } }),
      "maxComputeWorkgroupStorageSize 8192",
    ],
  ])("is refused with %s, naming what lacks and the remedy", async (_, gpu, lacks) => {
    const refused = choose("webgpu", given(gpu), "Use another.");
    await expect(refused).rejects.toMatchObject({
      code: "webgpu_unavailable",
      message: expect.stringContaining(lacks),
    });
    await expect(refused).rejects.toThrow("Use another.");
  });

  it("is granted on a real adapter", async () => {
    const choice = await choose("webgpu", given(fakeGpu(real)), "");
    expect(choice).toMatchObject({ kind: "webgpu", why: "WebGPU was asked for; it runs on nvidia ampere." });
    expect(choice.adapter).toMatchObject({ software: false, bufferBytes: 1 << 29 });
  });

  it.each([
    ["swiftshader", swiftShader],
    ["isFallbackAdapter", { info: { vendor: "x", architecture: "", isFallbackAdapter: true } }],
    ["llvmpipe", { info: { vendor: "mesa", description: "llvmpipe (LLVM 15.0.6, 256 bits)" } }],
    ["WARP", { info: { vendor: "microsoft", description: "Microsoft Basic Render Driver" } }],
  ])("is granted on a software adapter, and called slow: %s", async (_, adapter) => {
    const choice = await choose("webgpu", given(fakeGpu(adapter)), "");
    expect(choice.kind).toBe("webgpu");
    expect(choice.why).toContain("a software adapter, slower than the CPU device");
    expect(choice.adapter?.software).toBe(true);
  });
});

it("cpu is granted without looking at WebGPU", async () => {
  expect(await choose("cpu", () => Promise.reject(new Error("not to be asked")), "")).toMatchObject({
    kind: "cpu",
    adapter: null,
  });
});

it("another word is no device", async () => {
  await expect(choose("gpu" as "auto", given(undefined), "")).rejects.toMatchObject({
    code: "option_invalid",
  });
});

describe("a watch", () => {
  function fakeAdapter() {
    let lose: (info: { reason: string; message: string }) => void = () => {};
    const lost = new Promise((resolve) => {
      lose = resolve;
    });
    const destroy = () => lose({ reason: "destroyed", message: "" });
    const device = Object.assign(new EventTarget(), { lost, destroy });
    const prototype = { requestDevice: async () => device as unknown as GPUDevice };
    return { prototype, lose, device };
  }

  it("gives the device through and tells its loss", async () => {
    const { prototype, lose, device } = fakeAdapter();
    const watch = new DeviceWatch(prototype);
    const losses: string[] = [];
    watch.onFault(({ code, message }) => losses.push(`${code}: ${message}`));
    expect(await prototype.requestDevice()).toBe(device);
    lose({ reason: "unknown", message: "driver reset" });
    await device.lost;
    await Promise.resolve();
    expect(losses).toEqual([expect.stringMatching(/^device_lost: .*\(driver reset\)/)]);
  });

  it("can destroy the devices it has seen, and a listener can leave", async () => {
    const { prototype, device } = fakeAdapter();
    const watch = new DeviceWatch(prototype);
    const losses: string[] = [];
    watch.onFault(({ message }) => losses.push(message));
    watch.onFault(() => losses.push("not to be heard"))();
    await prototype.requestDevice();
    watch.destroyDevices();
    await device.lost;
    await Promise.resolve();
    expect(losses).toEqual([expect.stringContaining("(destroyed)")]);
  });

  it.each([
    [["shader-f16"], ["shader-f16"]],
    [
      ["shader-f16", "timestamp-query"],
      ["shader-f16", "timestamp-query"],
    ],
  ])("promises burn timestamps, and asks an adapter with %j for them if it has them", async (has, asked) => {
    const seen: unknown[] = [];
    class Adapter {
      get features() {
        return new Set(has);
      }
      async requestDevice({ requiredFeatures = [] }: { requiredFeatures?: string[] } = {}) {
        seen.push(requiredFeatures);
        return fakeAdapter().device as unknown as GPUDevice;
      }
    }
    const prototype = Adapter.prototype as unknown as Pick<GPUAdapter, "requestDevice" | "features">;
    const watch = new DeviceWatch(prototype);
    expect(watch).toBeDefined();
    const adapter = new Adapter();
    expect([...adapter.features]).toEqual(["shader-f16", "timestamp-query"]);
    await adapter.requestDevice({ requiredFeatures: [...adapter.features] });
    expect(seen).toEqual([asked]);
  });

  it("tells that memory has run out, and gives the device up", async () => {
    class GPUOutOfMemoryError {}
    class GPUValidationError {}
    const { prototype, device } = fakeAdapter();
    const watch = new DeviceWatch(prototype);
    const faults: string[] = [];
    watch.onFault(({ code }) => faults.push(code));
    await prototype.requestDevice();
    const tell = (error: object) =>
      device.dispatchEvent(Object.assign(new Event("uncapturederror"), { error }));
    tell(new GPUValidationError());
    expect(faults).toEqual([]);
    tell(new GPUOutOfMemoryError());
    await device.lost;
    await Promise.resolve();
    expect(faults).toEqual(["device_limit", "device_lost"]);
  });
});
