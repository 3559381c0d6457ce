/** Lets the models write after the prompt of “Try it”. Resolves when they have; never rejects. */
import { generate } from "../lib/index.ts";
import { obstacle, pictureOf, presentModels, promptOf } from "./playground.ts";
import { describe, type Problem } from "./problem.ts";
import type { ChosenPicture, PlaygroundModels, State, Store, Written } from "./state.ts";
import { begin, show } from "./work.ts";

/** What to do where the prompt or a number of the form is at fault. */
const REMEDIES: Readonly<Record<string, string>> = {
  samples_invalid: "Change the prompt or ask for fewer tokens, then write again.",
  option_invalid: "Change the number that is named, then write again.",
  missing: "Add the file that is named to the base model, then write again.",
};
/** The same where a picture takes the prompt's place. */
const PICTURE_REMEDIES: typeof REMEDIES = {
  ...REMEDIES,
  samples_invalid: "Choose another picture, or a shorter beginning, then write again.",
};

export async function write(store: Store): Promise<void> {
  const { state } = store;
  const models = presentModels(state);
  if (!models || obstacle(state) !== undefined) return;
  const picture = models.ofPictures ? pictureOf(state) : undefined;
  const { maxNewTokens, temperature, topP, seed } = state.playground;
  const written: Written = {
    status: "writing",
    outputs: models.writers.map(({ name, role }) => ({ name, role, text: undefined, finished: false })),
    seconds: 0,
    tokens: 0,
    notes: [],
    picture,
  };
  const edit = (change: Partial<Written>): void => {
    store.change(() => {
      Object.assign(written, change);
    });
  };
  const controller = begin(store, "write", "Writing");
  store.change((state) => {
    state.playground.written = written;
  });
  try {
    const result = await generate({
      base: models.base,
      variants: models.writers.map(({ name, files }) => ({ name, files })),
      ...asked(state, picture),
      maxNewTokens,
      temperature,
      topP,
      seed,
      device: state.settings.device,
      signal: controller.signal,
      onProgress: (progress) => show(store, progress),
    });
    const outputs = written.outputs.map((output, index) => {
      const variant = result.variants[index];
      return { ...output, text: variant?.texts[0] ?? "", finished: variant?.finished[0] ?? true };
    });
    const { seconds, tokens, notes } = result;
    edit({ status: "done", outputs, seconds, tokens, notes });
  } catch (thrown) {
    const problem = describe(thrown);
    edit({
      status: problem.code === "cancelled" ? "cancelled" : "failed",
      problem: withRemedy(problem, models),
    });
  } finally {
    store.change((state) => {
      state.work = undefined;
    });
  }
}

/** What is written of: a picture, and how its caption begins; or a prompt, which may be a message of a chat. */
function asked(state: State, picture: ChosenPicture | undefined) {
  if (picture) return { image: picture, prompts: state.playground.prompt ?? "" };
  const { text, chat } = promptOf(state);
  return chat ? { messages: [{ role: "user", content: text }] } : { prompts: text };
}

function withRemedy(problem: Problem, { ofPictures }: PlaygroundModels): Problem {
  const remedy = (ofPictures ? PICTURE_REMEDIES : REMEDIES)[problem.code];
  return remedy === undefined ? problem : { ...problem, remedy };
}
