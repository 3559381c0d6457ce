/** The two places for texts on an adapter's card: calibration samples and held-out texts. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { ModelKind, SamplesFacts } from "../lib/index.ts";
import { loadable, picker } from "./controls.ts";
import { removeText, setSelf } from "./edits.ts";
import { bytes, sampleCounts } from "./format.ts";
import * as icons from "./icons.ts";
import { pictureList } from "./pictures.ts";
import { type Role, sizeOf, titleOf } from "./recognise.ts";
import { selfView } from "./self-samples.ts";
import { needsSamples } from "./settings.ts";
import { type Adapter, askedMethods, baseFacts, type Store, type Text } from "./state.ts";

/** What a slot is called: of pictures where the base reads those, or where pictures are in it. */
const titleOfSlot = (role: Role, pictures: boolean): string =>
  role === "samples" ? "Samples" : pictures ? "Held-out pictures" : "Held-out texts";

const SAMPLES_HINTS: Record<ModelKind, string> = {
  "image-encoder": "A folder of about 50 pictures of its task, no labels needed",
  "image-text-encoder":
    "A folder of about 50 pictures of its task, with captions (metadata.jsonl, or .txt beside them)",
  "image-to-text": "A folder of about 50 pictures of its task; what has no caption gets one from the adapter",
  encoder: "About 50 texts of its task, no labels needed",
  decoder: "About 50 prompts, chats or texts of its task, no answers needed",
  "encoder-decoder": "About 50 texts of its task, no answers needed",
  weights: "Of no use: this base model cannot be run here",
};

const readsPictures = (store: Store): boolean => baseFacts(store.state)?.picture !== undefined;

function hint(role: Role, kind: ModelKind): string {
  if (role === "samples" || kind === "weights") return SAMPLES_HINTS[kind];
  if (kind === "image-to-text")
    return "Optional: other pictures to compare on, with captions if you have them";
  const other = kind === "decoder" ? "prompts" : kind.startsWith("image") ? "pictures" : "texts";
  return `Optional: other ${other} to compare on, with labels if you have them`;
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
      <h4>${titleOfSlot(role, text ? text.dropped.pictures !== undefined : readsPictures(store))}</h4>
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
      <span class="file-name">${titleOf(text.dropped)}</span>
      <span class="muted">${bytes(sizeOf(text.dropped))}</span>
      <button class="quiet icon-only" type="button" @click=${() => removeText(store, adapter.id, role)}>
        ${icons.cross}<span class="sr-only">Remove ${titleOf(text.dropped)} from ${adapter.name}</span>
      </button>
    </div>
    ${loadable(text.facts, sampleFacts)}
  `;
}

function emptySlot(store: Store, adapter: Adapter, role: Role): TemplateResult {
  const facts = baseFacts(store.state);
  const pictures = readsPictures(store);
  const writesOwn = role === "samples" && facts?.generates === true && !pictures;
  const target = { zone: "text", adapter: adapter.id, role } as const;
  const of = `the ${titleOfSlot(role, pictures).toLowerCase()} of ${adapter.name}`;
  return html`
    <p class="hint">${hint(role, facts?.kind ?? "encoder")}</p>
    <div class="slot-buttons">
      ${pictures ? picker(store, target, { folder: true, label: "Choose folder", of }) : nothing}
      ${picker(store, target, { folder: false, label: pictures ? "Choose pictures" : "Choose file", of, multiple: pictures })}
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
    ${pictureList(facts)}
    ${
      facts.preview.length > 0 && facts.format !== "pictures"
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
