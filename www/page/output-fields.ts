/** What is written: an adapter in the form that a person's own tool reads, or the base model; its rank and precision. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { AdapterFormat } from "../lib/index.ts";
import { choose, numberField, select, set } from "./fields.ts";
import { largestRank } from "./method-fields.ts";
import { type RankChoice, rankChoice } from "./settings.ts";
import type { Store } from "./state.ts";

/** What the page calls the three kinds of adapter files. */
export const FORMAT_TITLES: Readonly<Record<AdapterFormat, string>> = {
  peft: "PEFT",
  kohya: "kohya, ComfyUI",
  diffusers: "diffusers",
};

const FORMAT_HINTS: Readonly<Record<AdapterFormat, string>> = {
  peft: "A folder for PEFT, transformers, vLLM and llama.cpp.",
  kohya: "One .safetensors file for ComfyUI, A1111 and kohya’s scripts.",
  diffusers: "One .safetensors file for load_lora_weights.",
};

/** Form: PEFT's folder, one file, or the whole model. */
type Form = AdapterFormat | "base";

const FORMS: readonly (readonly [Form, string])[] = [
  ["peft", "A LoRA adapter for PEFT"],
  ["kohya", "A LoRA file for ComfyUI and kohya"],
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
        ${rankFields(store)}
        ${select(store, "dtype", "Precision", [
          ["auto", "Automatic"],
          ["f32", "32-bit float"],
          ["f16", "16-bit float"],
          ["bf16", "bfloat16"],
        ])}
      </div>
      ${settings.output === "base" ? nothing : ranksField(store)}
    </fieldset>
  `;
}

function rankFields(store: Store): TemplateResult {
  const current = rankChoice(store.state.settings);
  const cutAt = (choice: RankChoice): void => {
    // A start that shows what is meant; the number is there to be changed.
    const rank = choice === "rank" ? largestRank(store) || 16 : null;
    set(store, { rank, energy: choice === "energy" ? 0.99 : null });
  };
  const which = choose(
    {
      name: "cut",
      label: "Size",
      value: current,
      choices: [
        ["full", "Full rank"],
        ["rank", "Cut to a rank"],
        ["energy", "Cut by share"],
      ],
    },
    cutAt,
  );
  return html`${which} ${current === "full" ? nothing : cutField(store, current)}`;
}

function cutField(store: Store, choice: Exclude<RankChoice, "full">): TemplateResult {
  return choice === "rank"
    ? numberField(store, "rank", { label: "Output rank", step: "1", min: "1" })
    : numberField(store, "energy", {
        label: "Share kept",
        step: "any",
        min: "0",
        max: "1",
        hint: "Of each layer’s squared norm.",
      });
}

function ranksField(store: Store): TemplateResult {
  return select(store, "ranks", "Ranks of the layers", [
    ["uniform", "One for all: every program loads it"],
    ["per-layer", "Each layer its own: smaller"],
  ]);
}
