/** The form of samples that an adapter writes itself, in the place where a file of samples would be. */
import { html, type TemplateResult } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { setSelf } from "./edits.ts";
import * as icons from "./icons.ts";
import type { Adapter, SelfWriting, Store } from "./state.ts";

export function selfView(store: Store, adapter: Adapter, self: SelfWriting): TemplateResult {
  const number = (key: "count" | "seed", label: string, min: string): TemplateResult => html`
    <label class="field">
      <span>${label}</span>
      <input
        type="number" inputmode="numeric" min=${min} step="1" required
        .value=${live(Number.isNaN(self[key]) ? "" : String(self[key]))}
        @input=${(event: Event) =>
          setSelf(store, adapter.id, { [key]: (event.currentTarget as HTMLInputElement).valueAsNumber })}
      />
    </label>
  `;
  return html`
    <div class="slot-file">
      <span class="badge">${icons.pen} Self-written</span>
      <button class="quiet icon-only" type="button" @click=${() => setSelf(store, adapter.id, undefined)}>
        ${icons.cross}<span class="sr-only">Do not let ${adapter.name} write its own samples</span>
      </button>
    </div>
    <p class="hint">Before the merge, the adapter writes texts of its own. Real samples of the task are better.</p>
    <div class="self-fields">
      ${number("count", "Texts", "1")}
      <label class="field">
        <span>Each begins with</span>
        <input
          type="text" autocomplete="off" placeholder="nothing"
          .value=${live(self.prompt)}
          @input=${(event: Event) =>
            setSelf(store, adapter.id, { prompt: (event.currentTarget as HTMLInputElement).value })}
        />
      </label>
    </div>
    <details class="more">
      <summary>Seed</summary>
      ${number("seed", "The same seed gives the same texts", "0")}
    </details>
  `;
}
