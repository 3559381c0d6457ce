/**
 * Notices when the GPU goes away, or has no memory left.
 *
 * burn asks for its device inside wasm and waits for buffers to be mapped; when the device is lost, that
 * wait may never end and nobody is told. Nor is it told that a buffer could not be had: that is an event of the
 * device. So `GPUAdapter.requestDevice` is wrapped before burn starts, and the devices it gives are watched from
 * outside.
 */
import { IterisError } from "../errors.ts";

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
    const watch = (device: GPUDevice) => this.#add(device);
    prototype.requestDevice = async function requestDevice(this: GPUAdapter, descriptor) {
      const device = await original.call(this, descriptor);
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
