import { describe, expect, it } from "vitest";
import { errorCodes, IterisError } from "../../www/lib/errors.ts";
import type { CompareReport, Progress } from "../../www/lib/types.ts";
import { parseCommand, wantsJson } from "../../www/node/cli/args.ts";
import { exitCode, tell } from "../../www/node/cli/failure.ts";
import { describe as describeTexts } from "../../www/node/cli/generated.ts";
import { helpTexts } from "../../www/node/cli/help.ts";
import { methodOptions } from "../../www/node/cli/method-options.ts";
import type { GenerateCommand } from "../../www/node/cli/parse-generate.ts";
import type { MergeCommand } from "../../www/node/cli/parse-merge.ts";
import { clock, progressView } from "../../www/node/cli/progress.ts";
import { comparisonTable } from "../../www/node/cli/table.ts";

const words = (line: string) => line.split(" ").filter((word) => word !== "");
const merge = (line: string) => parseCommand(words(`merge --base m --out o ${line}`)) as MergeCommand;
const generate = (line: string, ...texts: string[]) =>
  parseCommand([...words(`generate --base m ${line}`), ...texts]) as GenerateCommand;
const refused = (message: string) =>
  expect.objectContaining({ code: "option_invalid", message: expect.stringContaining(message) });

describe("the command line of a merge", () => {
  it("pairs what stands beside each adapter", () => {
    const line =
      "--adapter x/a --samples a.txt --weight 2 --compare a.csv --adapter x/b/ --samples b.txt --weight .5 --compare b.csv";
    expect(merge(line).adapters).toEqual([
      { name: "a", folder: "x/a", samples: "a.txt", weight: 2, compare: "a.csv" },
      { name: "b", folder: "x/b/", samples: "b.txt", weight: 0.5, compare: "b.csv" },
    ]);
  });

  it("pairs what stands in a row, in order", () => {
    const { adapters } = merge(
      "--samples a.txt --samples b.txt --adapter a --adapter b --name one --name two",
    );
    expect(adapters.map(({ name, samples }) => [name, samples])).toEqual([
      ["one", "a.txt"],
      ["two", "b.txt"],
    ]);
  });

  it("gives what fewer than all adapters have to the adapter before it", () => {
    const { adapters } = merge("--adapter a --adapter b --weight 3 --adapter c");
    expect(adapters.map(({ weight }) => weight)).toEqual([undefined, 3, undefined]);
  });

  it.each([
    ["--adapter a --weight 1 --weight 2", "--weight is given 2 times for 1 adapters"],
    ["--weight 1 --adapter a --adapter b", "stands before the first --adapter"],
    ["--adapter a --samples x --samples y --adapter b --adapter c", "second --samples"],
    ["--adapter a --compare x --adapter b", "--compare needs a file for each of the 2 adapters"],
    ["--samples x", "--samples is given 1 times for 0 adapters"],
  ])("refuses to guess: %s", (line, message) => {
    expect(() => merge(line)).toThrowError(refused(message));
  });

  it("leaves out what was not given, so that the core's defaults hold", () => {
    expect(merge("--adapter a")).toEqual({
      command: "merge",
      base: "m",
      out: "o",
      adapters: [{ name: "a", folder: "a", samples: undefined, weight: undefined, compare: undefined }],
      force: false,
      options: {},
      device: "auto",
      workers: "auto",
      json: false,
    });
  });

  it("reads every option", () => {
    const line =
      "--method iteris --schedule iterate --max-iter 3 --target full --alpha 1e-3 --no-adaptive-weights " +
      "--padding include --rank 8 --output base --dtype f16 --max-length 64 --device cpu --force --json";
    expect(merge(line)).toMatchObject({
      force: true,
      json: true,
      device: "cpu",
      options: {
        method: "iteris",
        schedule: "iterate",
        maxIter: 3,
        target: "full",
        alpha1: 1e-3,
        alpha2: 1e-3,
        adaptiveWeights: false,
        padding: "include",
        rank: 8,
        output: "base",
        dtype: "f16",
        maxLength: 64,
      },
    });
  });

  it.each([
    [
      "--method soup",
      "--method must be one of iteris, regmean, regmean++, average, linear, task_arithmetic,",
    ],
    ["--rank 0", "--rank must be a whole number above 0"],
    ["--max-iter 1.5", "--max-iter must be a whole number"],
    ["--alpha much", "--alpha must be a number"],
    ["--adapter a --weight heavy", "--weight must be a number"],
    ["--dtype f32 --dtype f16", "--dtype is given twice"],
    ["--colour red", "Unknown option '--colour'"],
    ["stray", "Unexpected argument 'stray'"],
    ["--adapter", "'--adapter <value>' argument missing"],
  ])("refuses %s with the reason and where the help is", (line, message) => {
    expect(() => merge(line)).toThrowError(refused(message));
    expect(() => merge(line)).toThrowError(refused("See: iteris-web merge --help"));
  });

  it("needs a base and an output folder", () => {
    expect(() => parseCommand(["merge", "--out", "o"])).toThrowError(refused("--base is missing"));
    expect(() => parseCommand(["merge", "--base", "m"])).toThrowError(refused("--out is missing"));
  });

  it("has every option in its help", () => {
    const options = [
      ..."base adapter samples weight name compare out force output rank dtype json method schedule".split(
        " ",
      ),
      ..."max-iter target alpha no-adaptive-weights padding scale max-length device".split(" "),
      ..."self-prompt decoder-inputs max-new-tokens positions recipe".split(" "),
      ...Object.keys(methodOptions),
    ];
    for (const option of options) expect(helpTexts.merge).toContain(`--${option}`);
  });

  it("reads what language models need", () => {
    expect(merge("--decoder-inputs own --max-new-tokens 8").options).toEqual({
      decoderInputs: "own",
      maxNewTokens: 8,
    });
    expect(merge("--decoder-inputs start").options).toEqual({ decoderInputs: "start" });
    expect(merge("--positions completion --max-new-tokens 32").options).toEqual({
      positions: "completion",
      maxNewTokens: 32,
    });
  });

  it("lets adapters write their samples themselves, one by one", () => {
    const line =
      "--adapter a --samples self --adapter b --samples b.txt --adapter c --samples self --self-prompt Once --seed 7";
    expect(merge(line).adapters.map(({ samples }) => samples)).toEqual([
      { self: { seed: 7 } },
      "b.txt",
      { self: { prompt: "Once", seed: 7 } },
    ]);
  });

  it.each([
    [
      "--adapter a --samples self --method linear",
      "--samples self does nothing here: --method linear needs no",
    ],
    ["--positions completion --method task-arithmetic", "--positions does nothing here"],
    ["--decoder-inputs start --method linear", "--decoder-inputs does nothing here"],
    ["--decoder-inputs start --max-new-tokens 4", "no adapter writes an answer"],
    ["--method linear --max-new-tokens 4", "no adapter writes an answer"],
    [
      "--decoder-inputs own --positions completion",
      "for encoder-decoders, --positions completion for decoder",
    ],
    ["--decoder-inputs mine", "--decoder-inputs must be own or start, not mine."],
    ["--positions last", "--positions must be all or completion, not last."],
    ["--max-new-tokens 0", "--max-new-tokens must be a whole number above 0"],
    ["--adapter a --samples a.txt --self-prompt x", "--self-prompt x goes with --samples self."],
    ["--adapter a --samples a.txt --seed 1", "--seed goes with --samples self."],
  ])("refuses %s, which would do nothing", (line, message) => {
    expect(() => merge(line)).toThrowError(refused(message));
  });

  it("may limit what is written only for a comparison", () => {
    const line = "--adapter a --compare a.jsonl --method linear --max-new-tokens 4";
    expect(merge(line).options).toEqual({ method: "linear", maxNewTokens: 4 });
  });

  it("may name classes only for a comparison", () => {
    const line = "--adapter a --method linear --label cat --label dog";
    expect(merge(`${line} --compare a.test`).labels).toEqual(["cat", "dog"]);
    expect(() => merge(line)).toThrowError(refused("--label does nothing without --compare"));
  });
});

describe("the command line of a generation", () => {
  it("reads prompts, adapters and how to sample", () => {
    const line =
      "--adapter x/a --adapter b --name one --temperature .7 --top-p .9 --seed 3 --max-new-tokens 8";
    expect(
      generate(`${line} --prompts p.jsonl --device cpu --workers 3 --json --prompt`, "Where is it?"),
    ).toEqual({
      command: "generate",
      base: "m",
      adapters: [
        { name: "a", folder: "x/a" },
        { name: "one", folder: "b" },
      ],
      prompts: ["Where is it?"],
      images: [],
      promptsFile: "p.jsonl",
      chat: false,
      sampling: { maxNewTokens: 8, temperature: 0.7, topP: 0.9, seed: 3 },
      device: "cpu",
      workers: 3,
      json: true,
    });
  });

  it("takes several prompts, and no adapter at all", () => {
    expect(generate("--chat --prompt a --prompt b")).toMatchObject({
      adapters: [],
      prompts: ["a", "b"],
      promptsFile: undefined,
      chat: true,
    });
  });

  it("takes pictures, with or without how their captions begin", () => {
    expect(generate("--image cat.png --image dogs --prompt a")).toMatchObject({
      images: ["cat.png", "dogs"],
      prompts: ["a"],
    });
    expect(generate("--image cat.png").prompts).toEqual([]);
  });

  it.each([
    [
      "--image a.png --chat --prompt a",
      "--chat is for texts; beside --image a --prompt is how captions begin.",
    ],
    ["--image a.png --prompts p.txt", "--prompts is for texts; beside --image"],
    ["", "Give a text with --prompt, a file of them with --prompts, or for a model"],
    ["--prompts p.txt --chat", "--chat is for --prompt"],
    ["--prompt a --seed 1", "--seed does nothing without --temperature above 0"],
    ["--prompt a --temperature 0 --top-p .5", "--top-p does nothing without --temperature above 0"],
    ["--prompt a --max-new-tokens none", "--max-new-tokens must be a number, not none."],
    ["--prompt a --temperature 1 --seed -1", "--seed must be a whole number, 0 or more"],
    ["--prompt a --temperature 1 --seed=-1", "--seed must be a whole number, 0 or more"],
    ["--prompt a --prompts x --prompts y", "--prompts is given twice."],
    ["--prompt a --out o", "Unknown option '--out'"],
  ])("refuses %s with the reason and where the help is", (line, message) => {
    expect(() => generate(line)).toThrowError(refused(message));
    expect(() => generate(line)).toThrowError(refused("See: iteris-web generate --help"));
  });

  it("needs a base", () => {
    expect(() => parseCommand(["generate", "--prompt", "a"])).toThrowError(refused("--base is missing"));
  });

  it("has every option in its help", () => {
    const options =
      "base adapter name prompt prompts chat max-new-tokens temperature top-p seed device json".split(" ");
    for (const option of options) expect(helpTexts.generate).toContain(`--${option}`);
  });
});

describe("what was written", () => {
  const device = { kind: "cpu", why: "The CPU was asked for.", adapter: null } as const;

  it("stands side by side, a block for each prompt", () => {
    const told = describeTexts({
      prompts: [{ prompt: "Where is\nit?" }, { messages: [{ role: "user", content: "And then?" }] }],
      variants: [
        { name: "base", texts: [" It is\nit is", "Then"], finished: [false, true] },
        { name: "merged", texts: [" Here.", ""], finished: [true, true] },
      ],
      tokens: 12,
      seconds: 0.51,
      device,
      notes: ["something"],
    });
    expect(told.split("\n")).toEqual([
      "> Where is",
      "> it?",
      "  base    It is",
      "          it is …",
      "  merged  Here.",
      "",
      "> And then?",
      "  base    Then",
      "  merged",
      "",
      "… stands where --max-new-tokens ended what was being written.",
      "12 tokens in 0.5 s. The CPU was asked for.",
      "Note: something",
      "",
    ]);
  });
});

describe("other command lines", () => {
  it.each([
    ["", { command: "help", of: "all" }],
    ["--help", { command: "help", of: "all" }],
    ["help merge", { command: "help", of: "merge" }],
    ["merge --help", { command: "help", of: "merge" }],
    ["merge -h", { command: "help", of: "merge" }],
    ["generate -h", { command: "help", of: "generate" }],
    ["compare --help", { command: "help", of: "compare" }],
    ["help compare", { command: "help", of: "compare" }],
    ["help generate", { command: "help", of: "generate" }],
    ["inspect --help", { command: "help", of: "inspect" }],
    ["--version", { command: "version" }],
    ["inspect a b --json", { command: "inspect", paths: ["a", "b"], json: true }],
  ])("%s", (line, command) => {
    expect(parseCommand(words(line))).toEqual(command);
  });

  it("that are no command are refused", () => {
    expect(() => parseCommand(["mrege"])).toThrowError(refused("There is no command mrege."));
    expect(() => parseCommand(["inspect"])).toThrowError(refused("Give folders or files"));
  });
});

describe("a failure", () => {
  const run = (error: IterisError, json: boolean) => {
    const said = { stdout: "", stderr: "" };
    const into = (name: "stdout" | "stderr") => ({
      write: (text: string) => {
        said[name] += text;
      },
    });
    tell(error, json, { stdout: into("stdout"), stderr: into("stderr") });
    return said;
  };

  it("exits 1 for faults of program, device and disk, and 2 for bad input", () => {
    const ones = Object.keys(errorCodes).filter(
      (code) => exitCode(new IterisError(code as keyof typeof errorCodes, "")) === 1,
    );
    expect(ones).toEqual([
      "cancelled",
      "write_failed",
      "webgpu_unavailable",
      "out_of_memory",
      "device_lost",
      "internal",
    ]);
    expect(exitCode(new IterisError("samples_invalid", ""))).toBe(2);
  });

  it("is one JSON object on standard output, or a sentence on standard error", () => {
    const error = new IterisError("missing", "No config.json.");
    expect(run(error, false)).toEqual({ stdout: "", stderr: "iteris-web: No config.json. (missing)\n" });
    const { stdout, stderr } = run(error, true);
    expect(stderr).toBe("");
    expect(stdout.endsWith("}\n")).toBe(true);
    expect(JSON.parse(stdout)).toEqual({ error: { code: "missing", message: "No config.json." } });
  });

  it("of a command line that cannot be parsed is JSON too, if that was asked for", () => {
    expect(wantsJson(["merge", "--nonsense", "--json"])).toBe(true);
    expect(wantsJson(["merge", "--", "--json"])).toBe(false);
  });
});

describe("progress", () => {
  const at = (done: number, more: Partial<Progress> = {}): Progress => ({
    stage: "forward",
    layer: "block 1 of 6",
    done,
    total: 20,
    seconds: done * 3,
    ...more,
  });

  it("tells times in minutes and seconds", () => {
    expect(clock(75)).toBe("1:15");
    expect(clock(3600)).toBe("60:00");
  });

  it("is a bar on a terminal, drawn over, never wider than it", () => {
    const written: string[] = [];
    const view = progressView({ write: (text) => written.push(text), isTTY: true, columns: 40 });
    view.show(at(0));
    view.show(at(10));
    view.end();
    const clear = "\r\x1b[2K";
    expect(written[1]?.startsWith(`${clear}${"█".repeat(12)}${"░".repeat(12)}  50 %  0:30`)).toBe(true);
    expect(written[1]?.replace(clear, "").length).toBeLessThan(40);
    expect(written[2]).toBe(clear);
  });

  it("counts layers and bytes where there is room for them", () => {
    const written: string[] = [];
    const view = progressView({ write: (text) => written.push(text), isTTY: true, columns: 120 });
    view.show(at(5, { stage: "merge", layer: "mid.to_q", bytesDone: 1.2e9, bytesTotal: 2.4e9 }));
    expect(written[0]).toContain("50 %  merging  5 of 20  1.2 of 2.4 GB  mid.to_q");
  });

  it("is a plain line for each tenth elsewhere", () => {
    const written: string[] = [];
    const view = progressView({ write: (text) => written.push(text) });
    for (let done = 0; done < 20; done += 1) {
      view.show(at(done));
      view.show(at(done, { stage: "solve" }));
    }
    view.end();
    expect(written).toHaveLength(10);
    expect(written[5]).toBe("running the model: 50 %, 0:30 left\n");
    expect(written.every((line) => !line.includes("\r") && !line.includes("\x1b"))).toBe(true);
  });
});

describe("the comparison's table", () => {
  it("has a row for each task and a column for each variant", () => {
    const score = (variant: string, agreement: number | null, accuracy: number | null) => ({
      variant,
      agreement,
      accuracy,
      cosine: 1,
    });
    const report: CompareReport = {
      tasks: [
        {
          task: "emoint",
          samples: 600,
          labelled: 600,
          variants: [score("base", 0.3, 0.42), score("adapter", 1, 0.8367), score("iteris", 0.91, 0.78)],
        },
        {
          task: "b",
          samples: 9,
          labelled: 0,
          variants: [score("base", 0.5, null), score("adapter", 1, null), score("iteris", 0.95, null)],
        },
      ],
      residuals: [],
      seconds: 1,
      notes: [],
    };
    expect(comparisonTable(report)).toBe(
      [
        "agreement with the task's own adapter",
        "task    samples    base  adapter  iteris",
        "emoint      600  30.0 %  100.0 %  91.0 %",
        "b             9  50.0 %  100.0 %  95.0 %",
        "",
        "accuracy",
        "task    samples    base  adapter  iteris",
        "emoint      600  42.0 %   83.7 %  78.0 %",
        "b             9       -        -       -",
        "",
      ].join("\n"),
    );
  });
});
