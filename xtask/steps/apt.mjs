// Debian's and Ubuntu's packages.
import { find, output, run, Stop, say } from "../console.mjs";

/** @param {string} name */
export function aptHas(name) {
  return output("dpkg", ["-s", name])?.includes("\nStatus: install ok installed\n") ?? false;
}

/** Done when whoever installs has installed: apt-get lets one do so at a time. @type {Promise<void>} */
let installing = Promise.resolve();

/**
 * Installs what is missing of `packages`.
 * @param {readonly string[]} packages
 * @param {string} remedy what a person without apt, or without its rights, can do instead
 */
export function aptInstall(packages, remedy) {
  const turn = installing.then(() => install(packages, remedy));
  installing = turn.catch(() => {});
  return turn;
}

/**
 * @param {readonly string[]} packages
 * @param {string} remedy
 */
async function install(packages, remedy) {
  const missing = packages.filter((name) => !aptHas(name));
  if (missing.length === 0) return;
  const names = missing.join(" ");
  const apt = find("apt-get");
  if (!apt) throw new Stop(`missing here: ${names}`, remedy);
  const asRoot = process.getuid?.() === 0 ? [] : ["sudo", "-n"];
  if (asRoot.length > 0 && output("sudo", ["-n", "true"]) === null) {
    throw new Stop(
      `missing here: ${names}`,
      `sudo apt-get install -y --no-install-recommends ${names}, or ${remedy}`,
    );
  }
  say("set-up", `apt-get: installing ${names}`);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const call = (/** @type {string[]} */ args) => {
    const [program = apt, ...rest] = [...asRoot, apt, ...args];
    return run(program, rest, { env, shows: `apt-get ${args[0]} (${remedy})`, stdoutTo: () => {} });
  };
  await call(["update", "-q"]);
  await call(["install", "-y", "-q", "--no-install-recommends", ...missing]);
}
