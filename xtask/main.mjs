// Every npm script begins here. This file and what it imports need nothing but Node itself, because
// `npm start` on a fresh machine runs before any package is installed.

import * as commands from "./commands.mjs";
import { Stop, say } from "./console.mjs";

const NODE_AT_LEAST = 20;

/** @type {Record<string, (options: string[]) => Promise<void>>} */
const table = {
  start: commands.start,
  test: commands.test,
  "test:peers": commands.testPeers,
  build: commands.build,
  bench: commands.bench,
  generate: commands.generate,
  lint: commands.lint,
  wasm: commands.wasm,
};

const [name = "", ...options] = process.argv.slice(2);
try {
  const command = table[name];
  if (!command) throw new Stop(`unknown command "${name}"`, `one of: ${Object.keys(table).join(", ")}`);
  const major = Number(process.versions.node.split(".")[0]);
  if (major < NODE_AT_LEAST) {
    throw new Stop(`Node ${process.versions.node} is too old`, `install Node ${NODE_AT_LEAST} or newer`);
  }
  await command(options);
} catch (error) {
  if (!(error instanceof Stop)) throw error;
  say("stop", error.message);
  process.exitCode = 1;
}
