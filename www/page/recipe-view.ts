/** The recipe that is followed: what it wants, what of it is here, and what is here that is not what it was. */
import { html, nothing, type TemplateResult } from "lit-html";
import { filePicker } from "./controls.ts";
import * as icons from "./icons.ts";
import { leaveRecipe } from "./recipe-intake.ts";
import { recipeLines, type Standing } from "./recipe-lines.ts";
import type { Followed } from "./recipe-match.ts";
import { methodTitle } from "./settings.ts";
import type { Store } from "./state.ts";

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
