/**
 * The package as its users get it: packed once, then installed into projects that know nothing of this checkout.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../xtask/paths.mjs";

export interface Tarball {
  path: string;
  files: { path: string; size: number }[];
  /** Bytes of the tarball, and of what it unpacks to. */
  size: number;
  unpackedSize: number;
}

let packed: Tarball | undefined;

/** `npm pack` of dist/ as it was built, once for all files. */
export function pack(): Tarball {
  packed ??= packNow(mkdtempSync(join(tmpdir(), "iteris-pack-")));
  return packed;
}

function packNow(folder: string): Tarball {
  const text = must(root, "npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", folder]);
  const [tarball] = Object.values(JSON.parse(text)) as (Tarball & { filename: string })[];
  if (!tarball) throw new Error("npm pack says nothing of a tarball");
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  return { ...tarball, path: join(folder, tarball.filename) };
}

/** A project in a folder of its own, with the tarball and `packages` installed. */
export class Project {
  readonly folder: string;
  readonly #running: ChildProcess[] = [];

  /** `template`: a folder beside this file, copied. `packages`: names of this checkout's own, in the same version. */
  constructor(template: string, packages: string[]) {
    this.folder = mkdtempSync(join(tmpdir(), `iteris-${template}-`));
    cpSync(join(import.meta.dirname, template), this.folder, { recursive: true });
    const tarball = pack().path;
    const versions = packages.map((name) => `${name}@${installedVersion(name)}`);
    const quiet = ["--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error"];
    must(this.folder, "npm", ["install", ...quiet, tarball, ...versions]);
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Puts a copy of `source` at `name` in the project. */
  copy(name: string, source: string): void {
    cpSync(source, this.path(name), { recursive: true });
  }

  /** Standard output of a program that must succeed. */
  run(program: string, args: string[]): string {
    return must(this.folder, program, args);
  }

  /** Starts a server of the project and waits for the address it prints. */
  async serve(args: string[]): Promise<string> {
    const child = spawn(process.execPath, args, {
      cwd: this.folder,
      env: { ...process.env, NO_COLOR: "1" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#running.push(child);
    return await new Promise((resolve, reject) => {
      let text = "";
      const read = (chunk: Buffer) => {
        text += chunk.toString();
        const url = text.match(/https?:\/\/[\w.]+:\d+\//)?.[0];
        if (url) resolve(url);
      };
      child.stdout.on("data", read);
      child.stderr.on("data", read);
      child.on("close", () => reject(new Error(`${args.join(" ")} ended:\n${text}`)));
    });
  }

  close(): void {
    for (const child of this.#running) child.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function must(cwd: string, program: string, args: string[]): string {
  // What npm and vitest put into the environment of this process is none of the project's business.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(npm_|VITE|NODE_ENV|NODE_OPTIONS)/.test(name)),
  );
  const result = spawnSync(program, args, { cwd, env, encoding: "utf8", maxBuffer: 2 ** 28 });
  if (result.status !== 0)
    throw new Error(`${program} ${args.join(" ")} failed:\n${result.stdout}\n${result.stderr}`);
  return result.stdout;
}

function installedVersion(name: string): string {
  return JSON.parse(readFileSync(join(root, "node_modules", name, "package.json"), "utf8")).version;
}
