/** The form of merge options: the method and what is written in view, the rest folded away. */
import { html, nothing, type TemplateResult } from "lit-html";
import { numberField, select } from "./fields.ts";
import { layerField } from "./layer-field.ts";
import { solverFields } from "./method-fields.ts";
import { methodPicker } from "./method-picker.ts";
import { foldedRanksField, outputFields } from "./output-fields.ts";
import { needsSamples } from "./settings.ts";
import { askedMethods, baseFacts, type Store } from "./state.ts";

export function options(store: Store): TemplateResult {
  const methods = askedMethods(store.state);
  return html`
    <form class="options" @submit=${(event: Event) => event.preventDefault()}>
      ${methodPicker(store)} ${outputFields(store)}
      <details class="more">
        <summary>More options</summary>
        <div class="more-fields">
          ${select(store, "device", "Device", [
            ["auto", "Automatic: the CPU today"],
            ["webgpu", "GPU (WebGPU)"],
            ["cpu", "CPU"],
          ])}
          ${foldedRanksField(store)} ${layerField(store)} ${solverFields(store, methods)}
          ${numberField(store, "maxLength", {
            label: "Longest text, in tokens",
            empty: "the model’s limit",
            step: "1",
            min: "2",
            hint: "Longer texts are cut.",
          })}
          ${baseFacts(store.state)?.generates ? writingFields(store, needsSamples(methods)) : nothing}
        </div>
      </details>
    </form>
  `;
}

/** For base models that write: whose answers count, and which of their tokens. */
function writingFields(store: Store, samples: boolean): TemplateResult {
  const kind = baseFacts(store.state)?.kind;
  return html`
    ${
      samples && kind === "encoder-decoder"
        ? select(
            store,
            "decoderInputs",
            "The decoder reads",
            [
              ["own", "Whole answers"],
              ["start", "The start token alone"],
            ],
            "Whole answers are the samples’ own or what the adapter writes; the start token is the published code’s way.",
          )
        : nothing
    }
    ${
      samples && kind === "decoder"
        ? select(
            store,
            "positions",
            "Tokens that count",
            [
              ["all", "All of a sample"],
              ["completion", "The answer’s alone"],
            ],
            "Whether a layer is also to be kept right on the prompts, or only on the answers.",
          )
        : nothing
    }
    ${numberField(store, "maxNewTokens", {
      label: "Longest answer, in tokens",
      step: "1",
      min: "1",
      hint: "Where samples have no answers, the adapters write them, here and in the comparison.",
    })}
  `;
}
