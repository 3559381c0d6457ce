/** The command line in this process, with what it prints caught. */
import { runCommandLine } from "../../www/node/cli/run.ts";

/** Runs a command line to its exit code. */
export async function run(...argv: string[]) {
  const said = { stdout: "", stderr: "" };
  const into = (name: "stdout" | "stderr") => ({
    write: (text: string) => {
      said[name] += text;
    },
  });
  const terminal = { stdout: into("stdout"), stderr: into("stderr"), signal: new AbortController().signal };
  return { code: await runCommandLine(argv, terminal), ...said };
}
