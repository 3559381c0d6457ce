/**
 * What a merge still needs, in words. The same list is shown beside the Merge button, is the reason
 * why the button is not ready, and decides whether it is.
 */
import type { BaseFacts, SamplesFacts } from "../lib/index.ts";
import { list, plural } from "./format.ts";
import { needsSamples } from "./settings.ts";
import { type Adapter, baseFacts, type State, type Text } from "./state.ts";

export interface Item {
  id: string;
  /** `wait`: being read; `missing`: the person has to do something; `wrong`: what is there cannot be used. */
  status: "done" | "wait" | "missing" | "wrong";
  text: string;
}

export function checklist(state: State): Item[] {
  const items = [baseItem(state), adaptersItem(state)];
  if (needsSamples(state.settings)) items.push(samplesItem(state));
  const options = optionsItem(state);
  if (options) items.push(options);
  return items;
}

export const isReady = (items: readonly Item[]): boolean => items.every((item) => item.status === "done");

const wholeFrom = (least: number, value: number): boolean => Number.isInteger(value) && value >= least;

function baseItem(state: State): Item {
  const id = "base";
  const { base } = state;
  if (!base) return { id, status: "missing", text: "Drop the base model’s folder." };
  if (base.facts.status === "reading") return { id, status: "wait", text: "Reading the base model …" };
  if (base.facts.status === "failed") {
    return { id, status: "wrong", text: "The base model cannot be used: see the message on its card." };
  }
  if (readsTexts(state) && !base.facts.value.hasTokenizer) {
    return {
      id,
      status: "missing",
      text: "Add the base model’s tokenizer.json: the samples are read with it.",
    };
  }
  return { id, status: "done", text: `Base model: ${base.name}` };
}

/** Whether a merge has words to read; what an adapter writes from nothing are tokens from the first one on. */
function readsTexts({ settings, adapters }: State): boolean {
  if (!needsSamples(settings)) return false;
  return (
    adapters.length === 0 || adapters.some(({ texts, self }) => texts.samples || !self || self.prompt !== "")
  );
}

function adaptersItem({ adapters }: State): Item {
  const id = "adapters";
  if (adapters.length === 0) return { id, status: "missing", text: "Drop at least two adapter folders." };
  const broken = adapters.filter((adapter) => adapter.facts.status === "failed");
  if (broken.length > 0) {
    return { id, status: "wrong", text: `Remove or replace ${names(broken)}: it cannot be used as it is.` };
  }
  if (adapters.some((adapter) => adapter.facts.status === "reading")) {
    return { id, status: "wait", text: "Reading the adapters …" };
  }
  if (adapters.length === 1) return { id, status: "missing", text: "Drop at least one more adapter." };
  const unweighted = adapters.filter((adapter) => !(adapter.weight > 0));
  if (unweighted.length > 0) {
    return { id, status: "wrong", text: `Give ${names(unweighted)} a weight above zero.` };
  }
  const seen = new Set<string>();
  for (const { name } of adapters) {
    if (name.trim() === "") return { id, status: "wrong", text: "Give every adapter a name." };
    if (seen.has(name)) return { id, status: "wrong", text: `Two adapters are called ${name}: rename one.` };
    seen.add(name);
  }
  return { id, status: "done", text: plural(adapters.length, "adapter") };
}

function samplesItem(state: State): Item {
  const id = "samples";
  const { adapters, open } = state;
  const facts = baseFacts(state);
  const broken = adapters.filter((adapter) =>
    Object.values(adapter.texts).some((text) => text.facts.status === "failed"),
  );
  if (broken.length > 0)
    return { id, status: "wrong", text: `Replace or remove the texts of ${names(broken)}.` };
  const unfit = facts && unfitTexts(state, facts);
  if (unfit) return { id, status: "wrong", text: unfit };
  const lacking = adapters.filter((adapter) => !adapter.texts.samples && !adapter.self);
  if (adapters.length === 0)
    return { id, status: "missing", text: "Drop a file of sample texts for each adapter." };
  if (lacking.length > 0) {
    const waiting = open.length > 0 ? " Say whose the waiting files are." : "";
    const own = facts?.generates ? " Drop a file, or let the adapter write them." : "";
    return { id, status: "missing", text: `Samples are missing for ${names(lacking)}.${waiting || own}` };
  }
  if (adapters.some(({ texts }) => texts.samples?.facts.status === "reading")) {
    return { id, status: "wait", text: "Reading the samples …" };
  }
  let given = 0;
  let own = 0;
  for (const { texts, self } of adapters) {
    if (texts.samples?.facts.status === "ready") given += texts.samples.facts.value.count;
    else if (self) own += self.count;
  }
  if (own === 0) return { id, status: "done", text: plural(given, "sample") };
  const total = plural(given + own, "sample");
  const written = given === 0 ? "written by the adapters" : `${own} of them written by the adapters`;
  return { id, status: "done", text: `${total}, ${written}` };
}

/** Why texts that can be read are none for this base model, if that is so. */
function unfitTexts(state: State, facts: BaseFacts): string | undefined {
  const { adapters, base } = state;
  const holding = (wrong: (facts: SamplesFacts) => boolean): string | undefined => {
    const holds = (text: Text): boolean => text.facts.status === "ready" && wrong(text.facts.value);
    const found = adapters.filter(({ texts }) => Object.values(texts).some(holds));
    return found.length > 0 ? names(found) : undefined;
  };
  if (!facts.generates) {
    const prompted = holding(({ kinds }) => kinds.prompt + kinds.messages > 0);
    if (prompted) {
      return `The texts of ${prompted} hold prompts or chats, which are for a model that writes. Give plain texts.`;
    }
    const own = adapters.filter(({ texts, self }) => !texts.samples && self);
    if (own.length > 0) {
      return `This base model writes no text: ${names(own)} cannot write samples. Drop a file of them.`;
    }
  }
  const chats = base?.chat ? undefined : holding(({ kinds }) => kinds.messages > 0);
  if (chats) {
    return `The texts of ${chats} are chats: add the base model’s chat template (chat_template.jinja or tokenizer_config.json).`;
  }
  const miscounted = adapters.filter(
    ({ texts, self }) => !texts.samples && self && !(wholeFrom(1, self.count) && wholeFrom(0, self.seed)),
  );
  if (miscounted.length > 0) {
    return `Let ${names(miscounted)} write at least one text, with a whole number from 0 as the seed.`;
  }
  return undefined;
}

function optionsItem(state: State): Item | undefined {
  const { settings } = state;
  const wrong = (text: string): Item => ({ id: "options", status: "wrong", text });
  if (settings.rank !== null && !wholeFrom(1, settings.rank)) {
    return wrong("The output rank is a whole number from 1, or empty for the full rank.");
  }
  if (settings.maxLength !== null && !wholeFrom(2, settings.maxLength)) {
    return wrong("The longest text is a whole number of tokens from 2, or empty for the model’s own limit.");
  }
  if (baseFacts(state)?.generates && !wholeFrom(1, settings.maxNewTokens)) {
    return wrong("The longest answer is a whole number of tokens from 1.");
  }
  if (settings.schedule === "iterate" && !wholeFrom(1, settings.maxIter)) {
    return wrong("The number of passes is a whole number from 1.");
  }
  if (!(settings.alpha1 >= 0) || !(settings.alpha2 >= 0)) {
    return wrong("Alpha 1 and alpha 2 are numbers from 0.");
  }
  if (!Number.isFinite(settings.scale)) return wrong("The scale of the sum is a number.");
  return undefined;
}

const names = (adapters: readonly Adapter[]): string =>
  list(adapters.map((adapter) => adapter.name || "(no name)"));
