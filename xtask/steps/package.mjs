// The npm package in dist/: what bundlers and Node load, its types, and the licences of what is inside.
//
// The worker and the wasm module are found by `new URL(..., import.meta.url)`. Bundlers follow
// that form only when it stands there literally, and the sources name their neighbours in the source tree, so each
// such URL is rewritten here, and one that is not known here stops the build.
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { run, Stop, say, since } from "../console.mjs";
import { distFolder, glueFolder, npmBin, root } from "../paths.mjs";
import { notices } from "./notices.mjs";

const WASM = "iteris_web_bg.wasm";
/** Each entry's source, and its name in dist/. The bundles share no code, so that each can be loaded alone. */
const ENTRIES = [
  { source: "www/lib/index.ts", name: "index", platform: "browser" },
  { source: "www/lib/worker/worker.ts", name: "worker", platform: "browser" },
  { source: "www/lib/worker/helper.ts", name: "helper", platform: "browser" },
  { source: "www/node/index.ts", name: "node", platform: "node" },
  { source: "www/node/cli.ts", name: "cli", platform: "node" },
  { source: "www/node/helper.ts", name: "node-helper", platform: "node" },
];
const NEIGHBOURS = new Map([
  ...ENTRIES.map(({ source, name }) => /** @type {const} */ ([join(root, source), `./${name}.js`])),
  [join(glueFolder, WASM), `./${WASM}`],
]);

export async function buildPackage() {
  const begin = performance.now();
  rmSync(distFolder, { recursive: true, force: true });
  mkdirSync(distFolder, { recursive: true });
  const modules = new Set();
  for (const entry of ENTRIES) for (const module of await bundle(entry)) modules.add(module);
  copyFileSync(join(glueFolder, WASM), join(distFolder, WASM));
  writeFileSync(join(distFolder, "THIRD-PARTY.md"), await notices(modules));
  await types();
  say("set-up", `package: built in dist/ (${since(begin)})`);
}

/**
 * @param {{ source: string, name: string, platform: string }} entry
 * @returns {Promise<string[]>} the files that went into it
 */
async function bundle({ source, name, platform }) {
  const { rolldown } = await import("rolldown");
  const build = await rolldown({
    input: { [name]: join(root, source) },
    platform: platform === "node" ? "node" : "browser",
    external: ["webgpu", /^node:/],
    plugins: [
      { name: "iteris-neighbours", transform: { filter: { code: "import.meta.url" }, handler: neighbours } },
    ],
    onLog(level, log, report) {
      if (level === "warn") throw new Stop(`bundling ${source}`, log.message);
      report(level, log);
    },
  });
  const { output } = await build.write({
    dir: distFolder,
    format: "esm",
    entryFileNames: "[name].js",
    codeSplitting: false,
  });
  await build.close();
  return output.flatMap((chunk) => (chunk.type === "chunk" ? chunk.moduleIds : []));
}

/**
 * @param {string} code
 * @param {string} id
 */
function neighbours(code, id) {
  return code.replaceAll(/new URL\(\s*"([^"]+)",\s*import\.meta\.url,?\s*\)/g, (_, path) => {
    const there = NEIGHBOURS.get(resolve(dirname(id), path));
    if (!there) throw new Stop(`${relative(root, id)} names ${path}, which is not part of the package`);
    return `new URL("${there}", import.meta.url)`;
  });
}

/** Declarations, in the folders of the sources; imports of `.ts` become imports of `.js`, as in published packages. */
async function types() {
  const folder = join(distFolder, "types");
  await run(npmBin("tsc"), ["-p", "tsconfig.package.json", "--outDir", folder], { cwd: root, shows: "tsc" });
  for (const entry of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    if (!entry.endsWith(".d.ts")) continue;
    const path = join(folder, entry);
    const text = readFileSync(path, "utf8");
    writeFileSync(path, text.replaceAll(/((?:from|import\()\s*"\.[^"]*)\.ts"/g, '$1.js"'));
  }
}
