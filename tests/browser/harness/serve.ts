/** The page of `npm start`, or a bare page that holds nothing but the library, served for a test. */
import { renameSync } from "node:fs";
import { join } from "node:path";
import { build } from "vite";
import { root } from "../../../xtask/paths.mjs";
import { servePage } from "../../../xtask/serve.mjs";

export interface Served {
  /** Ends with a slash. */
  url: string;
  close(): Promise<void>;
}

/** What `npm start` serves, on a port of its own. Needs build/page. */
export async function serveApp(): Promise<Served> {
  return await servePage({ port: 4380 });
}

let library: Promise<string> | undefined;

/**
 * An empty page with `globalThis.iteris`, the browser entry of the package, for `page.evaluate`; and `report.html`, parts
 * of the page with a thousand layers.
 */
export async function serveLibrary(): Promise<Served> {
  library ??= buildLibrary();
  return await servePage({ folder: await library, port: 4480 });
}

/** Once for all files of a project. @returns the folder */
async function buildLibrary(): Promise<string> {
  const folder = join(root, "build/library");
  await build({
    configFile: false,
    root: import.meta.dirname,
    base: "./",
    publicDir: false,
    logLevel: "warn",
    worker: { format: "es" },
    build: {
      outDir: folder,
      emptyOutDir: true,
      assetsInlineLimit: 0,
      modulePreload: { polyfill: false },
      chunkSizeWarningLimit: 16_000,
      rolldownOptions: {
        input: ["library.html", "report.html"].map((name) => join(import.meta.dirname, name)),
      },
    },
  });
  renameSync(join(folder, "library.html"), join(folder, "index.html"));
  return folder;
}
