// The npm packages of the lock file.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { run, say } from "../console.mjs";
import { once, root, sha256 } from "../paths.mjs";

export async function npmPackages() {
  const lock = sha256(readFileSync(join(root, "package-lock.json")));
  const stamp = join(root, "node_modules/.iteris-web");
  const installed = await once(stamp, `${lock} ${process.platform} ${process.arch}`, async () => {
    say("set-up", "npm packages: installing those of package-lock.json");
    await run("npm", ["ci", "--no-audit", "--no-fund", "--ignore-scripts"], { cwd: root, shows: "npm ci" });
  });
  if (!installed) say("set-up", "npm packages: there");
}
