/** What `--help` prints. */
import type { CommandName } from "./values.ts";

const helpAll = `iteris-web: merge LoRA adapters into one, on this machine.

Usage
  iteris-web merge --base DIR --adapter DIR --samples FILE --adapter DIR --samples FILE … --out DIR
  iteris-web generate --base DIR --adapter DIR … --prompt TEXT
  iteris-web inspect PATH …

Commands
  merge      merge two or more PEFT adapters of one base model
  generate   let the base and each adapter write after prompts, side by side
  inspect    tell what a base model, an adapter or a file of samples holds

  iteris-web merge --help      every option of merge; so too for generate and inspect
  iteris-web --version
`;

const helpMerge = `iteris-web merge: merge PEFT LoRA adapters of one base model into one adapter.

Usage
  iteris-web merge --base DIR --adapter DIR --samples FILE --adapter DIR --samples FILE … --out DIR

Example
  iteris-web merge --base minilm \\
    --adapter adapters/emotion --samples emotion.txt --compare emotion.test.jsonl \\
    --adapter adapters/topic --samples topic.txt --compare topic.test.jsonl \\
    --out merged

Inputs
  --base DIR           folder of the base model: config.json, *.safetensors, tokenizer.json
  --adapter DIR        folder of a PEFT adapter; once for each
  --samples FILE       unlabelled texts of that adapter's task, about 50: .txt (one a line),
                       .jsonl, .json, .csv or .tsv with "text" (T5, BART: and "target"), or
                       with "prompt" (and "completion"), or, not in tables, with "messages"
  --samples self       the adapter of a language model writes its samples itself
  --self-prompt TEXT   what self-written samples begin with (default: the model's first token)
  --weight W           the adapter's weight in the merge (default 1)
  --name NAME          the task's name in the report (default: the folder's name)
  --compare FILE       texts that were not used as samples, with "label" (or an answer) if accuracy
                       is wanted; prints how well base, adapter, linear average and merged do
    These belong to adapters: one for each adapter in order, or beside the adapter they are for.

Output
  --out DIR            folder to write: the merged adapter, heads/, merge_report.json
  --force              replace DIR if it holds something
  --output KIND        adapter, or base: the base model with the merge applied (default adapter)
  --rank R             cut the merged adapter to rank R (default: exact, the sum of the ranks)
  --dtype f32|f16      element type of the output (default f32)
  --json               print one JSON object on standard output, and nothing else there

Method
  --method METHOD      iteris, linear or task-arithmetic (default iteris; the others need no samples)
  --schedule KIND      sweep: each layer once; iterate: the paper's loop (default sweep)
  --max-iter N         passes of iterate (default 3)
  --target KIND        delta or full: solve for the adapters' deltas or the whole weights (default delta)
  --alpha A            relative ridge of both Gram matrices, 0 to 1 (default 1e-5)
  --no-adaptive-weights  leave out the weights that even out the tasks' scales
  --padding KIND       exclude or include the rows of padding tokens (default exclude)
  --scale S            factor of task-arithmetic (default 1)
  --max-length N       tokens a sample is cut to (default: what the model can read, at most 512)
  --decoder-inputs KIND  T5, BART: own: the decoder reads the target or what the adapter writes;
                       start: the start token alone, as the published code does (default own)
  --max-new-tokens N   tokens an adapter writes where a sample has no answer (default 16)
  --positions KIND     decoder-only models: all: features of all tokens; completion: of the
                       completion's alone (default all)
  --seed N             of --samples self (default 0)
  --device DEVICE      auto, cpu or webgpu (default auto; webgpu needs: npm install webgpu)

Exit codes
  0  done        2  bad input or options        1  a fault of the program, the device or the disk
  Ctrl+C cancels. Whatever happens, DIR is written whole or not at all.
`;

const helpGenerate = `iteris-web generate: let the base model, and the model with each adapter, write after prompts.

Usage
  iteris-web generate --base DIR --adapter DIR … --prompt TEXT

Example
  iteris-web generate --base smollm2 --adapter merged --chat --prompt "Where is the station?"

Inputs
  --base DIR           folder of the base model: config.json, *.safetensors, tokenizer.json
  --adapter DIR        folder of a PEFT adapter, a merged one too, or of a whole model; any number
  --name NAME          the adapter's name in the output (default: the folder's name)
  --prompt TEXT        what to write after; any number
  --prompts FILE       more of them: .txt (one a line), .jsonl, .json, .csv or .tsv with "prompt" or
                       "text", or, not in tables, "messages"; answers in it are left out
  --chat               each --prompt is what a user says: it goes through the chat template

How it writes
  --max-new-tokens N   tokens, at most (default 64)
  --temperature T      0: the likeliest token each time; above 0: sampled (default 0)
  --top-p P            sample from the likeliest tokens that have this probability (default 1)
  --seed N             the same seed writes the same (default 0)
  --device DEVICE      auto, cpu or webgpu (default auto; webgpu needs: npm install webgpu)
  --json               print one JSON object on standard output, and nothing else there

Exit codes
  0  done        2  bad input or options        1  a fault of the program or the device
`;

const helpInspect = `iteris-web inspect: tell what folders and files hold.

Usage
  iteris-web inspect PATH … [--json]

  A folder with adapter_config.json is read as an adapter, another folder as a base model, and a file
  as samples.

Exit codes
  0  done        2  bad input        1  a fault
`;

/** The help of each command, and of all. */
export const helpTexts: Record<"all" | CommandName, string> = {
  all: helpAll,
  merge: helpMerge,
  generate: helpGenerate,
  inspect: helpInspect,
};
