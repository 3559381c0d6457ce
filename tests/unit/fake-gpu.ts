/** Stand-ins for `navigator.gpu`. */

const goodLimits = {
  maxBufferSize: 1 << 29,
  maxStorageBufferBindingSize: 1 << 30,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupStorageSize: 32 << 10,
  maxStorageBuffersPerShaderStage: 8,
};

export interface FakeAdapter {
  info?: Partial<GPUAdapterInfo>;
  features?: string[];
  limits?: Partial<typeof goodLimits>;
}

/** A `navigator.gpu` that offers one adapter, or none, or fails. */
export function fakeGpu(adapter: FakeAdapter | null | Error): GPU {
  return {
    async requestAdapter() {
      if (adapter instanceof Error) throw adapter;
      if (adapter === null) return null;
      return {
        info: { vendor: "", architecture: "", device: "", description: "", ...adapter.info },
        features: new Set(adapter.features ?? ["timestamp-query"]),
        limits: { ...goodLimits, ...adapter.limits },
      };
    },
  } as unknown as GPU;
}

/** A GPU. */
export const real: FakeAdapter = { info: { vendor: "nvidia", architecture: "ampere" } };

/** A program that plays one. */
export const swiftShader: FakeAdapter = { info: { vendor: "google", architecture: "swiftshader" } };
