/** Starts the worker. Apart from the client, so that tests of the client need no worker. */

/** A new worker. The address must stand here literally: that is how bundlers find the worker's file. */
export function startWorker(): Worker {
  return new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "iteris" });
}
