/** The field of an option, from what there is to tell of it: a list to choose from, a number or a tick. */
import { nothing, type TemplateResult } from "lit-html";
import { type MethodName, OPTIONS, type OptionName, optionNames } from "../lib/index.ts";
import { numberField, select, tick } from "./fields.ts";
import type { Settings } from "./settings.ts";
import type { Store } from "./state.ts";

type Field = TemplateResult | typeof nothing;
type Place = NonNullable<(typeof OPTIONS)[OptionName]["field"]>["place"];

/** The option's field, `empty` being what it stands for when nothing is in it; nothing for one that has none. */
export function optionField(store: Store, name: OptionName, empty?: string): Field {
  const { kind, choices = {}, range, field } = OPTIONS[name];
  if (field === undefined) return nothing;
  const { label, hint } = field;
  switch (kind) {
    case "word": {
      const list = Object.entries(choices).map(([word, { label }]) => [word, label] as const);
      return select(store, name as Parameters<typeof select>[1], label, list as never, hint);
    }
    case "flag":
      return tick(store, name as Parameters<typeof tick>[1], label, hint ?? "");
    case "number":
    case "bytes":
      return numberField(store, name as Parameters<typeof numberField>[1], {
        label,
        hint,
        step: range?.whole ? "1" : "any",
        ...(range?.least === undefined ? {} : { min: String(range.least) }),
        ...(range?.most === undefined ? {} : { max: String(range.most) }),
        ...((empty ?? field.empty) === undefined ? {} : { empty: empty ?? field.empty ?? "" }),
      });
    case "weights":
      return nothing;
  }
}

/** Whether the option does something beside the others as they are set, for one of the methods. */
export function doesSomething(name: OptionName, settings: Settings, methods: readonly MethodName[]): boolean {
  const { methods: readers, needs = {} } = OPTIONS[name];
  if (readers !== undefined && !methods.some((method) => readers.includes(method))) return false;
  return Object.entries(needs).every(([other, word]) => settings[other as OptionName] === word);
}

/** The options that are shown there for these methods; ticks come after what is to be filled in. */
export function optionsAt(place: Place, settings: Settings, methods: readonly MethodName[]): OptionName[] {
  const names = optionNames.filter(
    (name) => OPTIONS[name].field?.place === place && doesSomething(name, settings, methods),
  );
  const isTick = (name: OptionName) => Number(OPTIONS[name].kind === "flag");
  return names.sort((a, b) => isTick(a) - isTick(b));
}
