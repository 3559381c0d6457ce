/** Starts the threads that help at a merge. */
import { availableParallelism, totalmem } from "node:os";
import { Worker } from "node:worker_threads";
import type { HelperHost } from "../lib/engine/pool.ts";
import { IterisError } from "../lib/errors.ts";

export const helperHost: HelperHost = {
  room: async () => ({ cores: availableParallelism(), memoryBytes: totalmem() }),
  start(onMessage, onFailure) {
    // The address must stand here literally: that is how the package's build finds the thread's file.
    const worker = new Worker(new URL("./helper.ts", import.meta.url), {
      // Some of the process's own flags (`--input-type`) would refuse a thread that is a file.
      execArgv: [],
    });
    worker.on("message", onMessage);
    worker.on("error", (cause: Error) => {
      onFailure(new IterisError("internal", `Internal fault: a thread failed, ${cause.message}`, { cause }));
    });
    worker.on("exit", (code) => {
      onFailure(new IterisError("internal", `Internal fault: a thread ended by itself (${code}).`));
    });
    return {
      post: (message) => worker.postMessage(message),
      // Idle or not: another is started from the disk, and needs no network.
      end: () => {
        worker.removeAllListeners("exit");
        void worker.terminate();
      },
    };
  },
};
