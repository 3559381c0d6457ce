/** The two places for texts on an adapter's card: calibration samples and held-out texts. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { SamplesFacts } from "../lib/index.ts";
import { loadable, picker } from "./controls.ts";
import { bytes, plural } from "./format.ts";
import * as icons from "./icons.ts";
import { removeText } from "./intake.ts";
import type { Role } from "./recognise.ts";
import { needsSamples } from "./settings.ts";
import type { Adapter, Store } from "./state.ts";

const TITLES: Record<Role, string> = { samples: "Samples", heldOut: "Held-out texts" };
const HINTS: Record<Role, string> = {
  samples: "About 50 texts of its task, no labels needed",
  heldOut: "Optional: other texts to compare on, with labels if you have them",
};

export function textSlot(store: Store, adapter: Adapter, role: Role): TemplateResult {
  const text = adapter.texts[role];
  const wanted = role === "samples" && !text && needsSamples(store.state.settings);
  return html`
    <div
      class="slot ${wanted ? "wanted" : ""}"
      data-zone="text" data-adapter-id=${adapter.id} data-role=${role}
    >
      <h4>${TITLES[role]}</h4>
      ${
        text
          ? html`
            <div class="slot-file">
              <span class="file-name">${text.dropped.file.name}</span>
              <span class="muted">${bytes(text.dropped.file.size)}</span>
              <button
                class="quiet icon-only" type="button"
                @click=${() => removeText(store, adapter.id, role)}
              >
                ${icons.cross}<span class="sr-only">Remove ${text.dropped.file.name} from ${adapter.name}</span>
              </button>
            </div>
            ${loadable(text.facts, sampleFacts)}
          `
          : html`
            <p class="hint">${HINTS[role]}</p>
            ${picker(
              store,
              { zone: "text", adapter: adapter.id, role },
              {
                folder: false,
                label: "Choose file",
                of: `the ${TITLES[role].toLowerCase()} of ${adapter.name}`,
              },
            )}
          `
      }
    </div>
  `;
}

function sampleFacts(facts: SamplesFacts): TemplateResult {
  const parts = [plural(facts.count, "text")];
  if (facts.pairs > 0) parts.push(`${plural(facts.pairs, "pair")}`);
  if (facts.labelled > 0) parts.push(`${facts.labelled === facts.count ? "all" : facts.labelled} labelled`);
  return html`
    <p class="slot-facts">${parts.join(" · ")}</p>
    ${
      facts.preview.length > 0
        ? html`
          <details class="preview">
            <summary>First texts</summary>
            <ol>${facts.preview.map((text) => html`<li>${text}</li>`)}</ol>
          </details>
        `
        : nothing
    }
  `;
}
