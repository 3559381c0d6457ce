/**
 * Notices when the GPU goes away, or has no memory left.
 *
 * burn asks for its device inside wasm and waits for buffers to be mapped; when the device is lost, that
 * wait may never end and nobody is told. Nor is it told that a buffer could not be had: that is an event of the
 * device. So `GPUAdapter.requestDevice` is wrapped before burn starts, and the devices it gives are watched from
 * outside; what burn asks an adapter for and can do without is taken from the request on the way.
 */
import { IterisError } from "../errors.ts";

const TIMESTAMPS = "timestamp-query";

/**
 * Has every adapter say that it has `timestamp-query`: cubecl panics at its first stream without it, and uses it for
 * profiles alone, of which there are none here.
 *
 * @returns whether an adapter has it not
 */
function promiseTimestamps(prototype: object): (adapter: object) => boolean {
  const features = Object.getOwnPropertyDescriptor(prototype, "features")?.get;
  if (features === undefined) return () => false;
  const own = (adapter: object): ReadonlySet<string> => features.call(adapter);
  Object.defineProperty(prototype, "features", {
    configurable: true,
    get(this: object) {
      return new Set([...own(this), TIMESTAMPS]);
    },
  });
  return (adapter) => !own(adapter).has(TIMESTAMPS);
}

function withoutTimestamps(descriptor: GPUDeviceDescriptor | undefined): GPUDeviceDescriptor {
  const wanted = [...(descriptor?.requiredFeatures ?? [])];
  return { ...descriptor, requiredFeatures: wanted.filter((feature) => feature !== TIMESTAMPS) };
}

/** What is called when a device is lost (`device_lost`), or its memory has run out (`device_limit`). */
export type FaultListener = (fault: IterisError) => void;

/** The devices that were given since the watch began. */
export class DeviceWatch {
  readonly #devices = new Set<GPUDevice>();
  readonly #listeners = new Set<FaultListener>();

  /** Begins to watch. `prototype` is `GPUAdapter.prototype`; where there is no WebGPU there is none. */
  constructor(prototype: Pick<GPUAdapter, "requestDevice"> | undefined) {
    if (prototype === undefined) return;
    const original = prototype.requestDevice;
    const lacksTimestamps = promiseTimestamps(prototype);
    const watch = (device: GPUDevice) => this.#add(device);
    prototype.requestDevice = async function requestDevice(this: GPUAdapter, descriptor) {
      const device = await original.call(
        this,
        lacksTimestamps(this) ? withoutTimestamps(descriptor) : descriptor,
      );
      watch(device);
      return device;
    };
  }

  /** Calls `listener` at a fault of a device; the result takes it off again. */
  onFault(listener: FaultListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Destroys every watched device, which is what a loss looks like from the inside. */
  destroyDevices(): void {
    for (const device of this.#devices) device.destroy();
  }

  #add(device: GPUDevice): void {
    this.#devices.add(device);
    void device.lost.then(({ reason, message }) => {
      this.#devices.delete(device);
      const why = message || reason || "no reason given";
      const told = `The GPU was lost while it was working (${why}). Try again, or use the CPU device.`;
      this.#tell(new IterisError("device_lost", told));
    });
    device.addEventListener("uncapturederror", ({ error }) => {
      if (error.constructor.name !== "GPUOutOfMemoryError") return;
      const told =
        "The GPU has no memory left for this merge. Give fewer or shorter samples (maxLength), close what else uses the GPU, or use the CPU device.";
      this.#tell(new IterisError("device_limit", told, { cause: error }));
      // What was refused is missing from here on: nothing that the device computes is to be trusted.
      device.destroy();
    });
  }

  #tell(fault: IterisError): void {
    for (const listener of [...this.#listeners]) listener(fault);
  }
}
