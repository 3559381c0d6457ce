/** Where jobs run: on the device that was asked for, or on the one that is quicker, and on the CPU where a GPU gives up. */
import type { IterisError } from "../errors.ts";
import type { DeviceChoice, DeviceRequest, WorkersRequest } from "../types.ts";
import type { ChosenDevice } from "../wasm-interface.ts";

/** Where a job runs. */
export interface JobPlace {
  device: DeviceRequest;
  /** Left out: `auto`. */
  workers?: WorkersRequest | undefined;
  /** How a GPU has failed that `auto` took for this job before. */
  gaveUp?: string | undefined;
}

/** Why `auto` takes the CPU for a method that needs no samples. */
export const WITHOUT_SAMPLES =
  "The CPU: a method without samples runs no model, and a GPU would have nothing to do.";

/** What a job has run on, of what it might have. */
export function usedOf(
  choice: DeviceChoice<DeviceRequest>,
  { device, deviceWhy }: ChosenDevice,
): DeviceChoice {
  return { ...choice, kind: device, why: deviceWhy ?? choice.why };
}

/**
 * Where a job that failed is done again: on the CPU, if it was left open where it runs, and failed as a GPU does that has
 * too little memory or is lost.
 *
 * @returns `null` where its failure is final
 */
export function onCpuInstead<Place extends Pick<JobPlace, "device" | "gaveUp">>(
  place: Place,
  { code, message }: IterisError,
): (Place & { gaveUp: string }) | null {
  const again = place.device === "auto" && place.gaveUp === undefined;
  return again && (code === "device_limit" || code === "device_lost") ? { ...place, gaveUp: message } : null;
}
