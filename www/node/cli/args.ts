/** The command line, parsed into what it asks for. */
import { parseArgs } from "node:util";
import { type CompareCommand, parseCompare } from "./parse-compare.ts";
import { type GenerateCommand, parseGenerate } from "./parse-generate.ts";
import { type MergeCommand, parseMerge } from "./parse-merge.ts";
import { type PlanCommand, parsePlan } from "./parse-plan.ts";
import { type CommandName, firstSentence, flag, help, Usage } from "./values.ts";

/** `iteris-web inspect …` */
export interface InspectCommand {
  command: "inspect";
  paths: string[];
  json: boolean;
}

/** What a command line asks for. */
export type Command =
  | MergeCommand
  | CompareCommand
  | GenerateCommand
  | InspectCommand
  | PlanCommand
  | { command: "help"; of: "all" | CommandName }
  | { command: "version" };

/** Whether a command line wants JSON, even where it cannot be parsed: its error is told as JSON then. */
export function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  return argv.slice(0, end === -1 ? argv.length : end).includes("--json");
}

/** @throws IterisError `option_invalid` with what is wrong and where the help is */
export function parseCommand(argv: readonly string[]): Command {
  const [first, ...rest] = argv;
  switch (first) {
    case undefined:
    case "-h":
    case "--help":
    case "help":
      return { command: "help", of: commandNamed(rest[0]) ?? "all" };
    case "-v":
    case "-V":
    case "--version":
      return { command: "version" };
    case "merge":
      return parseMerge(rest);
    case "compare":
      return parseCompare(rest);
    case "generate":
      return parseGenerate(rest);
    case "inspect":
      return rest.includes("--plan") ? parsePlan(rest) : parseInspect(rest);
    default:
      throw new Usage(null).error(`There is no command ${first}.`);
  }
}

function commandNamed(word: string | undefined): CommandName | undefined {
  return (["merge", "compare", "generate", "inspect"] as const).find((name) => name === word);
}

function parseInspect(args: string[]): Command {
  const usage = new Usage("inspect");
  const options = { json: flag, help } as const;
  try {
    const { values, positionals } = parseArgs({ args, options, allowPositionals: true });
    if (values.help) return { command: "help", of: "inspect" };
    if (positionals.length > 0) return { command: "inspect", paths: positionals, json: values.json ?? false };
  } catch (thrown) {
    throw usage.error(firstSentence(thrown));
  }
  throw usage.error("Give folders or files to inspect.");
}
