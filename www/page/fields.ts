/** The fields that the forms of options are made of: a choice from a list, a number, a tick. */
import { html, nothing, type TemplateResult } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { outdate } from "./edits.ts";
import type { Settings } from "./settings.ts";
import type { Store } from "./state.ts";

/** The settings that are chosen from a list. */
type Choice = {
  [Key in keyof Settings]: Settings[Key] extends string ? Key : never;
}[keyof Settings];
/** The settings that are numbers; `null` stands for an empty field. */
type NumberSetting = {
  [Key in keyof Settings]: Settings[Key] extends number | null ? Key : never;
}[keyof Settings];
/** The settings that are ticked. */
type Tick = { [Key in keyof Settings]: Settings[Key] extends boolean ? Key : never }[keyof Settings];

/** Changes options; a result that is shown is then of others. */
export function set(store: Store, change: Partial<Settings>): void {
  store.change((state) => {
    Object.assign(state.settings, change);
    outdate(state);
  });
}

export function select<Key extends Choice>(
  store: Store,
  key: Key,
  label: string,
  choices: readonly (readonly [Settings[Key], string])[],
  hint?: string,
): TemplateResult {
  return choose({ name: key, label, hint, value: store.state.settings[key], choices }, (value) =>
    set(store, { [key]: value } as Partial<Settings>),
  );
}

/** A list to choose from that is no setting of its own. */
export function choose<Value extends string>(
  text: {
    name: string;
    label: string;
    hint?: string | undefined;
    value: Value;
    choices: readonly (readonly [Value, string])[];
  },
  chosen: (value: Value) => void,
): TemplateResult {
  const changed = (event: Event): void => {
    const { value } = event.currentTarget as HTMLSelectElement;
    const choice = text.choices.find(([name]) => name === value);
    if (choice) chosen(choice[0]);
  };
  return html`
    <label class="field">
      <span>${text.label}</span>
      <select name=${text.name} .value=${live(text.value)} @change=${changed}>
        ${text.choices.map(
          ([value, words]) =>
            html`<option value=${value} ?selected=${text.value === value}>${words}</option>`,
        )}
      </select>
      ${text.hint ? html`<span class="hint">${text.hint}</span>` : nothing}
    </label>
  `;
}

export interface NumberText {
  label: string;
  step: string;
  min?: string;
  max?: string;
  /** What an empty field stands for; without it the field must be filled. */
  empty?: string;
  hint?: string | undefined;
}

export function numberField(store: Store, key: NumberSetting, text: NumberText): TemplateResult {
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
        type="number" name=${key} inputmode="decimal" step=${text.step}
        min=${text.min ?? nothing} max=${text.max ?? nothing}
        placeholder=${text.empty ?? nothing} ?required=${!mayBeEmpty}
        .value=${live(value === null || Number.isNaN(value) ? "" : String(value))}
        @input=${changed}
      />
      ${text.hint ? html`<span class="hint">${text.hint}</span>` : nothing}
    </label>
  `;
}

export function tick(store: Store, key: Tick, label: string, hint: string): TemplateResult {
  return html`
    <label class="check">
      <input
        type="checkbox" name=${key} .checked=${live(store.state.settings[key])}
        @change=${(event: Event) => set(store, { [key]: (event.currentTarget as HTMLInputElement).checked })}
      />
      <span><span>${label}</span><span class="hint">${hint}</span></span>
    </label>
  `;
}
