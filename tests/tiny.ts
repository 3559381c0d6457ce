/**
 * A tiny BERT with adapters that is merged in milliseconds: the goldens' models, with the tokenizer that they
 * lack. Word `w17` is token 17, so that any of the goldens' samples can be written as a text.
 */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const goldens = join(import.meta.dirname, "goldens/data/adapters");
const special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"];

function tokenizer(vocabulary: number) {
  const words = Array.from({ length: vocabulary }, (_, id) => special[id] ?? `w${id}`);
  const place = (token: string, type_id: number) => ({ SpecialToken: { id: token, type_id } });
  const text = (id: "A" | "B", type_id: number) => ({ Sequence: { id, type_id } });
  const single = [place("[CLS]", 0), text("A", 0), place("[SEP]", 0)];
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({ id, content, special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: {
      type: "TemplateProcessing",
      single,
      pair: [...single, text("B", 1), place("[SEP]", 1)],
      special_tokens: {},
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: "[UNK]",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(words.map((word, id) => [word, id])),
    },
  };
}

/** The goldens' samples of an adapter, as texts. */
function texts(adapter: string): string[] {
  const { ids } = JSON.parse(readFileSync(join(goldens, adapter, "inputs.json"), "utf8"));
  return ids.map((sample: number[]) =>
    sample
      .slice(1, -1)
      .map((id) => `w${id}`)
      .join(" "),
  );
}

/** Folders and files of a tiny merge. */
export interface Tiny {
  base: string;
  adapters: { name: string; files: string; samples: string }[];
}

/** Writes a tiny base model, two adapters and their samples into `folder`. */
export function writeTiny(folder: string): Tiny {
  const base = join(folder, "base");
  cpSync(join(goldens, "base"), base, { recursive: true });
  const { vocab_size } = JSON.parse(readFileSync(join(base, "config.json"), "utf8"));
  writeFileSync(join(base, "tokenizer.json"), JSON.stringify(tokenizer(vocab_size)));
  writeFileSync(join(base, "tokenizer_config.json"), JSON.stringify({ model_max_length: 32 }));
  const adapters = ["qv", "all"].map((name) => {
    const files = join(folder, name);
    mkdirSync(files);
    for (const file of ["adapter_config.json", "adapter_model.safetensors"]) {
      cpSync(join(goldens, name, file), join(files, file));
    }
    const samples = join(folder, `${name}.txt`);
    writeFileSync(samples, texts(name).join("\n"));
    return { name, files, samples };
  });
  return { base, adapters };
}
