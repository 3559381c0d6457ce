/** `iteris-web generate …`, parsed into what it asks for. */
import { basename, resolve } from "node:path";
import { type DeviceRequest, GENERATE_OPTIONS, type GenerateRequest, type WorkersRequest } from "../index.ts";
import { flag, help, list, optional, pair, readWords, text, Usage } from "./values.ts";

/** What `iteris-web generate` is asked for. */
export interface GenerateCommand {
  command: "generate";
  base: string;
  adapters: { name: string; folder: string }[];
  prompts: string[];
  /** Pictures, folders of them or patterns, of which captions are written. */
  images: string[];
  /** A file with more of them. */
  promptsFile: string | undefined;
  /** Whether the prompts of `--prompt` are turns of a user in a chat. */
  chat: boolean;
  sampling: Pick<GenerateRequest, "maxNewTokens" | "temperature" | "topP" | "seed">;
  device: DeviceRequest;
  workers: WorkersRequest;
  json: boolean;
}

const usage = new Usage("generate");

const table = {
  base: text,
  adapter: list,
  name: list,
  image: list,
  prompt: list,
  prompts: text,
  chat: flag,
  "max-new-tokens": text,
  temperature: text,
  "top-p": text,
  seed: text,
  device: text,
  workers: text,
  json: flag,
  help,
} as const;

type Values = ReturnType<typeof readWords<typeof table>>["values"];

/** @throws IterisError `option_invalid` with what is wrong and where the help is */
export function parseGenerate(args: string[]): GenerateCommand | { command: "help"; of: "generate" } {
  const { values, given } = readWords(args, table, usage);
  if (values.help) return { command: "help", of: "generate" };
  if (values.base === undefined) throw usage.error("--base is missing: the folder of the base model.");
  const images = values.image ?? [];
  if (images.length > 0 && (values.chat || values.prompts !== undefined)) {
    const word = values.chat ? "chat" : "prompts";
    throw usage.error(`--${word} is for texts; beside --image a --prompt is how captions begin.`);
  }
  if (values.prompt === undefined && values.prompts === undefined && images.length === 0) {
    throw usage.error(
      "Give a text with --prompt, a file of them with --prompts, or for a model that writes captions a picture with --image.",
    );
  }
  if (values.chat && values.prompt === undefined) {
    throw usage.error('--chat is for --prompt; in a file a chat is written as "messages".');
  }
  const folders = values.adapter ?? [];
  const names = pair(given, "name", folders.length, usage);
  return {
    command: "generate",
    base: values.base,
    // Resolved first, so that `.` and `a/..` have a name too.
    adapters: folders.map((folder, i) => ({ name: names[i] ?? basename(resolve(folder)), folder })),
    prompts: values.prompt ?? [],
    images,
    promptsFile: values.prompts,
    chat: values.chat ?? false,
    sampling: readSampling(values),
    device: usage.device(values.device),
    workers: usage.workers(values.workers),
    json: values.json ?? false,
  };
}

/** Greedy writing knows neither nucleus nor seed: whoever gives them without a temperature expects sampling. */
function readSampling(values: Values): GenerateCommand["sampling"] {
  const temperature = optional(values.temperature, (value) => usage.number("temperature", value));
  for (const name of ["top-p", "seed"] as const) {
    if (values[name] === undefined || (temperature ?? 0) > 0) continue;
    throw usage.error(`--${name} does nothing without --temperature above 0: the likeliest token is taken.`);
  }
  const names = Object.keys(GENERATE_OPTIONS) as (keyof typeof GENERATE_OPTIONS)[];
  return Object.fromEntries(
    names.map((name) => {
      const { flag: word, range } = GENERATE_OPTIONS[name];
      return [name, optional(values[word.name], (value) => usage.inRange(word.name, value, range))];
    }),
  );
}
