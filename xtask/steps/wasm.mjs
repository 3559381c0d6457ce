// The wasm module: cargo, then the glue, then wasm-opt, then the size gate.
//
// wasm-opt must be told exactly the features that the compiler used. With all of its own switched
// on it writes encodings that browsers refuse.
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { run, Stop, say, since } from "../console.mjs";
import { glueFolder, npmBin, root, sha256, wasmTarget } from "../paths.mjs";
import { nativeRust, wasmRust } from "./rust.mjs";

const MAX_BYTES = { raw: 12_500_000, gzip: 3_300_000 };
const OPTIMISE = [
  "-O2",
  "--enable-simd",
  "--enable-bulk-memory",
  "--enable-sign-ext",
  "--enable-nontrapping-float-to-int",
  "--enable-mutable-globals",
  "--enable-reference-types",
  "--enable-multivalue",
  "--strip-debug",
  "--strip-producers",
];
const MODULE = "iteris_web_bg.wasm";
const wasmFile = join(glueFolder, MODULE);
const stampFile = join(glueFolder, "made-from.txt");

/**
 * Brings `www/wasm/` up to date.
 * @param {{ optimise?: boolean }} [options] `optimise: false` leaves out wasm-opt, for trying something quickly
 */
export async function buildWasm({ optimise = true } = {}) {
  const begin = performance.now();
  const linked = await link();
  const key = [
    `linked ${sha256(readFileSync(linked))}`,
    `glue ${sha256(readFileSync(join(root, "xtask/src/main.rs")))} ${lockedBindgen()}`,
    optimise ? `wasm-opt ${binaryenVersion()} ${OPTIMISE.join(" ")}` : "not optimised",
  ].join("\n");
  if (existsSync(stampFile) && readFileSync(stampFile, "utf8") === key) {
    say("set-up", `wasm: up to date (${since(begin)})`);
  } else {
    await glue(linked, optimise);
    writeFileSync(stampFile, key);
    say("set-up", `wasm: built (${since(begin)})`);
  }
  say("size", sizeLine(sizes()));
}

/** Fails when the module is larger than a download should be. */
export function wasmSizeGate() {
  const { raw, gzip } = sizes();
  if (raw > MAX_BYTES.raw || gzip > MAX_BYTES.gzip) {
    throw new Stop(
      sizeLine({ raw, gzip }),
      "find what grew with: npx wasm-opt --metrics www/wasm/iteris_web_bg.wasm",
    );
  }
}

/** Compiles and links. @returns {Promise<string>} the path of the module as rustc left it */
async function link() {
  const rust = await wasmRust();
  const artifacts = await cargoArtifacts(
    rust,
    ["build", "--lib", "--release", ...rust.flags],
    "compiling for wasm",
  );
  const module = artifacts.flatMap((artifact) => artifact.filenames).find((name) => name.endsWith(".wasm"));
  if (!module) throw new Stop("cargo linked no wasm module");
  return module;
}

/**
 * @param {string} linked
 * @param {boolean} optimise
 */
async function glue(linked, optimise) {
  const rust = await nativeRust();
  // In the folder of wasm's: cargo lets nobody else build in one folder, and in the other one the tests may be at it.
  rust.env = { ...rust.env, CARGO_TARGET_DIR: wasmTarget };
  const artifacts = await cargoArtifacts(
    rust,
    ["build", "-p", "xtask", "--profile", "tool"],
    "compiling the glue maker",
  );
  const xtask = artifacts.map((artifact) => artifact.executable).find((path) => path);
  if (!xtask) throw new Stop("cargo built no xtask");

  const fresh = join(root, "build/glue");
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { recursive: true });
  await run(xtask, [linked, fresh], { shows: "wasm-bindgen" });
  if (optimise) {
    say("set-up", "wasm: wasm-opt (about two minutes)");
    const optimised = join(fresh, "optimised.wasm");
    await run(npmBin("wasm-opt"), [...OPTIMISE, join(fresh, MODULE), "-o", optimised], { shows: "wasm-opt" });
    renameSync(optimised, join(fresh, MODULE));
  }
  rmSync(glueFolder, { recursive: true, force: true });
  renameSync(fresh, glueFolder);
}

/**
 * @param {import("./rust.mjs").Rust} rust
 * @param {string[]} args
 * @param {string} shows
 * @returns {Promise<{ filenames: string[], executable: string | null }[]>}
 */
async function cargoArtifacts(rust, args, shows) {
  let text = "";
  say("set-up", `${shows}: cargo ${args.join(" ")}`);
  await run(rust.cargo, [...args, "--locked", "--message-format=json-render-diagnostics"], {
    cwd: root,
    env: rust.env,
    shows,
    stdoutTo: (more) => {
      text += more;
    },
  });
  const messages = text.split("\n").filter((line) => line.startsWith("{"));
  return messages.map((line) => JSON.parse(line)).filter((message) => message.reason === "compiler-artifact");
}

function sizes() {
  return { raw: statSync(wasmFile).size, gzip: gzipSync(readFileSync(wasmFile), { level: 9 }).length };
}

/** @param {{ raw: number, gzip: number }} bytes */
function sizeLine({ raw, gzip }) {
  const mb = (/** @type {number} */ bytes) => (bytes / 1e6).toFixed(2);
  return `wasm ${mb(raw)} MB of at most ${mb(MAX_BYTES.raw)}, gzip -9 ${mb(gzip)} MB of at most ${mb(MAX_BYTES.gzip)}`;
}

function lockedBindgen() {
  return readFileSync(join(root, "Cargo.lock"), "utf8").match(
    /name = "wasm-bindgen-cli-support"\nversion = "(.+)"/,
  )?.[1];
}

function binaryenVersion() {
  return JSON.parse(readFileSync(join(root, "node_modules/binaryen/package.json"), "utf8")).version;
}
