/** What is wrong with the numbers of the form of options, in the words of its fields. */
import { isInRange, OPTIONS, type OptionName, optionNames } from "../lib/index.ts";
import { classProblem } from "./class-field.ts";
import { layerWeightsOf } from "./layer-weights.ts";
import { doesSomething } from "./option-fields.ts";
import { askedMethods, baseFacts, type State } from "./state.ts";

/** What is wrong with the first number that is outside its range; only those whose fields are shown can be corrected. */
export function optionProblem(state: State): string | undefined {
  const { settings } = state;
  const methods = askedMethods(state);
  const generates = baseFacts(state)?.generates ?? false;
  const isShown = (name: OptionName): boolean =>
    (OPTIONS[name].field?.place !== "writing" || generates) && doesSomething(name, settings, methods);
  const wrong = optionNames.find((name) => !fits(name, settings[name]) && isShown(name));
  const { range, field } = wrong === undefined ? {} : OPTIONS[wrong];
  if (range !== undefined && field !== undefined) {
    const orEmpty = field.empty === undefined ? "" : `, or leave it empty for ${field.empty}`;
    return `${field.label}: give ${range.words}${orEmpty}.`;
  }
  return layerWeightsOf(state).problem ?? classProblem(state);
}

function fits(name: OptionName, value: unknown): boolean {
  const { range } = OPTIONS[name];
  return range === undefined || typeof value !== "number" || isInRange(value, range);
}
