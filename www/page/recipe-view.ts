/** The recipe that is followed: what it wants, what of it is here, and what is here that is not what it was. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { Recipe } from "../lib/index.ts";
import { filePicker } from "./controls.ts";
import { plural, setting } from "./format.ts";
import * as icons from "./icons.ts";
import { leaveRecipe } from "./recipe-intake.ts";
import type { Followed } from "./recipe-match.ts";
import { methodTitle } from "./settings.ts";
import type { State, Store } from "./state.ts";

type Standing = "here" | "reading" | "lacking" | "differs";

interface Line {
  what: string;
  name: string;
  /** More of it: weight, samples. */
  note: string;
  standing: Standing;
  /** What differs, if something does. */
  why?: string;
}

const MARKS: Record<Standing, TemplateResult> = {
  here: icons.check,
  reading: icons.clock,
  lacking: icons.circle,
  differs: icons.alert,
};
const SPOKEN: Record<Standing, string> = {
  here: "Here: ",
  reading: "Being read: ",
  lacking: "Missing: ",
  differs: "Another one: ",
};

/** Where none is followed: the way to load one. */
export const recipeButton = (store: Store): TemplateResult => html`
  <div class="recipe-load">
    ${filePicker(store, { zone: "adapters" }, { label: "Load a recipe", accept: ".json", of: "the merge", quiet: true })}
    <p class="hint">The merge_report.json of a merge, to make it again.</p>
  </div>
`;

export function recipePanel(store: Store, followed: Followed): TemplateResult {
  const { recipe, file } = followed;
  const method = recipe.options.method;
  return html`
    <section class="panel recipe" aria-labelledby="recipe-heading">
      <div class="recipe-head">
        <h2 id="recipe-heading">Recipe</h2>
        <span class="muted">${file}${method ? ` · ${methodTitle(method)}` : nothing} · ${recipe.createdBy}</span>
        <button class="quiet icon-only" type="button" @click=${() => leaveRecipe(store)}>
          ${icons.cross}<span class="sr-only">Leave the recipe</span>
        </button>
      </div>
      <ul class="recipe-lines">
        ${recipeLines(store.state, followed).map(
          ({ what, name, note, standing, why }) => html`
            <li class=${standing}>
              ${MARKS[standing]}
              <span>
                <span class="sr-only">${SPOKEN[standing]}</span><span class="muted">${what}</span> <strong>${name}</strong>
                ${note ? html`<span class="muted">${note}</span>` : nothing}
                ${why ? html`<span class="recipe-why">${why}</span>` : nothing}
              </span>
            </li>
          `,
        )}
      </ul>
    </section>
  `;
}

/** A line for the base model, and for each adapter. */
export function recipeLines(state: State, followed: Followed): Line[] {
  const { recipe } = followed;
  const lines = recipe.adapters.map((wanted, index): Line => {
    const card = state.adapters.find(({ id }) => id === followed.cards[index]);
    const why = difference(followed, wanted.name);
    return {
      what: "Adapter",
      name: wanted.name,
      note: noteOf(wanted),
      standing: !card ? "lacking" : why ? "differs" : "here",
      ...(why ? { why } : {}),
    };
  });
  if (!recipe.base) return lines;
  const why = difference(followed, "base model");
  const standing = !state.base ? "lacking" : why ? "differs" : followed.checking ? "reading" : "here";
  return [
    { what: "Base model", name: recipe.base.name, note: "", standing, ...(why ? { why } : {}) },
    ...lines,
  ];
}

function noteOf({ weight, samples }: Recipe["adapters"][number]): string {
  const parts = weight === 1 ? [] : [`weight ${setting(weight)}`];
  if (samples) {
    const number = plural(samples.count, "sample");
    parts.push(
      samples.self ? `${number}, self-written` : samples.source ? `${number} of ${samples.source}` : number,
    );
  }
  return parts.length > 0 ? `· ${parts.join(" · ")}` : "";
}

/** What of an input differs, in words. */
function difference({ differing }: Followed, input: string): string | undefined {
  const found = differing.filter((mismatch) => mismatch.input === input);
  if (found.length === 0) return undefined;
  return found
    .map(({ file, why }) =>
      why === "missing" ? `${file} is missing.` : `${file} is not the file of the recipe (another SHA-256).`,
    )
    .join(" ");
}
