/** A state of the page in which everything for a merge is there, for tests that take something away from it. */
import type { AdapterFacts, BaseFacts, SamplesFacts } from "../../www/lib/types.ts";
import { type Adapter, type State, Store } from "../../www/page/state.ts";

export const baseFacts: BaseFacts = {
  family: "bert",
  kind: "encoder",
  generates: false,
  answerLength: 16,
  architecture: "BertModel",
  parameters: 1,
  hiddenSize: 1,
  layers: 1,
  heads: 1,
  maxLength: 8,
  vocabSize: 9,
  dtype: "F32",
  bytes: 1,
  hasTokenizer: true,
  hasPooler: true,
};

export const samplesFacts: SamplesFacts = {
  name: "a.txt",
  format: "txt",
  count: 50,
  labelled: 0,
  labels: [],
  pairs: 0,
  kinds: { text: 50, prompt: 0, messages: 0 },
  answers: 0,
  longestCharacters: 9,
  preview: [],
};

export const adapterFacts: AdapterFacts = {
  format: "peft",
  features: [],
  needsBase: false,
  peftType: "LORA",
  taskType: null,
  rank: 8,
  ranks: [8],
  alpha: 16,
  scaling: 2,
  targets: ["query"],
  groups: [{ pattern: "encoder.layer.0.attention.self.query", modules: 1, ranks: [8] }],
  modules: 1,
  parameters: 1,
  heads: [],
  baseName: null,
  labels: null,
  dtype: "F32",
  bytes: 1,
};

/** An adapter with samples. */
export function adapter(name: string, facts: Partial<AdapterFacts> = {}): Adapter {
  return {
    id: name,
    name,
    folder: name,
    files: [],
    weight: 1,
    facts: { status: "ready", value: { ...adapterFacts, ...facts } },
    texts: {
      samples: {
        dropped: { path: "a.txt", file: new File(["x"], "a.txt") },
        facts: { status: "ready", value: samplesFacts },
      },
    },
    self: undefined,
  };
}

/** A base model and two adapters with samples, and one change to it. */
export function readyState(change: (state: State) => void = () => undefined): State {
  const { state } = new Store();
  state.base = { name: "bert", files: [], facts: { status: "ready", value: baseFacts }, chat: false };
  state.adapters = [adapter("mood"), adapter("topic")];
  change(state);
  return state;
}
