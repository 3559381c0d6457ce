// The Python environment of tests/peers, outside the checkout: about 3 GB, made once.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { find, output, run, Stop, say } from "../console.mjs";
import { once, peersFolder, root, sha256 } from "../paths.mjs";

const REMEDY = "install Python 3.10 or newer with its venv module (Debian: apt-get install python3-venv)";
const requirements = join(root, "tests/peers/requirements.txt");

/** @returns {Promise<string>} the environment's Python */
export async function peersPython() {
  const system = find("python3");
  if (!system) throw new Stop("no python3 here", REMEDY);
  const python = join(peersFolder, "bin/python");
  if (output(python, ["-c", "import pip"]) === null) {
    if (output(system, ["-c", "import venv, ensurepip, sys; assert sys.version_info >= (3, 10)"]) === null) {
      throw new Stop(`${system} is too old or has no venv module`, REMEDY);
    }
    say("set-up", "Python: making an environment");
    await run(system, ["-m", "venv", "--clear", peersFolder], { shows: "python3 -m venv" });
  }
  const installed = await once(
    join(peersFolder, "iteris-web.txt"),
    sha256(readFileSync(requirements)),
    async () => {
      say("set-up", "Python: installing tests/peers/requirements.txt (about 3 GB the first time)");
      const install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
      await run(python, [...install, "-r", requirements], { shows: "pip install" });
    },
  );
  if (!installed) say("set-up", "Python: environment there");
  return python;
}
