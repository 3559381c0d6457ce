/** What is written: an adapter in the form that a person's own tool reads, or the base model; its rank and precision. */
import { html, nothing, type TemplateResult } from "lit-html";
import { choose, numberField, select, set } from "./fields.ts";
import { largestRank } from "./method-fields.ts";
import { type RankChoice, rankChoice, type Settings } from "./settings.ts";
import type { Store } from "./state.ts";

/** What the page calls the three kinds of adapter files. */
export const FORMAT_TITLES: Readonly<Record<Exclude<Settings["format"], "auto">, string>> = {
  peft: "PEFT",
  kohya: "kohya, ComfyUI",
  diffusers: "diffusers",
};

const FORMAT_HINTS: Readonly<Record<Settings["format"], string>> = {
  auto: "PEFT’s folder, or one file where the adapters are such files.",
  peft: "For PEFT, transformers, vLLM and llama.cpp.",
  kohya: "One .safetensors file, as kohya’s scripts write it.",
  diffusers: "One .safetensors file for load_lora_weights.",
};

/** Form: PEFT's folder, one file, or the whole model. */
type Form = Settings["format"] | "base";

const FORMS: readonly (readonly [Form, string])[] = [
  ["auto", "A LoRA adapter, in the form of those merged"],
  ["peft", "A LoRA adapter for PEFT"],
  ["kohya", "A LoRA file for ComfyUI"],
  ["diffusers", "A LoRA file for diffusers"],
  ["base", "The base model with it merged in"],
];

export function outputFields(store: Store): TemplateResult {
  const { settings } = store.state;
  const form: Form = settings.output === "base" ? "base" : settings.format;
  return html`
    <fieldset class="output-fields">
      <legend>What to write</legend>
      ${choose(
        {
          name: "form",
          label: "Result",
          value: form,
          choices: FORMS,
          hint: form === "base" ? "A whole model, in files of at most 4 GB." : FORMAT_HINTS[form],
        },
        (chosen) =>
          set(store, chosen === "base" ? { output: "base" } : { output: "adapter", format: chosen }),
      )}
      <div class="field-row">
        ${sizeField(store)}
        ${select(store, "dtype", "Precision", [
          ["auto", "Automatic"],
          ["f32", "32-bit float"],
          ["f16", "16-bit float"],
          ["bf16", "bfloat16"],
        ])}
        ${isCut(store) ? html`${cutField(store)} ${ranksField(store)}` : nothing}
      </div>
    </fieldset>
  `;
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

function cutField(store: Store): TemplateResult {
  return rankChoice(store.state.settings) === "rank"
    ? numberField(store, "rank", { label: "Output rank", step: "1", min: "1" })
    : numberField(store, "energy", {
        label: "Share kept",
        step: "any",
        min: "0",
        max: "1",
        hint: "Of each layer’s squared norm.",
      });
}

/** Of the layers; a model that is merged has no rank. */
function ranksField(store: Store): TemplateResult | typeof nothing {
  if (store.state.settings.output === "base") return nothing;
  return select(store, "ranks", "Ranks", [
    ["uniform", "One for all"],
    ["per-layer", "Per layer"],
  ]);
}

/** Where nothing is cut, it is a matter of layers that not every adapter changes: folded away. */
export const foldedRanksField = (store: Store): TemplateResult | typeof nothing =>
  isCut(store) ? nothing : ranksField(store);
