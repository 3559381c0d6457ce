/** The two drop zones and the cards of what was dropped on them. */
import { html, nothing, type TemplateResult } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { repeat } from "lit-html/directives/repeat.js";
import type { AdapterFacts, BaseFacts } from "../lib/index.ts";
import { baseUse } from "./checklist.ts";
import { factList, loadable, picker } from "./controls.ts";
import { giveOpen, outdate, removeAdapter, removeBase } from "./edits.ts";
import { bytes, compact, count, list, plural, setting } from "./format.ts";
import * as icons from "./icons.ts";
import { notices } from "./notices.ts";
import { FORMAT_TITLES } from "./output-fields.ts";
import { type Dropped, titleOf } from "./recognise.ts";
import { needsSamples } from "./settings.ts";
import {
  type Adapter,
  askedMethods,
  type Base,
  baseFacts as factsOfBase,
  type State,
  type Store,
} from "./state.ts";
import { textSlot } from "./texts.ts";

export function inputs(store: Store): TemplateResult {
  const { base, adapters, open } = store.state;
  return html`
    <section class="panel" aria-labelledby="base-heading">
      <h2 id="base-heading"><span class="step" aria-hidden="true">1</span> Base model</h2>
      ${base ? baseCard(store, base) : nothing}
      ${zone(store, "base", {
        compact: base !== undefined,
        title: base ? "Drop another one, or files it lacks" : "Drop the base model’s folder here",
        hint: baseUse(store.state)
          ? "config.json, model.safetensors, tokenizer.json"
          : "What you have chosen needs none, and takes any .safetensors checkpoint.",
        name: "base model",
      })}
      ${notices(store, "base")}
    </section>
    <section class="panel" aria-labelledby="adapters-heading">
      <h2 id="adapters-heading"><span class="step" aria-hidden="true">2</span> Adapters and their samples</h2>
      ${
        adapters.length > 0
          ? html`
            <ul class="cards">
              ${repeat(
                adapters,
                (adapter) => adapter.id,
                (adapter) => adapterCard(store, adapter),
              )}
            </ul>
          `
          : nothing
      }
      ${open.length > 0 ? openTexts(store, open) : nothing}
      ${zone(store, "adapters", {
        compact: adapters.length > 0,
        title: adapters.length > 0 ? "Drop more adapters or samples" : "Drop two or more adapters here",
        hint: "PEFT’s folders, or one .safetensors file each from kohya, ComfyUI or diffusers. Their samples too: texts (.txt, .jsonl, .json, .csv, .tsv), or a folder of pictures each. A folder that holds everything is fine.",
        name: "adapters",
      })}
      ${notices(store, "adapters")}
    </section>
  `;
}

interface ZoneText {
  compact: boolean;
  title: string;
  hint: string;
  name: string;
}

function zone(store: Store, which: "base" | "adapters", text: ZoneText): TemplateResult {
  return html`
    <div class="zone ${text.compact ? "compact" : ""}" data-zone=${which}>
      <div class="zone-text">
        <p class="zone-title">${text.title}</p>
        ${text.compact ? nothing : html`<p class="hint">${text.hint}</p>`}
      </div>
      <div class="zone-buttons">
        ${picker(store, { zone: which }, { folder: true, label: "Choose folder", of: text.name })}
        ${picker(store, { zone: which }, { folder: false, label: "Choose files", of: text.name })}
      </div>
    </div>
  `;
}

function baseCard(store: Store, base: Base): TemplateResult {
  return html`
    <div class="card">
      <div class="card-head">
        <h3>${base.name}</h3>
        <span class="muted">${bytes(size(base.files))}</span>
        <button class="quiet icon-only" type="button" @click=${() => removeBase(store)}>
          ${icons.cross}<span class="sr-only">Remove the base model ${base.name}</span>
        </button>
      </div>
      ${loadable(base.facts, (facts) => baseFacts(facts, base.chat))}
    </div>
  `;
}

function baseFacts(facts: BaseFacts, chat: boolean): TemplateResult {
  if (facts.kind === "weights") {
    return html`
      ${factList([
        ...(facts.architecture ? [["Architecture", facts.architecture] as const] : []),
        ["Parameters", compact(facts.parameters)],
        ["Precision", facts.dtype],
      ])}
      <p class="hint">
        This model can be read and not run here: methods that need no samples work, and so does merging into it.
      </p>
    `;
  }
  return factList([
    ["Architecture", facts.architecture],
    ["Kind", kindOf(facts)],
    ["Parameters", compact(facts.parameters)],
    ["Layers", `${facts.layers} × ${count(facts.hiddenSize)}`],
    ["Heads", count(facts.heads)],
    ["Reads", readsOf(facts)],
    ["Precision", facts.dtype],
    ...(facts.kind === "image-encoder"
      ? []
      : [
          [
            "Tokenizer",
            facts.hasTokenizer ? (chat ? "yes, with a chat template" : "yes") : "missing",
          ] as const,
        ]),
  ]);
}

/** `pictures of 224 × 224 and 77 tokens`. */
function readsOf({ kind, picture, maxLength }: BaseFacts): string {
  if (!picture) return plural(maxLength, "token");
  const pictures = `pictures of ${picture.width} × ${picture.height}`;
  return kind === "image-text-encoder" ? `${pictures} and ${plural(maxLength, "token")}` : pictures;
}

/** What the model reads and writes, in words. */
function kindOf({ kind, generates }: BaseFacts): string {
  if (kind === "image-encoder") return "image encoder";
  if (kind === "image-text-encoder") return "encoder of pictures and texts";
  if (kind === "image-to-text") return "reads pictures, writes captions";
  const name = kind === "decoder" ? "decoder-only" : kind;
  if (kind === "encoder") return name;
  return generates ? `${name}, writes text` : `${name} without a language-modelling head, writes nothing`;
}

function adapterCard(store: Store, adapter: Adapter): TemplateResult {
  const rename = (event: Event): void => {
    const { value } = event.currentTarget as HTMLInputElement;
    store.change((state) => {
      adapter.name = value;
      outdate(state);
    });
  };
  const reweigh = (event: Event): void => {
    const { valueAsNumber } = event.currentTarget as HTMLInputElement;
    store.change((state) => {
      adapter.weight = valueAsNumber;
      outdate(state);
    });
  };
  const mayBeNegative = !needsSamples(askedMethods(store.state));
  return html`
    <li class="card" data-adapter=${adapter.name}>
      <h3 class="sr-only">Adapter ${adapter.name}</h3>
      <div class="card-head">
        <label class="field name">
          <span class="sr-only">Name of the adapter</span>
          <input type="text" .value=${live(adapter.name)} @input=${rename} autocomplete="off" spellcheck="false" />
        </label>
        <label class="field weight">
          <span>Weight</span>
          <input
            type="number" min=${mayBeNegative ? nothing : "0"} step="any" inputmode="decimal" required
            .value=${live(Number.isNaN(adapter.weight) ? "" : String(adapter.weight))}
            @input=${reweigh}
          />
        </label>
        <button class="quiet icon-only" type="button" @click=${() => removeAdapter(store, adapter.id)}>
          ${icons.cross}<span class="sr-only">Remove the adapter ${adapter.name}</span>
        </button>
      </div>
      ${loadable(adapter.facts, (facts) => adapterFacts(facts, size(adapter.files)))}
      ${
        mayHaveTexts(store.state, adapter)
          ? html`
            <div class="slots">
              ${textSlot(store, adapter, "samples")} ${textSlot(store, adapter, "heldOut")}
            </div>
          `
          : nothing
      }
    </li>
  `;
}

/** Texts are for models that can be run here; an adapter of an image model has none. */
function mayHaveTexts(state: State, { texts, self, facts }: Adapter): boolean {
  if (texts.samples || texts.heldOut || self) return true;
  const base = factsOfBase(state);
  if (base) return base.kind !== "weights";
  return facts.status !== "ready" || facts.value.format === "peft" || needsSamples(askedMethods(state));
}

function adapterFacts(facts: AdapterFacts, fileBytes: number): TemplateResult {
  const heads = [...new Set(facts.heads.map(({ name }) => name.replace(/\.[^.]*$/, "")))];
  const labels = facts.labels ? ` with ${plural(facts.labels.length, "label")}` : "";
  const rows = factList([
    ["Rank", facts.ranks.length > 1 ? facts.ranks.join(", ") : String(facts.rank)],
    ["Alpha", setting(facts.alpha)],
    ["Scaling", setting(facts.scaling)],
    ["Targets", targets(facts)],
    ["Parameters", compact(facts.parameters)],
    ...(facts.format === "peft" || heads.length > 0
      ? [["Head", heads.length > 0 ? `${list(heads)}${labels}` : "none"] as const]
      : []),
    ["Size", `${bytes(fileBytes)}, ${facts.dtype}`],
    ...(facts.baseName ? [["Trained on", facts.baseName] as const] : []),
  ]);
  return html`
    <ul class="tags" aria-label="Format and features">
      <li class="tag format">${FORMAT_TITLES[facts.format]}</li>
      ${facts.features.map((feature) => html`<li class="tag">${feature}</li>`)}
      ${facts.needsBase ? html`<li class="tag needs">needs the base model</li>` : nothing}
    </ul>
    ${rows}
  `;
}

/** So many names can be read in a row. */
const MOST_TARGETS = 12;

/** What is targeted: by name, or where that is more than can be read, by kind and on request. */
function targets({ targets, groups, modules }: AdapterFacts): string | TemplateResult {
  const all = plural(modules, "module");
  if (targets.length <= MOST_TARGETS) return `${list(targets)} in ${all}`;
  return html`
    <details class="targets">
      <summary>${all} of ${plural(groups.length, "kind")}</summary>
      <ul>
        ${groups.map(
          ({ pattern, modules }) => html`
            <li>
              <span class="module">${pattern}</span>
              ${modules > 1 ? html`<span class="muted tabular">× ${modules}</span>` : nothing}
            </li>
          `,
        )}
      </ul>
    </details>
  `;
}

/** Texts that nobody could place: the person says whose they are. */
function openTexts(store: Store, open: readonly Dropped[]): TemplateResult {
  const { adapters } = store.state;
  return html`
    <div class="open-texts">
      <h3>Whose ${open.some(({ pictures }) => pictures) ? "samples" : "texts"} are these?</h3>
      <ul>
        ${open.map(
          (dropped) => html`
            <li>
              <span class="file-name">${titleOf(dropped)}</span>
              <label class="field">
                <span class="sr-only">Adapter that ${titleOf(dropped)} belongs to</span>
                <select
                  ?disabled=${adapters.length === 0}
                  @change=${(event: Event) => giveOpen(store, dropped, (event.currentTarget as HTMLSelectElement).value)}
                >
                  <option value="" selected>${adapters.length === 0 ? "Drop its adapter" : "Choose adapter"}</option>
                  ${adapters.map((adapter) => html`<option value=${adapter.id}>${adapter.name}</option>`)}
                </select>
              </label>
              <button
                class="quiet icon-only" type="button"
                @click=${() =>
                  store.change((state) => {
                    state.open = state.open.filter((other) => other !== dropped);
                  })}
              >
                ${icons.cross}<span class="sr-only">Leave ${titleOf(dropped)} out</span>
              </button>
            </li>
          `,
        )}
      </ul>
    </div>
  `;
}

const size = (files: readonly Dropped[]): number => files.reduce((sum, { file }) => sum + file.size, 0);
