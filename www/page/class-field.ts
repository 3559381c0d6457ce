/** The field for classes that a model of pictures and texts chooses from, and what is in it. */
import { html, nothing, type TemplateResult } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { outdate } from "./edits.ts";
import { baseFacts, type State, type Store } from "./state.ts";

/** The classes as they were typed, one a line; `undefined` where the pictures' own are to be taken. */
export function classesOf(state: State): string[] | undefined {
  if (baseFacts(state)?.kind !== "image-text-encoder") return undefined;
  const classes = state.classText
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  return classes.length > 0 ? classes : undefined;
}

/** What is wrong with them, if something is. */
export function classProblem(state: State): string | undefined {
  const classes = classesOf(state);
  if (!classes) return undefined;
  if (classes.length < 2) return "Classes to choose from: give two or more, one a line.";
  const twice = classes.find((label, i) => classes.indexOf(label) !== i);
  return twice === undefined ? undefined : `Classes to choose from: ${twice} is there twice.`;
}

/** Nothing for models that have classes of their own, or none. */
export function classField(store: Store): TemplateResult | typeof nothing {
  if (baseFacts(store.state)?.kind !== "image-text-encoder") return nothing;
  const changed = (event: Event): void => {
    const { value } = event.currentTarget as HTMLTextAreaElement;
    store.change((state) => {
      state.classText = value;
      outdate(state);
    });
  };
  return html`
    <label class="field">
      <span>Classes to choose from</span>
      <textarea
        name="classes" rows="3" spellcheck="false" placeholder="a photo of a cat&#10;a photo of a dog"
        .value=${live(store.state.classText)} @input=${changed}
      ></textarea>
      <span class="hint">
        One a line. The comparison lets each model choose one for each picture; empty, from the pictures’ labels or else
        their captions.
      </span>
    </label>
  `;
}
