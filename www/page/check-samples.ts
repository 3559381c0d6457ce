/** What samples a merge or a comparison still needs, and which of those that are there are of no use to it. */
import { type BaseFacts, isInRange, type SamplesFacts, SELF_OPTIONS } from "../lib/index.ts";
import { type Item, nameList } from "./check-item.ts";
import { list, plural } from "./format.ts";
import { recipeOfCard } from "./recipe-match.ts";
import type { Role } from "./recognise.ts";
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
    return { id, status: "wrong", text: `Replace or remove the samples of ${nameList(broken)}.` };
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
  const facts = baseFacts(state);
  const pictures = facts?.picture !== undefined;
  if (adapters.length === 0) {
    const what = pictures ? "folder of pictures" : "file of sample texts";
    return { id, status: "missing", text: `Drop a ${what} for each adapter.` };
  }
  const waiting = open.length > 0 ? " Say whose the waiting files are." : "";
  const own = pictures
    ? " Drop a folder of pictures."
    : facts?.generates
      ? " Drop a file, or let the adapter write them."
      : "";
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
  const what = pictures ? "pictures" : "texts";
  return {
    id,
    status: "missing",
    text: `Drop ${what} to compare on for ${nameList(untested)}: held-out ${what}, or samples.${waiting}`,
  };
}

/** `: the recipe used a.txt and b.txt`, where a recipe knows. */
function recipeSources({ recipe }: State, lacking: readonly Adapter[]): string {
  const sources = lacking.flatMap((adapter) => recipeOfCard(recipe, adapter.id)?.samples?.source ?? []);
  return sources.length > 0 ? `: the recipe used ${list([...new Set(sources)])}` : "";
}

function counted(state: State): string {
  const { adapters, several } = state;
  const facts = baseFacts(state);
  if (facts?.picture) return countedPictures(state, facts);
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

/** Pictures, and how many of them lack captions where the model reads those. */
function countedPictures({ adapters, several }: State, { kind }: BaseFacts): string {
  const read = (role: Role): SamplesFacts[] =>
    adapters.flatMap(({ texts }) => {
      const facts = texts[role]?.facts;
      return facts?.status === "ready" ? [facts.value] : [];
    });
  const sum = (list: readonly SamplesFacts[], of: (facts: SamplesFacts) => number): number =>
    list.reduce((sum, facts) => sum + of(facts), 0);
  const samples = read("samples");
  const bare = sum(samples, ({ count, answers }) => count - answers);
  const all = sum(samples, ({ count }) => count);
  const heldOut = sum(read("heldOut"), ({ count }) => count);
  const which = bare === all ? "all of them" : `${bare} of them`;
  const aside = several && heldOut > 0 ? `, ${plural(heldOut, "held-out picture")}` : "";
  const written =
    kind === "image-to-text" && bare > 0 ? `; ${which} without captions: the adapter writes them` : "";
  const lacking = kind === "image-text-encoder" && bare > 0 ? `; ${which} without captions` : "";
  return `${plural(all, "picture")}${aside}${written}${lacking}`;
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
  const readsPictures = facts.picture !== undefined;
  const others = holding(({ format }) => (format === "pictures") !== readsPictures);
  if (others) {
    return readsPictures
      ? `This base model reads pictures, and the samples of ${others} are texts. Drop a folder of pictures for each instead.`
      : `This base model reads texts, and the samples of ${others} are pictures. Drop a file of texts for each instead.`;
  }
  if (readsPictures) {
    const own = adapters.filter(({ texts, self }) => !texts.samples && self);
    if (own.length > 0) return `${nameList(own)} cannot write pictures. Drop a folder of them.`;
  }
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
