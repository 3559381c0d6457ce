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
    // Not `npm ci`: the lock file names the binaries of the platforms that its maker's registry offers, and
    // `ci` refuses to add another's. `--no-save` keeps to the locked versions and leaves the lock file alone.
    const install = ["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"];
    await run("npm", install, { cwd: root, shows: "npm install" });
  });
  if (!installed) say("set-up", "npm packages: there");
}
