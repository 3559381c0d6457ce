/** What `--help` prints. */
import {
  deviceChoices,
  GENERATE_OPTIONS,
  METHODS,
  type MethodFacts,
  OPTIONS,
  type OptionFacts,
} from "../index.ts";
import { flags, shorthands } from "./method-options.ts";
import type { CommandName } from "./values.ts";

/** Words in lines that fit a terminal, behind what stands on the left of them. */
function wrap(left: string, words: string, indent: number): string {
  const lines: string[] = [];
  let line = left.padEnd(indent);
  for (const word of words.split(" ")) {
    if (line.length + 1 + word.length > 100 && line.trim() !== "") {
      lines.push(line);
      line = " ".repeat(indent);
    }
    line += line.length > indent ? ` ${word}` : word;
  }
  return [...lines, line].join("\n");
}

/** Every method with what it is and the options it looks at, from the one table of them. */
function methodList(): string {
  const optionsOf = (method: MethodFacts) =>
    [...flags].flatMap(([word, [name]]) =>
      name !== undefined && OPTIONS[name].methods?.includes(method.name) ? [`--${word}`] : [],
    );
  return METHODS.map((method) => {
    const options = optionsOf(method);
    const own = options.length === 0 ? "" : ` (${options.join(", ")})`;
    const needs = method.samples ? " Needs samples." : "";
    return wrap(`  ${method.name}`, `${method.hint}${needs}${own}`, 23);
  }).join("\n");
}

/** The words of an option with its range and its default. */
function explained({ kind, sentence, flag, range, unset, default: usual }: OptionFacts): string {
  const words = flag?.help ?? middle(sentence.replace(/\.$/, ""));
  const bounds = range?.most === undefined ? "" : `; ${range.words}`;
  const shown = kind === "flag" || kind === "weights" ? "" : ` (default ${unset ?? exponent(usual)})`;
  return `${words}${bounds}${shown.replace(/^ \(default (?=.* )/, " (default: ")}`;
}

/** A sentence as it stands behind something else; a name at its start keeps its capitals. */
const middle = (sentence: string): string =>
  /^[A-Z][^\sA-Z]*\s/.test(sentence) ? sentence.charAt(0).toLowerCase() + sentence.slice(1) : sentence;

/** Small numbers as people write them: 1e-5, not 0.00001. */
const exponent = (value: unknown): string =>
  typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(value);

function optionHelp(facts: OptionFacts): string {
  const { name, value } = facts.flag ?? { name: "" };
  const left = `  --${name}${value === undefined ? "" : ` ${value}`}`;
  const words = explained(facts);
  return left.length < 23 ? wrap(left, words, 23) : `${left}\n${wrap("", words, 23)}`;
}

/** The options of a section, each flag once. */
function section(name: NonNullable<OptionFacts["section"]>): string {
  const firsts = [...flags.values()].flatMap(([first]) => (first === undefined ? [] : [OPTIONS[first]]));
  return firsts
    .filter((facts) => facts.section === name)
    .map(optionHelp)
    .join("\n");
}

const device = wrap(
  "  --device DEVICE",
  `${deviceChoices.map(([name]) => name).join(", ")} (default auto; webgpu needs: npm install webgpu)`,
  23,
);

const workers = wrap(
  "  --workers N",
  "cores that share the work on the CPU (default auto: as many as it is worth)",
  23,
);

const helpAll = `iteris-web: merge LoRA adapters into one, on this machine.

Usage
  iteris-web merge --base DIR --adapter DIR --samples FILE --adapter DIR --samples FILE … --out DIR
  iteris-web merge --recipe merge_report.json
  iteris-web compare --base DIR --adapter DIR --samples FILE … --methods iteris,average,ties
  iteris-web generate --base DIR --adapter DIR … --prompt TEXT
  iteris-web generate --base DIR --adapter DIR … --image FILE
  iteris-web inspect PATH …

Commands
  merge      merge two or more adapters of one base model
  compare    merge by several methods and compare what comes of each
  generate   let the base and each adapter write after prompts, or of pictures, side by side
  inspect    tell what a base model, an adapter or a file of samples holds

  iteris-web merge --help      every option of merge; so too for compare, generate and inspect
  iteris-web --version
`;

const inputs = `  --base DIR           folder of the base model: config.json, *.safetensors, tokenizer.json
  --adapter PATH       folder of a PEFT adapter, or the one .safetensors file of kohya, ComfyUI or
                       diffusers; once for each
  --samples FILE       unlabelled texts of that adapter's task, about 50: .txt (one a line),
                       .jsonl, .json, .csv or .tsv with "text" (T5, BART: and "target"), or
                       with "prompt" (and "completion"), or, not in tables, with "messages"
  --samples DIR        for a model that reads pictures: a folder of PNG, JPEG, WebP,
                       GIF or BMP files (with metadata.jsonl, or a folder a class), or
                       a pattern such as 'cats/*.jpg', or a .parquet file; a captioner (BLIP)
                       writes the captions that lack itself
  --samples self       the adapter of a language model writes its samples itself
  --self-prompt TEXT   what self-written samples begin with (default: the model's first token)
  --weight W           the adapter's weight in the merge (default 1); where no samples are read
                       it may be negative, which takes the adapter's change away
  --name NAME          the task's name in the report (default: the folder's name)
`;

const labels = wrap(
  "  --label TEXT",
  "a class that CLIP or SigLIP chooses from when it is compared, two or more (default: the labels of the pictures that it is compared on, else their captions)",
  23,
);

const options = `Options of methods
${section("method")}

Samples
${section("samples")}
${device}
${workers}
`;

const written = `${section("output")}
${Object.entries(shorthands)
  .map(([word, meaning]) => wrap(`  ${word}`, `the same as ${meaning.join(" ")}`, 23))
  .join("\n")}
  --json               print one JSON object on standard output, and nothing else there
`;

const helpMerge = `iteris-web merge: merge LoRA adapters of one base model into one adapter.

Usage
  iteris-web merge --base DIR --adapter DIR --samples FILE --adapter DIR --samples FILE … --out DIR
  iteris-web merge --method METHOD --adapter PATH --adapter PATH … --out DIR
  iteris-web merge --recipe merge_report.json

Examples
  iteris-web merge --base minilm \\
    --adapter adapters/emotion --samples emotion.txt --compare emotion.test.jsonl \\
    --adapter adapters/topic --samples topic.txt --compare topic.test.jsonl \\
    --out merged
  iteris-web merge --method ties --density 0.2 --adapter a --adapter b --weight 0.5 --out merged
  iteris-web merge --method linear --format kohya --out both \\
    --adapter style.safetensors --adapter character.safetensors --weight -0.4

Inputs
${inputs}  --compare FILE       texts that were not used as samples, with "label" (or an answer) if accuracy
                       is wanted; prints how well base, adapter, linear average and merged do
${labels}
    These but --base belong to adapters: one for each adapter in order, or beside the adapter they
    are for. --base may be left out where neither the method nor an adapter needs the base model.

Repeating
  --recipe FILE        the merge_report.json of a merge: makes it again from the same files. Its
                       paths lead from its own folder; --base, --adapter and --samples tell where
                       the files are now, as they must where it knows no paths. Files that are not
                       the recipe's are refused. Other options given beside it override it.

Output
  --out DIR            folder to write: the merged adapter, heads/, merge_report.json
                       (default with --recipe: the recipe's own folder)
  --force              replace DIR if it holds something
${written}
Method
  --method METHOD      one of these (default iteris):

${methodList()}

${options}
Exit codes
  0  done        2  bad input or options        1  a fault of the program, the device or the disk
  Ctrl+C cancels. Whatever happens, DIR is written whole or not at all.
`;

const helpCompare = `iteris-web compare: merge by several methods and compare what comes of each on the same texts.

Usage
  iteris-web compare --base DIR --adapter DIR --samples FILE --adapter DIR --samples FILE …

Example
  iteris-web compare --base minilm --methods all --out results \\
    --adapter adapters/emotion --samples emotion.txt --compare emotion.test.jsonl \\
    --adapter adapters/topic --samples topic.txt --compare topic.test.jsonl

Inputs
${inputs}  --compare FILE       texts that were not used as samples, with "label" (or an answer) if accuracy
                       is wanted; without it methods are compared on --samples
${labels}
    These but --base belong to adapters: one for each adapter in order, or beside the adapter they
    are for. Without --samples only methods that need none are compared.
  --methods LIST       names with commas between them, or all (default iteris,average,ties)
  --merged DIR         an adapter that is merged already, to be compared along; any number

Output
  Prints a row for each method: the share of texts on which it answers as the task's own adapter does,
  the share it gets right where texts have labels, the mean residual of the layers and the seconds
  of the merge; then bars of the means. Of pictures it prints too what each says of the first ones.
  --out DIR            keep every method's result in DIR/METHOD
  --force              replace DIR if it holds something
${written}
Methods

${methodList()}

${options}
Exit codes
  0  done        2  bad input or options        1  a fault of the program, the device or the disk
  Ctrl+C cancels. Whatever happens, DIR is written whole or not at all.
`;

const helpGenerate = `iteris-web generate: let the base model, and the model with each adapter, write after prompts.

Usage
  iteris-web generate --base DIR --adapter DIR … --prompt TEXT
  iteris-web generate --base DIR --adapter DIR … --image FILE

Examples
  iteris-web generate --base smollm2 --adapter merged --chat --prompt "Where is the station?"
  iteris-web generate --base blip --adapter merged --image cat.png --prompt "a photo of"

Inputs
  --base DIR           folder of the base model: config.json, *.safetensors, tokenizer.json
  --adapter DIR        folder of a PEFT adapter, a merged one too, or of a whole model; any number
  --name NAME          the adapter's name in the output (default: the folder's name)
  --prompt TEXT        what to write after; any number
  --prompts FILE       more of them: .txt (one a line), .jsonl, .json, .csv or .tsv with "prompt" or
                       "text", or, not in tables, "messages"; answers in it are left out
  --image PATH         for a model that writes captions (BLIP): a picture, a folder of them, or a pattern
                       such as 'cats/*.jpg'; any number. A --prompt is how captions begin: one for
                       all, or one for each
  --chat               each --prompt is what a user says: it goes through the chat template

How it writes
${Object.values(GENERATE_OPTIONS).map(optionHelp).join("\n")}
${device}
${workers}
  --json               print one JSON object on standard output, and nothing else there

Exit codes
  0  done        2  bad input or options        1  a fault of the program or the device
`;

const helpInspect = `iteris-web inspect: tell what folders and files hold.

Usage
  iteris-web inspect PATH … [--json]
  iteris-web inspect --plan ADAPTER ADAPTER … [--base DIR] [--method METHOD] [options of merge]

  A folder with adapter_config.json, and a .safetensors file with LoRA tensors, is read as an adapter;
  another folder or .safetensors file as a base model; any other file as samples.

  --plan               tell what a merge of these adapters would take: bytes to read and to write,
                       memory, operations, and about how long on this machine; for methods that
                       read samples, what does not depend on those
  --json               print one JSON object on standard output, and nothing else there

Exit codes
  0  done        2  bad input        1  a fault
`;

/** The help of each command, and of all. */
export const helpTexts: Record<"all" | CommandName, string> = {
  all: helpAll,
  merge: helpMerge,
  compare: helpCompare,
  generate: helpGenerate,
  inspect: helpInspect,
};
