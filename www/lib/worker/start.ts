/** Starts the page's workers. Apart from what uses them, so that its tests need no worker. */

/** A new worker. The address must stand here literally: that is how bundlers find the worker's file. */
export function startWorker(): Worker {
  return new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "iteris" });
}

/** A new worker that helps another; the address as in {@link startWorker}. */
export function startHelper(): Worker {
  return new Worker(new URL("./helper.ts", import.meta.url), { type: "module", name: "iteris helper" });
}
