/** Starts the workers that help at a merge, from inside the worker. */
import type { HelperHost } from "../engine/pool.ts";
import type { FromHelper } from "../engine/share.ts";
import { IterisError } from "../errors.ts";

/** `undefined` where a worker cannot start others. */
export function helperHost(): HelperHost | undefined {
  if (typeof Worker === "undefined") return undefined;
  const { deviceMemory } = navigator as Navigator & { deviceMemory?: number };
  return {
    // Whoever asks for more gets them. By itself none is started: its script would be a request to the page's server, of
    // which a merge makes none, and which fails where the page is used without a network.
    cores: 1,
    // Browsers tell no more than 8 GiB, so as not to tell machines apart.
    memoryBytes: deviceMemory === undefined ? undefined : deviceMemory * 2 ** 30,
    start(onMessage, onFailure) {
      // The address must stand here literally: that is how bundlers find the worker's file.
      const worker = new Worker(new URL("./helper.ts", import.meta.url), {
        type: "module",
        name: "iteris helper",
      });
      worker.onmessage = ({ data }: MessageEvent<FromHelper>) => onMessage(data);
      worker.onerror = (event) => {
        event.preventDefault();
        const what = event.message || "its script or the wasm module cannot be loaded";
        onFailure(new IterisError("internal", `Internal fault: a worker failed, ${what}`));
      };
      worker.onmessageerror = () => {
        onFailure(new IterisError("internal", "Internal fault: a worker's answer cannot be read."));
      };
      return { post: (message) => worker.postMessage(message), end: () => worker.terminate() };
    },
  };
}
