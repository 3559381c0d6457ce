/**
 * The goldens' tiny language models, with the tokenizer that they lack: word `w17` is token 17, so that ids can be
 * written as texts and what a model writes can be held against the goldens' ids.
 */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const goldens = join(import.meta.dirname, "../goldens/data/families");

/** The tokens that are no words, and what the tokenizer puts around a text. */
const conventions = {
  gpt2: { special: ["<|endoftext|>"], before: [], behind: [], end: 0 },
  llama: { special: ["<unk>", "<s>", "</s>"], before: ["<s>"], behind: [], end: 2 },
  t5: { special: ["<pad>", "</s>"], before: [], behind: ["</s>"], end: 1 },
} as const;

/** One of the goldens' families. */
export type FamilyName = keyof typeof conventions;

/** A tiny language model on disk, and what the goldens say of it. */
export interface Family {
  base: string;
  /** Folders of the adapters. */
  adapters: { a: string; b: string };
  /** Calibration samples of each adapter, as texts. */
  samples: { a: string[]; b: string[] };
  /** What each adapter writes to them; encoder-decoders alone. */
  targets: { a: string[]; b: string[] } | undefined;
  prompts: string[];
  maxNewTokens: number;
  /** What base and adapters write to the prompts, and whether they came to their end. */
  generated: Record<"base" | "a" | "b", { texts: string[]; finished: boolean[] }>;
  /** Merged deltas by module, row by row, of `sweep` with the defaults. */
  sweep(): Map<string, number[]>;
}

type Ids = number[][];

interface Inputs {
  samples: { a: Ids; b: Ids };
  targets?: { a: Ids; b: Ids };
  prompts: Ids;
  generated: { base: Ids; a: Ids; b: Ids };
  max_new_tokens: number;
}

function tokenizer(name: FamilyName, vocabulary: number) {
  const { special, before, behind } = conventions[name];
  const words = Array.from({ length: vocabulary }, (_, id) => special[id] ?? `w${id}`);
  const place = (token: string) => ({ SpecialToken: { id: token, type_id: 0 } });
  const text = (id: "A" | "B") => [
    ...before.map(place),
    { Sequence: { id, type_id: 0 } },
    ...behind.map(place),
  ];
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({ id, content, special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: {
      type: "TemplateProcessing",
      single: text("A"),
      pair: [...text("A"), ...text("B")],
      special_tokens: {},
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: false },
    model: {
      type: "WordPiece",
      unk_token: special[0],
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(words.map((word, id) => [word, id])),
    },
  };
}

/** The tensors of a safetensors file in f32 whose names begin so, by the rest of the name. */
function tensors(path: string, prefix: string): Map<string, number[]> {
  const bytes = readFileSync(path);
  const end = 8 + Number(bytes.readBigUInt64LE(0));
  const header: Record<string, { dtype: string; data_offsets: [number, number] }> = JSON.parse(
    bytes.subarray(8, end).toString(),
  );
  const found = new Map<string, number[]>();
  for (const [name, { dtype, data_offsets }] of Object.entries(header)) {
    if (!name.startsWith(prefix) || dtype !== "F32") continue;
    const data = Uint8Array.from(bytes.subarray(end + data_offsets[0], end + data_offsets[1]));
    found.set(name.slice(prefix.length), Array.from(new Float32Array(data.buffer)));
  }
  return found;
}

/** Writes a family's base model with a tokenizer of `words` words into `folder`. */
export function writeFamily(name: FamilyName, folder: string, words?: number): Family {
  const { special, end } = conventions[name];
  const golden = join(goldens, name);
  const base = join(folder, "base");
  cpSync(join(golden, "base"), base, { recursive: true });
  const { vocab_size } = JSON.parse(readFileSync(join(base, "config.json"), "utf8"));
  writeFileSync(join(base, "tokenizer.json"), JSON.stringify(tokenizer(name, words ?? vocab_size)));
  const inputs: Inputs = JSON.parse(readFileSync(join(golden, "inputs.json"), "utf8"));
  const textOf = (ids: number[]) =>
    ids
      .filter((id) => id >= special.length)
      .map((id) => `w${id}`)
      .join(" ");
  const written = (rows: Ids) => ({
    texts: rows.map(textOf),
    finished: rows.map((ids) => ids.at(-1) === end),
  });
  const both = ({ a, b }: { a: Ids; b: Ids }) => ({ a: a.map(textOf), b: b.map(textOf) });
  const { base: alone, a, b } = inputs.generated;
  return {
    base,
    adapters: { a: join(golden, "a"), b: join(golden, "b") },
    samples: both(inputs.samples),
    targets: inputs.targets === undefined ? undefined : both(inputs.targets),
    prompts: inputs.prompts.map(textOf),
    maxNewTokens: inputs.max_new_tokens,
    generated: { base: written(alone), a: written(a), b: written(b) },
    sweep: () => tensors(join(golden, "merged.safetensors"), "sweep."),
  };
}
