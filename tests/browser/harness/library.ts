/** The script of library.html: hands the package's browser entry to `page.evaluate`. */
import * as library from "../../../www/lib/index.ts";
import { WorkerClient } from "../../../www/lib/worker/client.ts";
import { startHelper, startWorker } from "../../../www/lib/worker/start.ts";

declare global {
  var iteris: typeof library;
  /** A client of its own, for what the package does not export: losing the GPU. */
  var newClient: () => WorkerClient;
}

globalThis.iteris = library;
globalThis.newClient = () => new WorkerClient(startWorker, startHelper);
