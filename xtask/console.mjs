// Saying what happens, one line a step, and running other programs.
import { spawn, spawnSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { lane, output as outputTo } from "./lanes.mjs";

/** An end that a person can do something about: shown as one line, without a stack. */
export class Stop extends Error {
  /**
   * @param {string} what
   * @param {string} [remedy]
   */
  constructor(what, remedy) {
    super(remedy ? `${what}: ${remedy}` : what);
  }
}

/**
 * @param {string} stage
 * @param {string} line
 */
export function say(stage, line) {
  outputTo(process.stdout).write(`${stage}: ${line}\n`);
}

/** Seconds since `begin` (of `performance.now()`), for a line. @param {number} begin */
export function since(begin) {
  return `${((performance.now() - begin) / 1000).toFixed(1)} s`;
}

/**
 * Runs a program with its output shown; its failure is a `Stop`.
 * @param {string} program
 * @param {readonly string[]} args
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv, shows?: string, stdoutTo?: (text: string) => void }} [options]
 *   `shows`: what the failure line calls it. `stdoutTo`: takes standard output instead of the terminal.
 *   In a lane, output is labelled with it.
 * @returns {Promise<void>}
 */
export function run(program, args, options = {}) {
  return new Promise((resolve, reject) => {
    const own = lane();
    const shown = own ? "pipe" : "inherit";
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: ["ignore", options.stdoutTo ? "pipe" : shown, shown],
    });
    own?.children.add(child);
    const name = options.shows ?? `${program} ${args.join(" ")}`;
    const [stdout, stderr] = [outputTo(process.stdout), outputTo(process.stderr)];
    child.stdout?.setEncoding("utf8").on("data", options.stdoutTo ?? stdout.write);
    child.stderr?.setEncoding("utf8").on("data", stderr.write);
    child.on("error", (error) => reject(new Stop(`${name} did not start`, error.message)));
    child.on("close", (code, signal) => {
      own?.children.delete(child);
      stdout.end();
      stderr.end();
      if (code === 0) resolve();
      else reject(new Stop(`${name} failed (${signal ?? `exit code ${code}`})`));
    });
  });
}

/**
 * The standard output of a program, or null when it is missing, fails, or takes longer than `seconds`.
 * @param {string} program
 * @param {readonly string[]} args
 * @param {{ seconds?: number, env?: NodeJS.ProcessEnv }} [options]
 */
export function output(program, args, { seconds = 30, env = process.env } = {}) {
  const result = spawnSync(program, args, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
    timeout: seconds * 1000,
    maxBuffer: 2 ** 28,
    env,
  });
  return result.status === 0 ? result.stdout.trim() : null;
}

/**
 * Where a program lies, searched in PATH and then in `folders`; null when nowhere.
 * @param {string} program a name, or a path that is returned when it can be executed
 * @param {readonly string[]} [folders]
 */
export function find(program, folders = []) {
  if (program.includes("/")) return executable(program) ? program : null;
  for (const folder of [...(process.env.PATH ?? "").split(delimiter), ...folders]) {
    const path = join(folder, program);
    if (folder !== "" && executable(path)) return path;
  }
  return null;
}

/** @param {string} path */
function executable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
