/** A command line from its words to its exit code. */
import { toIterisError, version } from "../index.ts";
import { parseCommand, wantsJson } from "./args.ts";
import { runCompare } from "./compare.ts";
import { exitCode, tell } from "./failure.ts";
import { runGenerate } from "./generate.ts";
import { helpTexts } from "./help.ts";
import { runInspect } from "./inspect.ts";
import { runMerge } from "./merge.ts";
import { runPlan } from "./plan.ts";
import type { Terminal } from "./terminal.ts";

/** Runs a command line; never throws. */
export async function runCommandLine(argv: readonly string[], terminal: Terminal): Promise<0 | 1 | 2> {
  try {
    const command = parseCommand(argv);
    switch (command.command) {
      case "help":
        terminal.stdout.write(helpTexts[command.of]);
        break;
      case "version":
        terminal.stdout.write(`${await version()}\n`);
        break;
      case "inspect":
        await runInspect(command, terminal);
        break;
      case "plan":
        await runPlan(command, terminal);
        break;
      case "generate":
        await runGenerate(command, terminal);
        break;
      case "compare":
        await runCompare(command, terminal);
        break;
      case "merge":
        await runMerge(command, terminal);
    }
    return 0;
  } catch (thrown) {
    const error = toIterisError(thrown);
    tell(error, wantsJson(argv), terminal);
    return exitCode(error);
  }
}
