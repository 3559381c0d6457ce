// The groups of checks, cheapest first. A group that fails ends the run: what follows would build on it.
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { run, Stop, say, since } from "./console.mjs";
import { output } from "./lanes.mjs";
import { npmBin, root } from "./paths.mjs";
import { cargoTool, nativeRust, wasmRust } from "./steps/rust.mjs";
import { wasmSizeGate } from "./steps/wasm.mjs";

export class Checks {
  /** @type {string[]} */
  #done = [];
  #passed = 0;

  async format() {
    await this.#group("formatting and lints of TypeScript", async () => {
      const biome = ["ci", "--error-on-warnings", ...(process.stdout.isTTY ? [] : ["--colors=off"])];
      await run(npmBin("biome"), biome, { cwd: root, shows: "biome ci" });
    });
    await this.#group("formatting of Rust", async () => {
      await cargoTool(await nativeRust(), "fmt", ["--all", "--check"]);
    });
  }

  /** With the GPU's kernels, which nothing but wasm compiles otherwise, and their tests, which nothing does. */
  async clippy() {
    const what = ["--workspace", "--all-targets", "--features", "gpu"];
    await this.#group("clippy", async () => clippy(await nativeRust(), what));
  }

  async wasmClippy() {
    await this.#group("clippy for wasm", async () => clippy(await wasmRust(), ["--lib"]));
  }

  /**
   * The GPU's kernels against the CPU's code, where there is an adapter to run them on.
   * @param {NodeJS.ProcessEnv | null} gpu what a native program finds the adapter by
   */
  async kernels(gpu) {
    if (gpu !== null) {
      const built = ["--profile", "kernels", "--features", "gpu", "--lib"];
      return this.rust([...built, "--", "compute::kernels", "compute::sums"], gpu);
    }
    const lacks = "the browser brings no software adapter for Vulkan";
    if (process.env.CI) throw new Stop(`the GPU's kernels cannot be tested: ${lacks}`);
    say("skipped", `the GPU's kernels: ${lacks}`);
  }

  /**
   * The core on this machine, without a browser.
   * @param {string[]} options of cargo test: no examples, which clippy compiles, and no documentation tests, as there are none
   * @param {NodeJS.ProcessEnv} [more]
   */
  async rust(options, more = {}) {
    await this.#group(["tests of the core", ...options].join(" "), async () => {
      const { cargo, env } = await nativeRust();
      let text = "";
      const shown = output(process.stdout);
      await run(cargo, ["test", "--locked", ...options], {
        cwd: root,
        env: { ...env, ...more },
        shows: "cargo test",
        stdoutTo: (more) => {
          shown.write(more);
          text += more;
        },
      });
      shown.end();
      const passed = [...text.matchAll(/^test result: ok\. (\d+) passed/gm)].map(([, count]) =>
        Number(count),
      );
      return passed.reduce((sum, count) => sum + count, 0);
    });
  }

  async wasm() {
    await this.#group("size of the wasm module", async () => wasmSizeGate());
  }

  /** After the wasm module, whose generated types the sources import. */
  async types() {
    await this.#group("types", async () => run(npmBin("tsc"), ["--noEmit"], { cwd: root, shows: "tsc" }));
  }

  /**
   * @param {"unit" | "cli" | "browser" | "package" | "emotion"} project of vitest.config.ts
   * @param {NodeJS.ProcessEnv} [env]
   */
  async javascript(project, env = {}) {
    await this.#group(`vitest, project ${project}`, async () => {
      const report = join(root, `build/vitest/${project}.json`);
      mkdirSync(join(root, "build/vitest"), { recursive: true });
      const args = [
        "run",
        "--project",
        project,
        "--reporter=default",
        "--reporter=json",
        `--outputFile.json=${report}`,
      ];
      await run(npmBin("vitest"), args, {
        cwd: root,
        env: { ...process.env, ...env },
        shows: `vitest ${project}`,
      });
      return JSON.parse(readFileSync(report, "utf8")).numPassedTests;
    });
  }

  summary() {
    for (const line of this.#done) say("done", line);
    // The one line that tells a reader of a log, or a machine, how many tests ran.
    say("checks", `${this.#passed} passed, 0 failed`);
  }

  /**
   * @param {string} name
   * @param {() => Promise<number | void>} check gives the number of its tests, where it has several
   */
  async #group(name, check) {
    const begin = performance.now();
    say("check", name);
    const tests = (await check()) ?? 1;
    if (tests === 0) throw new Stop(`${name}: no test ran`);
    this.#passed += tests;
    this.#done.push(`${name}${tests > 1 ? `: ${tests} tests` : ""} (${since(begin)})`);
  }
}

/**
 * @param {import("./steps/rust.mjs").Rust} rust
 * @param {string[]} what
 */
function clippy(rust, what) {
  return cargoTool(rust, "clippy", ["--locked", ...what, ...rust.flags, "--", "-D", "warnings"]);
}
