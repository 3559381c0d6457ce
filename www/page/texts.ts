/** The two places for texts on an adapter's card: calibration samples and held-out texts. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { ModelKind, SamplesFacts } from "../lib/index.ts";
import { loadable, picker } from "./controls.ts";
import { removeText, setSelf } from "./edits.ts";
import { bytes, sampleCounts } from "./format.ts";
import * as icons from "./icons.ts";
import type { Role } from "./recognise.ts";
import { selfView } from "./self-samples.ts";
import { needsSamples } from "./settings.ts";
import { type Adapter, askedMethods, baseFacts, type Store, type Text } from "./state.ts";

const TITLES: Record<Role, string> = { samples: "Samples", heldOut: "Held-out texts" };

const SAMPLES_HINTS: Record<ModelKind, string> = {
  "image-encoder":
    "Its samples are pictures: merge with them by command line or npm package, or choose a method without samples",
  "image-text-encoder": "About 50 pictures of its task, with their captions",
  "image-to-text": "About 50 pictures of its task; captions that lack are written by the adapter",
  encoder: "About 50 texts of its task, no labels needed",
  decoder: "About 50 prompts, chats or texts of its task, no answers needed",
  "encoder-decoder": "About 50 texts of its task, no answers needed",
  weights: "Of no use: this base model cannot be run here",
};

function hint(role: Role, kind: ModelKind): string {
  if (role === "samples" || kind === "weights" || kind === "image-encoder") return SAMPLES_HINTS[kind];
  const other = kind === "decoder" ? "other prompts" : "other texts";
  return `Optional: ${other} to compare on, with labels if you have them`;
}

export function textSlot(store: Store, adapter: Adapter, role: Role): TemplateResult {
  const text = adapter.texts[role];
  const self = role === "samples" && !text ? adapter.self : undefined;
  const wanted = role === "samples" && !text && !self && needsSamples(askedMethods(store.state));
  return html`
    <div
      class="slot ${wanted ? "wanted" : ""}"
      data-zone="text" data-adapter-id=${adapter.id} data-role=${role}
    >
      <h4>${TITLES[role]}</h4>
      ${
        text
          ? textView(store, adapter, role, text)
          : self
            ? selfView(store, adapter, self)
            : emptySlot(store, adapter, role)
      }
    </div>
  `;
}

function textView(store: Store, adapter: Adapter, role: Role, text: Text): TemplateResult {
  return html`
    <div class="slot-file">
      <span class="file-name">${text.dropped.file.name}</span>
      <span class="muted">${bytes(text.dropped.file.size)}</span>
      <button class="quiet icon-only" type="button" @click=${() => removeText(store, adapter.id, role)}>
        ${icons.cross}<span class="sr-only">Remove ${text.dropped.file.name} from ${adapter.name}</span>
      </button>
    </div>
    ${loadable(text.facts, sampleFacts)}
  `;
}

function emptySlot(store: Store, adapter: Adapter, role: Role): TemplateResult {
  const facts = baseFacts(store.state);
  const writesOwn = role === "samples" && facts?.generates === true;
  return html`
    <p class="hint">${hint(role, facts?.kind ?? "encoder")}</p>
    <div class="slot-buttons">
      ${picker(
        store,
        { zone: "text", adapter: adapter.id, role },
        {
          folder: false,
          label: "Choose file",
          of: `the ${TITLES[role].toLowerCase()} of ${adapter.name}`,
        },
      )}
      ${
        writesOwn
          ? html`
            <button class="secondary" type="button" @click=${() => setSelf(store, adapter.id, {})}>
              ${icons.pen} Let the adapter write them<span class="sr-only"> for ${adapter.name}</span>
            </button>
          `
          : nothing
      }
    </div>
  `;
}

function sampleFacts(facts: SamplesFacts): TemplateResult {
  return html`
    <p class="slot-facts">${sampleCounts(facts)}</p>
    ${
      facts.preview.length > 0
        ? html`
          <details class="preview">
            <summary>First ones</summary>
            <ol>${facts.preview.map((text) => html`<li>${text}</li>`)}</ol>
          </details>
        `
        : nothing
    }
  `;
}
