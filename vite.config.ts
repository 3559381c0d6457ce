import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

const exampleDir = join(import.meta.dirname, "www/example");

/** Puts the built-in example's files beside the page, under their own names: the page fetches them by name. */
function example(): Plugin {
  return {
    name: "iteris-example",
    apply: "build",
    generateBundle() {
      for (const entry of readdirSync(exampleDir, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile()) continue;
        const path = join(entry.parentPath, entry.name);
        const name = path.slice(exampleDir.length + 1).replaceAll("\\", "/");
        this.emitFile({ type: "asset", fileName: `example/${name}`, source: readFileSync(path) });
      }
    },
  };
}

export default defineConfig({
  base: "./",
  publicDir: false,
  plugins: [example()],
  worker: { format: "es" },
  build: {
    outDir: "build/page",
    emptyOutDir: true,
    target: "es2022",
    // The page's Content-Security-Policy knows no data: URLs.
    assetsInlineLimit: 0,
    // The wasm alone is larger than the default; its size has a gate of its own (xtask).
    chunkSizeWarningLimit: 16_000,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
});
