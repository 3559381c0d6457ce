/** The form of merge options: the method and what is written in view, the rest folded away. */
import { html, nothing, type TemplateResult } from "lit-html";
import { deviceChoices, type OptionName } from "../lib/index.ts";
import { classField } from "./class-field.ts";
import { choose, select } from "./fields.ts";
import { layerField } from "./layer-field.ts";
import { foldedFields } from "./method-fields.ts";
import { methodPicker } from "./method-picker.ts";
import { optionField, optionsAt } from "./option-fields.ts";
import { foldedRanksField, outputFields } from "./output-fields.ts";
import { needsSamples } from "./settings.ts";
import { askedMethods, baseFacts, type Store } from "./state.ts";

export function options(store: Store): TemplateResult {
  const methods = askedMethods(store.state);
  return html`
    <form class="options" @submit=${(event: Event) => event.preventDefault()}>
      ${methodPicker(store)} ${classField(store)} ${outputFields(store)}
      <details class="more">
        <summary>More options</summary>
        <div class="more-fields">
          ${select(store, "device", "Device", deviceChoices)} ${workersField(store)}
          ${foldedRanksField(store)} ${layerField(store)} ${foldedFields(store, methods)}
          ${baseFacts(store.state)?.generates ? writingFields(store, needsSamples(methods)) : nothing}
        </div>
      </details>
    </form>
  `;
}

/** How many cores share the work of a merge. */
function workersField(store: Store): TemplateResult | typeof nothing {
  const { settings } = store.state;
  // A graphics card has nobody beside it.
  if (settings.device === "webgpu" && needsSamples(askedMethods(store.state))) return nothing;
  const cores = Array.from({ length: navigator.hardwareConcurrency }, (_, core) => `${core + 1}`);
  if (cores.length === 1) return nothing;
  const choices = [["auto", "Automatic"] as const, ...cores.map((count) => [count, count] as const)];
  return choose(
    {
      name: "workers",
      label: "Cores",
      hint: "that share the work. Automatic takes as many as it is worth and memory has room for.",
      value: `${settings.workers}`,
      choices,
    },
    // How long it takes is all that changes: a result that is shown stays one of these options.
    (value) =>
      store.change((state) => {
        state.settings.workers = value === "auto" ? value : Number(value);
      }),
  );
}

/** For base models that write: whose answers count, and which of their tokens. */
function writingFields(store: Store, samples: boolean): (TemplateResult | typeof nothing)[] {
  const kind = baseFacts(store.state)?.kind;
  const without = new Set<OptionName>([
    ...(samples && kind === "encoder-decoder" ? [] : ["decoderInputs" as const]),
    ...(samples && kind === "decoder" ? [] : ["positions" as const]),
  ]);
  const names = optionsAt("writing", store.state.settings, askedMethods(store.state));
  return names.filter((name) => !without.has(name)).map((name) => optionField(store, name));
}
