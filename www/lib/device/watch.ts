/**
 * Notices when the GPU goes away.
 *
 * burn asks for its device inside wasm and waits for buffers to be mapped; when the device is lost, that
 * wait may never end and nobody is told. So `GPUAdapter.requestDevice` is wrapped before burn starts, and
 * the devices it gives are watched from outside.
 */

/** What is called with the reason when a device is lost. */
export type LossListener = (why: string) => void;

/** The devices that were given since the watch began. */
export class DeviceWatch {
  readonly #devices = new Set<GPUDevice>();
  readonly #listeners = new Set<LossListener>();

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

  /** Calls `listener` when a device is lost; the result takes it off again. */
  onLoss(listener: LossListener): () => void {
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
      for (const listener of [...this.#listeners]) listener(why);
    });
  }
}
