/** The field of per-layer weights: text that is read as it is typed, with what is wrong with it below. */
import { html, nothing, type TemplateResult } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { outdate } from "./edits.ts";
import { list } from "./format.ts";
import * as icons from "./icons.ts";
import { layerWeightsOf } from "./layer-weights.ts";
import type { Store } from "./state.ts";

export function layerField(store: Store): TemplateResult {
  const { adapters, layerText } = store.state;
  const { problem } = layerWeightsOf(store.state);
  const names = adapters.map(({ name }) => name);
  const example =
    names.length > 0 ? names.map((_, index) => (index === 0 ? "1" : "0.5")).join(", ") : "1, 0.5";
  return html`
    <div class="field">
      <label for="layer-weights">Weights of single layers</label>
      <textarea
        id="layer-weights" name="layerWeights" class="code-field" rows="3" spellcheck="false" autocomplete="off"
        placeholder="encoder.layer.[0-5].*: [${example}]"
        aria-describedby="layer-weights-hint" aria-invalid=${problem ? "true" : "false"}
        .value=${live(layerText)}
        @input=${(event: Event) =>
          store.change((state) => {
            state.layerText = (event.currentTarget as HTMLTextAreaElement).value;
            outdate(state);
          })}
      ></textarea>
      <span class="hint" id="layer-weights-hint">
        ${problem ? html`<span class="field-problem">${icons.alert} ${problem}</span>` : nothing}
        <span>
          A line for each pattern: a regular expression for the end of a module’s path, and the
          weights${names.length > 0 ? html` of ${list(names)}` : nothing}.
        </span>
      </span>
    </div>
  `;
}
