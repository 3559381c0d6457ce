/**
 * What a merge still needs, in words. The same list is shown beside the Merge button, is the reason
 * why the button is not ready, and decides whether it is.
 */
import { list, plural } from "./format.ts";
import { needsSamples } from "./settings.ts";
import type { Adapter, State } from "./state.ts";

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

function baseItem({ base, settings }: State): Item {
  const id = "base";
  if (!base) return { id, status: "missing", text: "Drop the base model’s folder." };
  if (base.facts.status === "reading") return { id, status: "wait", text: "Reading the base model …" };
  if (base.facts.status === "failed") {
    return { id, status: "wrong", text: "The base model cannot be used: see the message on its card." };
  }
  if (needsSamples(settings) && !base.facts.value.hasTokenizer) {
    return {
      id,
      status: "missing",
      text: "Add the base model’s tokenizer.json: the samples are read with it.",
    };
  }
  return { id, status: "done", text: `Base model: ${base.name}` };
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

function samplesItem({ adapters, open }: State): Item {
  const id = "samples";
  const texts = adapters.map((adapter) => adapter.texts.samples);
  const broken = adapters.filter((adapter) =>
    Object.values(adapter.texts).some((text) => text.facts.status === "failed"),
  );
  if (broken.length > 0)
    return { id, status: "wrong", text: `Replace or remove the texts of ${names(broken)}.` };
  const lacking = adapters.filter((adapter) => !adapter.texts.samples);
  if (adapters.length === 0)
    return { id, status: "missing", text: "Drop a file of sample texts for each adapter." };
  if (lacking.length > 0) {
    const hint = open.length > 0 ? " Say whose the waiting files are." : "";
    return { id, status: "missing", text: `Samples are missing for ${names(lacking)}.${hint}` };
  }
  if (texts.some((text) => text?.facts.status === "reading")) {
    return { id, status: "wait", text: "Reading the samples …" };
  }
  let total = 0;
  for (const text of texts) if (text?.facts.status === "ready") total += text.facts.value.count;
  return { id, status: "done", text: plural(total, "sample") };
}

function optionsItem({ settings }: State): Item | undefined {
  const wrong = (text: string): Item => ({ id: "options", status: "wrong", text });
  const wholeNumber = (value: number): boolean => Number.isInteger(value) && value >= 1;
  if (settings.rank !== null && !wholeNumber(settings.rank)) {
    return wrong("The output rank is a whole number from 1, or empty for the full rank.");
  }
  if (settings.maxLength !== null && !(wholeNumber(settings.maxLength) && settings.maxLength >= 2)) {
    return wrong("The longest text is a whole number of tokens from 2, or empty for the model’s own limit.");
  }
  if (settings.schedule === "iterate" && !wholeNumber(settings.maxIter)) {
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
