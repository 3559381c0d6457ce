/**
 * Lets the sources be checked before the wasm module is built: the generated glue's own typings, where they
 * exist, come first.
 */
declare module "*/wasm/iteris_web.js" {
  import type { IterisWasm } from "../wasm-interface.ts";

  const glue: IterisWasm;
  export = glue;
}
