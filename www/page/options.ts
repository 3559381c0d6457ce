/** The form of merge options: three that matter in view, the rest folded away. */
import { html, nothing, type TemplateResult } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { outdate } from "./intake.ts";
import type { Settings } from "./settings.ts";
import { baseFacts, type Store } from "./state.ts";

const METHODS: readonly { value: Settings["method"]; label: string; hint: string }[] = [
  {
    value: "iteris",
    label: "IterIS",
    hint: "Solves every layer so that each task keeps what its own adapter does there.",
  },
  { value: "linear", label: "Linear average", hint: "The mean of the adapters; needs no samples." },
  {
    value: "task-arithmetic",
    label: "Task arithmetic",
    hint: "The scaled sum of the adapters; needs no samples.",
  },
];

/** The settings that are chosen from a list. */
type Choice =
  | "schedule"
  | "target"
  | "padding"
  | "output"
  | "dtype"
  | "device"
  | "decoderInputs"
  | "positions";
/** The settings that are numbers; `null` stands for an empty field. */
type NumberSetting = "rank" | "maxLength" | "maxNewTokens" | "maxIter" | "alpha1" | "alpha2" | "scale";

export function options(store: Store): TemplateResult {
  const { settings, adapters } = store.state;
  const fullRank = adapters.reduce(
    (sum, { facts }) => sum + (facts.status === "ready" ? facts.value.rank : 0),
    0,
  );
  const iteris = settings.method === "iteris";
  return html`
    <form class="options" @submit=${(event: Event) => event.preventDefault()}>
      <fieldset class="methods">
        <legend>Method</legend>
        ${METHODS.map(
          ({ value, label, hint }) => html`
            <label class="method">
              <input
                type="radio" name="method" value=${value} .checked=${live(settings.method === value)}
                @change=${() => set(store, { method: value })}
              />
              <span><span class="method-name">${label}</span><span class="hint">${hint}</span></span>
            </label>
          `,
        )}
      </fieldset>
      <div class="field-row">
        ${numberField(store, "rank", {
          label: "Output rank",
          empty: fullRank > 0 ? `${fullRank} (full)` : "full",
          step: "1",
          min: "1",
          hint: "Empty keeps the full rank: nothing is lost.",
        })}
        ${select(store, "dtype", "Precision", [
          ["f32", "32-bit float"],
          ["f16", "16-bit float"],
        ])}
      </div>
      <details class="more">
        <summary>More options</summary>
        <div class="more-fields">
          ${select(store, "output", "Result", [
            ["adapter", "A LoRA adapter for PEFT"],
            ["base", "The base model with it merged in"],
          ])}
          ${select(store, "device", "Device", [
            ["auto", "Automatic"],
            ["webgpu", "GPU (WebGPU)"],
            ["cpu", "CPU"],
          ])}
          ${
            settings.method === "task-arithmetic"
              ? numberField(store, "scale", { label: "Scale of the sum", step: "any" })
              : nothing
          }
          ${iteris ? iterisFields(store) : nothing}
          ${numberField(store, "maxLength", {
            label: "Longest text, in tokens",
            empty: "the model’s limit",
            step: "1",
            min: "2",
            hint: "Longer texts are cut.",
          })}
          ${baseFacts(store.state)?.generates ? writingFields(store) : nothing}
        </div>
      </details>
    </form>
  `;
}

function iterisFields(store: Store): TemplateResult {
  const { settings } = store.state;
  return html`
    ${select(store, "schedule", "Schedule", [
      ["sweep", "Sweep: every layer once, in order"],
      ["iterate", "Iterate: whole passes, as in the paper"],
    ])}
    ${settings.schedule === "iterate" ? numberField(store, "maxIter", { label: "Passes", step: "1", min: "1" }) : nothing}
    ${select(store, "target", "Solve for", [
      ["delta", "The adapters’ changes"],
      ["full", "The changed weights"],
    ])}
    ${numberField(store, "alpha1", { label: "Alpha 1 (ridge of the cross terms)", step: "any", min: "0" })}
    ${numberField(store, "alpha2", { label: "Alpha 2 (ridge of the Gram matrices)", step: "any", min: "0" })}
    ${select(store, "padding", "Padding tokens", [
      ["exclude", "Left out"],
      ["include", "Counted, as in the published code"],
    ])}
    <label class="check">
      <input
        type="checkbox" .checked=${live(settings.adaptiveWeights)}
        @change=${(event: Event) =>
          set(store, { adaptiveWeights: (event.currentTarget as HTMLInputElement).checked })}
      />
      <span><span>Adaptive weights</span><span class="hint">Evens out tasks whose layers work at different scales.</span></span>
    </label>
  `;
}

/** For base models that write: whose answers count, and which of their tokens. */
function writingFields(store: Store): TemplateResult {
  const { settings } = store.state;
  const kind = baseFacts(store.state)?.kind;
  const iteris = settings.method === "iteris";
  return html`
    ${
      iteris && kind === "encoder-decoder"
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
      iteris && kind === "decoder"
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

function set(store: Store, change: Partial<Settings>): void {
  store.change((state) => {
    Object.assign(state.settings, change);
    outdate(state);
  });
}

function select<Key extends Choice>(
  store: Store,
  key: Key,
  label: string,
  choices: readonly (readonly [Settings[Key], string])[],
  hint?: string,
): TemplateResult {
  const changed = (event: Event): void => {
    const { value } = event.currentTarget as HTMLSelectElement;
    const choice = choices.find(([name]) => name === value);
    if (choice) set(store, { [key]: choice[0] } as Partial<Settings>);
  };
  return html`
    <label class="field">
      <span>${label}</span>
      <select name=${key} @change=${changed}>
        ${choices.map(
          ([value, text]) =>
            html`<option value=${value} ?selected=${store.state.settings[key] === value}>${text}</option>`,
        )}
      </select>
      ${hint ? html`<span class="hint">${hint}</span>` : nothing}
    </label>
  `;
}

function numberField(
  store: Store,
  key: NumberSetting,
  text: { label: string; step: string; min?: string; empty?: string; hint?: string },
): TemplateResult {
  const value = store.state.settings[key];
  const mayBeEmpty = text.empty !== undefined;
  const changed = (event: Event): void => {
    const input = event.currentTarget as HTMLInputElement;
    // An empty field that the browser calls bad input holds something that is not a number.
    const empty = input.value === "" && !input.validity.badInput;
    set(store, { [key]: empty && mayBeEmpty ? null : input.valueAsNumber } as Partial<Settings>);
  };
  return html`
    <label class="field">
      <span>${text.label}</span>
      <input
        type="number" name=${key} inputmode="decimal" step=${text.step} min=${text.min ?? nothing}
        placeholder=${text.empty ?? nothing} ?required=${!mayBeEmpty}
        .value=${live(value === null || Number.isNaN(value) ? "" : String(value))}
        @input=${changed}
      />
      ${text.hint ? html`<span class="hint">${text.hint}</span>` : nothing}
    </label>
  `;
}
