// Finds a Rust toolchain for this machine's own code and one for wasm32-unknown-unknown. They may differ: where
// rustup cannot add the wasm target, Debian's packages build the wasm standard library together with the crate.
import { readdirSync, readFileSync, realpathSync, utimesSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { find, output, run, Stop, say } from "../console.mjs";
import { nativeTarget, once, root, wasmTarget } from "../paths.mjs";
import { aptHas, aptInstall } from "./apt.mjs";

/**
 * @typedef {object} Rust
 * @property {string} cargo path
 * @property {string[]} flags for every cargo command that compiles
 * @property {NodeJS.ProcessEnv} env
 * @property {boolean} debian whether it is that of Debian's packages
 */

const TRIPLE = "wasm32-unknown-unknown";
const DEBIAN = ["rustc-web", "cargo-web", "rust-web-src", "lld-19"];
const DEBIAN_CARGO = "/usr/bin/cargo";
const REMEDY = `install Rust from https://rustup.rs, then: rustup target add ${TRIPLE}`;

const cargoHome = process.env.CARGO_HOME || join(homedir(), ".cargo");
const cargoBin = join(cargoHome, "bin");
/** Where cargo unpacks the sources of crates. */
export const registrySources = join(cargoHome, "registry/src");
const rustup = find("rustup", [cargoBin]);

const WASM_RUSTFLAGS = [
  // Both versions of getrandom in burn's tree ask by this name how to reach the browser's random numbers.
  '--cfg getrandom_backend="wasm_js"',
  "-C target-feature=+simd128",
  // LLVM's loop strength reduction makes additions of addresses out of offsets, which a load in wasm has for nothing: the
  // inner loops of src/compute/gemm.rs lose a tenth by it.
  "-C llvm-args=-disable-lsr",
  // Panic messages name source files: the published module need not tell the builder's home folder.
  `--remap-path-prefix=${registrySources}=crates`,
].join(" ");

/** Rust for this machine: tests, lints and the glue maker. @returns {Promise<Rust>} */
export async function nativeRust() {
  await claim(nativeTarget);
  const env = { ...process.env, CARGO_TARGET_DIR: nativeTarget };
  const cargo = find("cargo", [cargoBin]);
  if (cargo && recentEnough(cargo.replace(/cargo$/, "rustc"))) {
    const debian = realpathSync(dirname(cargo)) === dirname(DEBIAN_CARGO) && aptHas("cargo-web");
    return { cargo, flags: [], env, debian };
  }
  await aptInstall(DEBIAN, REMEDY);
  return { cargo: DEBIAN_CARGO, flags: [], env, debian: true };
}

/** Rust for the browser. @returns {Promise<Rust>} */
export async function wasmRust() {
  await claim(wasmTarget);
  const env = { ...process.env, CARGO_TARGET_DIR: wasmTarget, RUSTFLAGS: WASM_RUSTFLAGS };
  const target = ["--target", TRIPLE];
  const ofRustup = () => ({ cargo: join(rustup ?? "", "../cargo"), flags: target, env, debian: false });
  if (rustup && rustupHasTarget(rustup)) {
    say("set-up", `Rust for wasm: rustup's, with the target ${TRIPLE}`);
    return ofRustup();
  }
  if (!DEBIAN.every(aptHas)) {
    if (rustup) {
      say("set-up", `Rust for wasm: asking rustup for the target ${TRIPLE}`);
      if (output(rustup, ["target", "add", TRIPLE], { seconds: 300 }) !== null) return ofRustup();
      say("set-up", "Rust for wasm: rustup cannot add it here, taking Debian's packages");
    }
    await aptInstall(DEBIAN, REMEDY);
  }
  if (!recentEnough("/usr/bin/rustc")) throw new Stop("Debian's Rust is too old", REMEDY);
  say("set-up", "Rust for wasm: Debian's packages, with the standard library built from source");
  return {
    cargo: DEBIAN_CARGO,
    debian: true,
    flags: ["-Z", "build-std=std,panic_abort", ...target],
    env: {
      ...env,
      RUSTC_BOOTSTRAP: "1",
      RUSTC: "/usr/bin/rustc",
      CARGO: DEBIAN_CARGO,
      CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER: "wasm-ld-19",
    },
  };
}

/**
 * Makes cargo see the sources of this checkout as new if another one used the target folder last. Cargo tells by the
 * time of a file whether it changed, and to it the same crate in two checkouts is one: without this, a second checkout
 * would be given what the first one's sources made.
 * @param {string} target
 */
async function claim(target) {
  await once(join(target, "checkout.txt"), root, () => {
    const now = new Date();
    for (const folder of ["src", "tests", "xtask/src"]) {
      for (const name of readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })) {
        if (name.endsWith(".rs")) utimesSync(join(root, folder, name), now, now);
      }
    }
  });
}

/**
 * Runs cargo's formatter or linter, of the same toolchain.
 * @param {Rust} rust
 * @param {"fmt" | "clippy"} tool
 * @param {string[]} args
 */
export async function cargoTool(rust, tool, args) {
  const options = { cwd: root, env: rust.env, shows: `cargo ${tool}` };
  if (rust.debian) {
    await aptInstall([tool === "fmt" ? "rustfmt-web" : "rust-web-clippy"], REMEDY);
    // Not through cargo, which would take rustup's from PATH where there is one.
    return run(`/usr/bin/cargo-${tool}`, [tool, ...args], options);
  }
  const component = tool === "fmt" ? "rustfmt" : "clippy";
  if (output(rust.cargo, [tool, "--version"]) === null) {
    throw new Stop(`no ${component} beside ${rust.cargo}`, `rustup component add ${component}`);
  }
  return run(rust.cargo, [tool, ...args], options);
}

/** @param {string} rustup */
function rustupHasTarget(rustup) {
  const installed = output(rustup, ["target", "list", "--installed"]);
  return installed?.split("\n").includes(TRIPLE) && recentEnough(join(rustup, "../rustc"));
}

/** Whether a compiler is at least Cargo.toml's `rust-version`; an older one of rustup's is said to be so. @param {string} rustc */
function recentEnough(rustc) {
  const [, wanted = "0"] =
    readFileSync(join(root, "Cargo.toml"), "utf8").match(/^rust-version = "1\.(\d+)"/m) ?? [];
  const version = output(rustc, ["--version"]);
  if (version === null) return false;
  const [, minor = "0"] = version.match(/^rustc 1\.(\d+)/) ?? [];
  if (Number(minor) >= Number(wanted)) return true;
  say("set-up", `${version} is older than 1.${wanted} (newer with: rustup update stable)`);
  return false;
}
