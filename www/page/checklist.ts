/**
 * What a merge still needs, in words. The same list is shown beside the Merge button, is the reason
 * why the button is not ready, and decides whether it is.
 */
import { type Item, nameList } from "./check-item.ts";
import { optionProblem } from "./check-options.ts";
import { samplesItem } from "./check-samples.ts";
import { list, plural } from "./format.ts";
import { isWeight } from "./layer-weights.ts";
import { baseTitle } from "./recipe-lines.ts";
import { lackingAdapters } from "./recipe-match.ts";
import { methodTitle, needsSamples } from "./settings.ts";
import { askedMethods, type State } from "./state.ts";

export function checklist(state: State): Item[] {
  const memory = memoryItem(state);
  return [...neededItems(state), ...(memory ? [memory] : [])];
}

/** What has to be there before it can be told what the merge takes. */
export function neededItems(state: State): Item[] {
  const items = [baseItem(state), adaptersItem(state)];
  if (state.several || needsSamples(askedMethods(state))) items.push(samplesItem(state));
  const methods = methodsItem(state);
  if (methods) items.push(methods);
  const problem = optionProblem(state);
  if (problem) items.push({ id: "options", status: "wrong", text: problem });
  return items;
}

export const isReady = (items: readonly Item[]): boolean => items.every((item) => item.status === "done");

/** What needs the base model, as the beginning of a sentence; `undefined` if a merge goes without. */
export function baseUse(state: State): { why: string; runs: boolean } | undefined {
  const { several, settings, adapters } = state;
  if (several) return { why: "A comparison runs the models", runs: true };
  if (needsSamples([settings.method])) {
    return { why: `${methodTitle(settings.method)} runs the model on samples`, runs: true };
  }
  if (settings.output === "base") return { why: "The result is to be a whole model", runs: false };
  const needing = adapters.filter(({ facts }) => facts.status === "ready" && facts.value.needsBase);
  if (needing.length === 0) return undefined;
  return { why: `${nameList(needing)} can only be told with its weights`, runs: false };
}

function baseItem(state: State): Item {
  const id = "base";
  const { base, recipe } = state;
  const use = baseUse(state);
  if (!base) {
    if (!use) return { id, status: "done", text: "No base model: this merge needs none" };
    const wanted = recipe?.recipe.base ? `: the recipe used ${baseTitle(recipe.recipe.base)}` : "";
    const why = wanted === "" && !use.runs ? ` ${use.why}.` : "";
    return { id, status: "missing", text: `Drop the base model’s folder${wanted}.${why}` };
  }
  if (base.facts.status === "reading") return { id, status: "wait", text: "Reading the base model …" };
  if (base.facts.status === "failed") {
    return { id, status: "wrong", text: "The base model cannot be used: see the message on its card." };
  }
  if (use?.runs && base.facts.value.kind === "weights") {
    return {
      id,
      status: "wrong",
      text: `${use.why}, and this base model can only be read. Choose a method that needs no samples.`,
    };
  }
  const { hasTokenizer, kind, picture } = base.facts.value;
  if (readsTexts(state) && !hasTokenizer && kind !== "image-encoder") {
    const what = picture ? "captions" : "the samples";
    return {
      id,
      status: "missing",
      text: `Add the base model’s tokenizer.json: ${what} are read with it.`,
    };
  }
  return { id, status: "done", text: `Base model: ${base.name}` };
}

/** Whether a merge has words to read; what an adapter writes from nothing are tokens from the first one on. */
function readsTexts(state: State): boolean {
  const { adapters, several } = state;
  if (several) return true;
  if (!needsSamples(askedMethods(state))) return false;
  return (
    adapters.length === 0 || adapters.some(({ texts, self }) => texts.samples || !self || self.prompt !== "")
  );
}

function adaptersItem(state: State): Item {
  const id = "adapters";
  const { adapters, recipe } = state;
  const samples = needsSamples(askedMethods(state));
  const lacking = recipe ? lackingAdapters(recipe) : [];
  if (lacking.length > 0 && !adapters.some(({ facts }) => facts.status === "reading")) {
    return {
      id,
      status: "missing",
      text: `Drop ${list(lacking)}: the recipe merges ${lacking.length === 1 ? "it" : "them"}.`,
    };
  }
  if (adapters.length === 0) {
    return {
      id,
      status: "missing",
      text: samples ? "Drop at least two adapter folders." : "Drop an adapter or more.",
    };
  }
  const broken = adapters.filter((adapter) => adapter.facts.status === "failed");
  if (broken.length > 0) {
    return {
      id,
      status: "wrong",
      text: `Remove or replace ${nameList(broken)}: it cannot be used as it is.`,
    };
  }
  if (adapters.some((adapter) => adapter.facts.status === "reading")) {
    return { id, status: "wait", text: "Reading the adapters …" };
  }
  if (adapters.length === 1 && (samples || state.several)) {
    return { id, status: "missing", text: "Drop at least one more adapter." };
  }
  const unweighted = adapters.filter(({ weight }) => !isWeight(weight, !samples));
  if (unweighted.length > 0) {
    const what = samples ? "above zero" : "other than zero";
    return { id, status: "wrong", text: `Give ${nameList(unweighted)} a weight ${what}.` };
  }
  const seen = new Set<string>();
  for (const { name } of adapters) {
    if (name.trim() === "") return { id, status: "wrong", text: "Give every adapter a name." };
    if (seen.has(name)) return { id, status: "wrong", text: `Two adapters are called ${name}: rename one.` };
    seen.add(name);
  }
  if (adapters.length === 1) {
    return { id, status: "done", text: "1 adapter: nothing to merge it with, but it can be written anew" };
  }
  return { id, status: "done", text: plural(adapters.length, "adapter") };
}

/** A merge that memory does not hold is not started. */
function memoryItem({ plan }: State): Item | undefined {
  if (!plan || plan.refusal === null) return undefined;
  return { id: "memory", status: "wrong", text: `${plan.refusal}.` };
}

/** What a method cannot be asked for, whatever its options. */
function methodsItem(state: State): Item | undefined {
  const id = "methods";
  const methods = askedMethods(state);
  if (state.several && methods.length < 2) {
    return { id, status: "missing", text: "Tick at least two methods to compare." };
  }
  const sum = state.adapters.reduce((total, { weight }) => total + weight, 0);
  if (methods.includes("average") && state.adapters.length > 0 && Math.abs(sum) < 1e-9) {
    return { id, status: "wrong", text: "The weights add up to zero: there is no average of them." };
  }
  return state.several ? { id, status: "done", text: plural(methods.length, "method") } : undefined;
}
