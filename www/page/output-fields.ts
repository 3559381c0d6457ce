/** What is written: an adapter in the form that a person's own tool reads, or the base model; its rank and precision. */
import { html, nothing, type TemplateResult } from "lit-html";
import { type AdapterFormat, OPTIONS } from "../lib/index.ts";
import { choose, set } from "./fields.ts";
import { largestRank } from "./method-fields.ts";
import { optionField } from "./option-fields.ts";
import { type RankChoice, rankChoice, type Settings } from "./settings.ts";
import type { Store } from "./state.ts";

/** What the page calls the three kinds of adapter files. */
export const FORMAT_TITLES: Readonly<Record<AdapterFormat, string>> = {
  peft: "PEFT",
  kohya: "kohya, ComfyUI",
  diffusers: "diffusers",
};

/** Form: PEFT's folder, one file, or the whole model. */
type Form = Settings["format"] | "base";

/** What there is to tell of each form. */
const FORMS = {
  ...OPTIONS.format.choices,
  base: OPTIONS.output.choices?.base,
} as Readonly<Record<Form, { label: string; hint?: string }>>;

export function outputFields(store: Store): TemplateResult {
  const { settings } = store.state;
  const form: Form = settings.output === "base" ? "base" : settings.format;
  return html`
    <fieldset class="output-fields">
      <legend>What to write</legend>
      ${choose(
        {
          name: "form",
          label: OPTIONS.format.field?.label ?? "",
          value: form,
          choices: (Object.keys(FORMS) as Form[]).map((name) => [
            name,
            name === "auto" ? automatic(store) : FORMS[name].label,
          ]),
          hint: FORMS[form].hint,
        },
        (chosen) =>
          set(store, chosen === "base" ? { output: "base" } : { output: "adapter", format: chosen }),
      )}
      <div class="field-row">
        ${sizeField(store)}
        ${optionField(store, "dtype")}
        ${isCut(store) ? html`${cutField(store)} ${ranksField(store)}` : nothing}
      </div>
    </fieldset>
  `;
}

/** Whose form the adapters have, where they all have one. */
function automatic({ state }: Store): string {
  const formats = state.adapters.flatMap(({ facts }) =>
    facts.status === "ready" ? [facts.value.format] : [],
  );
  const [first] = formats;
  const one = first !== undefined && formats.every((format) => format === first);
  return one ? `As the adapters: ${FORMAT_TITLES[first]}` : FORMS.auto.label;
}

const isCut = ({ state }: Store): boolean => rankChoice(state.settings) !== "full";

function sizeField(store: Store): TemplateResult {
  const cutAt = (choice: RankChoice): void => {
    // A start that shows what is meant; the number is there to be changed.
    const rank = choice === "rank" ? largestRank(store) || 16 : null;
    set(store, { rank, energy: choice === "energy" ? 0.99 : null });
  };
  return choose(
    {
      name: "cut",
      label: "Size",
      value: rankChoice(store.state.settings),
      choices: [
        ["full", "Full rank"],
        ["rank", "Cut to a rank"],
        ["energy", "Cut by share"],
      ],
    },
    cutAt,
  );
}

const cutField = (store: Store) =>
  optionField(store, rankChoice(store.state.settings) === "rank" ? "rank" : "energy");

/** Of the layers; a model that is merged has no rank. */
function ranksField(store: Store): TemplateResult | typeof nothing {
  if (store.state.settings.output === "base") return nothing;
  return optionField(store, "ranks");
}

/** Where nothing is cut, it is a matter of layers that not every adapter changes: folded away. */
export const foldedRanksField = (store: Store): TemplateResult | typeof nothing =>
  isCut(store) ? nothing : ranksField(store);
