/** What samples a merge or a comparison still needs, and which of those that are there are of no use to it. */
import { type BaseFacts, isInRange, type SamplesFacts, SELF_OPTIONS } from "../lib/index.ts";
import { type Item, nameList } from "./check-item.ts";
import { list, plural } from "./format.ts";
import { recipeOfCard } from "./recipe-match.ts";
import { needsSamples } from "./settings.ts";
import { type Adapter, askedMethods, baseFacts, type State, type Text } from "./state.ts";

const id = "samples";

export function samplesItem(state: State): Item {
  const { adapters } = state;
  const facts = baseFacts(state);
  const broken = adapters.filter((adapter) =>
    Object.values(adapter.texts).some((text) => text.facts.status === "failed"),
  );
  if (broken.length > 0)
    return { id, status: "wrong", text: `Replace or remove the texts of ${nameList(broken)}.` };
  const unfit = facts && unfitTexts(state, facts);
  if (unfit) return { id, status: "wrong", text: unfit };
  const lacking = lackingItem(state);
  if (lacking) return lacking;
  if (adapters.some(({ texts }) => texts.samples?.facts.status === "reading")) {
    return { id, status: "wait", text: "Reading the samples …" };
  }
  return { id, status: "done", text: counted(state) };
}

/** Whose texts are not there: samples to merge on, and for a comparison texts to compare on. */
function lackingItem(state: State): Item | undefined {
  const { adapters, open, several } = state;
  const calibrated = needsSamples(askedMethods(state));
  if (adapters.length === 0)
    return { id, status: "missing", text: "Drop a file of sample texts for each adapter." };
  const waiting = open.length > 0 ? " Say whose the waiting files are." : "";
  const own = baseFacts(state)?.generates ? " Drop a file, or let the adapter write them." : "";
  if (calibrated) {
    const lacking = adapters.filter((adapter) => !adapter.texts.samples && !adapter.self);
    if (lacking.length > 0) {
      const from = recipeSources(state, lacking);
      return {
        id,
        status: "missing",
        text: `Samples are missing for ${nameList(lacking)}${from}.${waiting || own}`,
      };
    }
  }
  if (!several) return undefined;
  const untested = adapters.filter(({ texts }) => !texts.heldOut && !texts.samples);
  if (untested.length === 0) return undefined;
  return {
    id,
    status: "missing",
    text: `Drop texts to compare on for ${nameList(untested)}: held-out texts, or samples.${waiting}`,
  };
}

/** `: the recipe used a.txt and b.txt`, where a recipe knows. */
function recipeSources({ recipe }: State, lacking: readonly Adapter[]): string {
  const sources = lacking.flatMap((adapter) => recipeOfCard(recipe, adapter.id)?.samples?.source ?? []);
  return sources.length > 0 ? `: the recipe used ${list([...new Set(sources)])}` : "";
}

function counted({ adapters, several }: State): string {
  let given = 0;
  let own = 0;
  let heldOut = 0;
  for (const { texts, self } of adapters) {
    if (texts.samples?.facts.status === "ready") given += texts.samples.facts.value.count;
    else if (self) own += self.count;
    if (texts.heldOut?.facts.status === "ready") heldOut += texts.heldOut.facts.value.count;
  }
  const aside = several && heldOut > 0 ? `, ${heldOut} held-out texts` : "";
  if (own === 0) return `${plural(given, "sample")}${aside}`;
  const written = given === 0 ? "written by the adapters" : `${own} of them written by the adapters`;
  return `${plural(given + own, "sample")}, ${written}${aside}`;
}

/** Why texts that can be read are none for this base model, if that is so. */
function unfitTexts(state: State, facts: BaseFacts): string | undefined {
  const { adapters, base } = state;
  const holding = (wrong: (facts: SamplesFacts) => boolean): string | undefined => {
    const holds = (text: Text): boolean => text.facts.status === "ready" && wrong(text.facts.value);
    const found = adapters.filter(({ texts }) => Object.values(texts).some(holds));
    return found.length > 0 ? nameList(found) : undefined;
  };
  // Nothing is read by a base model that can only be read itself; the list says so at the base model.
  if (facts.kind === "weights") return undefined;
  if (!facts.generates) {
    const prompted = holding(({ kinds }) => kinds.prompt + kinds.messages > 0);
    if (prompted) {
      return `The texts of ${prompted} hold prompts or chats, which are for a model that writes. Give plain texts.`;
    }
    const own = adapters.filter(({ texts, self }) => !texts.samples && self);
    if (own.length > 0) {
      return `This base model writes no text: ${nameList(own)} cannot write samples. Drop a file of them.`;
    }
  }
  const chats = base?.chat ? undefined : holding(({ kinds }) => kinds.messages > 0);
  if (chats) {
    return `The texts of ${chats} are chats: add the base model’s chat template (chat_template.jinja or tokenizer_config.json).`;
  }
  const miscounted = adapters.filter(
    ({ texts, self }) =>
      !texts.samples &&
      self &&
      !(isInRange(self.count, SELF_OPTIONS.count.range) && isInRange(self.seed, SELF_OPTIONS.seed.range)),
  );
  if (miscounted.length > 0) {
    return `Let ${nameList(miscounted)} write at least one text, with a whole number from 0 as the seed.`;
  }
  return undefined;
}
