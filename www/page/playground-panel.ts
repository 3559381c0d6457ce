/**
 * “Try it”: a prompt, and what base, adapters and merged adapters write after it, side by side.
 *
 * What a model writes is whatever it was taught to write. It is put on the page as text, never as markup.
 */
import { html, nothing, type TemplateResult } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { GENERATE_OPTIONS, type OptionFacts } from "../lib/index.ts";
import { filePicker } from "./controls.ts";
import { count, duration, list, plural } from "./format.ts";
import * as icons from "./icons.ts";
import { notices, problemView } from "./notices.ts";
import { thumbnail } from "./pictures.ts";
import {
  echoes,
  obstacle,
  pictureOf,
  picturesAtHand,
  promptOf,
  type Suggestion,
  suggestions,
} from "./playground.ts";
import { progressView } from "./progress.ts";
import type { Playground, PlaygroundModels, Store, Written } from "./state.ts";
import { write } from "./write.ts";

export function playgroundPanel(store: Store, models: PlaygroundModels): TemplateResult {
  const { work, playground } = store.state;
  const submit = (event: Event): void => {
    event.preventDefault();
    void write(store);
  };
  return html`
    <section class="panel playground" aria-labelledby="playground-heading">
      <h3 id="playground-heading">Try it</h3>
      <p class="muted">${introduction(models)}</p>
      <form class="playground-form" novalidate @submit=${submit}>
        ${
          models.ofPictures
            ? html`${pictureField(store)} ${beginningField(store, submit)}`
            : html`${promptField(store, submit)} ${suggestionList(store, suggestions(store.state))}`
        }
        <div class="playground-numbers">
          ${numberField(store, "maxNewTokens", "1")} ${numberField(store, "temperature", "0.1")}
        </div>
        <details class="more">
          <summary>Top-p and seed</summary>
          <div class="playground-numbers">
            ${numberField(store, "topP", "0.05")} ${numberField(store, "seed", "1")}
          </div>
        </details>
        ${writeButton(store, models)}
      </form>
      ${work?.task === "write" ? progressView(store, work) : nothing}
      ${outputsView(playground.written)}
    </section>
  `;
}

function introduction({ writers, ofPictures }: PlaygroundModels): string {
  const adapters = writers.filter(({ role }) => role === "adapter").length;
  const merged = writers.filter(({ role }) => role === "merged").length;
  const who = list([
    "the base model",
    ...(adapters > 0 ? ["each adapter"] : []),
    ...(merged > 1 ? ["the merged ones"] : merged > 0 ? ["the merged one"] : []),
  ]);
  if (ofPictures) {
    return `What ${who} ${adapters > 0 ? "write of the same picture, side by side" : "writes of a picture"}.`;
  }
  return adapters > 0
    ? `What ${who} write after the same prompt, side by side.`
    : `What ${who} writes after a prompt.`;
}

function set(store: Store, change: Partial<Playground>): void {
  store.change(({ playground }) => {
    Object.assign(playground, change);
  });
}

/** A picture in place of a prompt: dropped here, chosen from disk, or one of those that are at hand. */
function pictureField(store: Store): TemplateResult {
  const chosen = pictureOf(store.state);
  const atHand = picturesAtHand(store.state);
  return html`
    <div class="zone compact picture-zone" data-zone="picture">
      ${
        chosen
          ? html`
            <div class="picture-chosen">
              ${thumbnail(chosen, `The picture to write of: ${chosen.name}`)}
              <span class="file-name">${chosen.name}</span>
            </div>
          `
          : html`<p class="zone-title">Drop a picture here</p>`
      }
      ${filePicker(
        store,
        { zone: "picture" },
        {
          label: chosen ? "Choose another" : "Choose a picture",
          of: "“Try it”",
          accept: "image/*",
          quiet: false,
        },
      )}
    </div>
    ${notices(store, "picture")}
    ${
      atHand.length > 0
        ? html`
          <ul class="picture-chips" aria-label="Pictures to try">
            ${atHand.map(
              (picture) => html`
                <li>
                  <button
                    type="button" aria-pressed=${picture.blob === chosen?.blob ? "true" : "false"}
                    @click=${() => set(store, { picture })}
                  >
                    ${thumbnail(picture, picture.name)}
                  </button>
                </li>
              `,
            )}
          </ul>
        `
        : nothing
    }
  `;
}

/** How captions are to begin, if that is wanted. */
function beginningField(store: Store, submit: (event: Event) => void): TemplateResult {
  const pressed = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  return html`
    <label class="field">
      <span>The caption begins with</span>
      <input
        type="text" name="prompt" autocomplete="off" spellcheck="false" placeholder="nothing"
        aria-keyshortcuts="Control+Enter"
        .value=${live(store.state.playground.prompt ?? "")} @keydown=${pressed}
        @input=${(event: Event) => set(store, { prompt: (event.currentTarget as HTMLInputElement).value })}
      />
      <span class="hint">Left empty, each model begins it itself.</span>
    </label>
  `;
}

function promptField(store: Store, submit: (event: Event) => void): TemplateResult {
  const { text, chat } = promptOf(store.state);
  const changed = (event: Event): void => {
    // Whether it is a chat stays as it was shown while the text was proposed.
    set(store, { prompt: (event.currentTarget as HTMLTextAreaElement).value, chat });
  };
  const pressed = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  return html`
    <label class="field">
      <span>Prompt</span>
      <textarea
        name="prompt" rows="3" spellcheck="false" aria-keyshortcuts="Control+Enter"
        .value=${live(text)} @input=${changed} @keydown=${pressed}
      ></textarea>
    </label>
    ${
      store.state.base?.chat
        ? html`
          <label class="check">
            <input
              type="checkbox" name="chat" .checked=${live(chat)}
              @change=${(event: Event) => set(store, { chat: (event.currentTarget as HTMLInputElement).checked })}
            />
            <span>
              <span>As a message of a chat</span>
              <span class="hint">The model’s own chat template is put around it.</span>
            </span>
          </label>
        `
        : nothing
    }
  `;
}

function suggestionList(store: Store, found: readonly Suggestion[]): TemplateResult | typeof nothing {
  if (found.length === 0) return nothing;
  const { text: shown } = promptOf(store.state);
  return html`
    <ul class="chips" aria-label="Prompts to try">
      ${found.map(
        ({ task, text, chat }) => html`
          <li>
            <button
              class="chip" type="button" title=${text} aria-pressed=${text === shown ? "true" : "false"}
              @click=${() => set(store, { prompt: text, chat })}
            >
              <span class="chip-task">${task}</span> <span class="chip-text">${text}</span>
            </button>
          </li>
        `,
      )}
    </ul>
  `;
}

function numberField(store: Store, key: keyof typeof GENERATE_OPTIONS, step: string): TemplateResult {
  const value = store.state.playground[key];
  const { field, range }: OptionFacts = GENERATE_OPTIONS[key];
  return html`
    <label class="field">
      <span>${field?.label}</span>
      <input
        type="number" name=${key} inputmode="decimal" step=${step} required
        min=${range?.least ?? nothing} max=${range?.most ?? nothing}
        .value=${live(Number.isNaN(value) ? "" : String(value))}
        @input=${(event: Event) => set(store, { [key]: (event.currentTarget as HTMLInputElement).valueAsNumber })}
      />
      ${field?.hint ? html`<span class="hint">${field.hint}</span>` : nothing}
    </label>
  `;
}

function writeButton(store: Store, { ofPictures }: PlaygroundModels): TemplateResult {
  const why = obstacle(store.state);
  return html`
    <div class="playground-actions">
      <button
        class="primary" type="submit" id="write"
        aria-disabled=${why === undefined ? "false" : "true"} aria-describedby="write-obstacle"
      >
        ${icons.pen} Write
      </button>
      <p class="hint ${why === undefined ? "keys" : ""}" id="write-obstacle">
        ${why ?? `Ctrl + Enter in the ${ofPictures ? "caption’s beginning" : "prompt"} does the same.`}
      </p>
    </div>
  `;
}

function outputsView(written: Written | undefined): TemplateResult {
  const writing = written?.status === "writing";
  // A live region has to be there before it speaks.
  return html`
    <div class="outputs" aria-live="polite" aria-busy=${writing ? "true" : "false"}>
      ${written ? html`${summary(written)} ${outputGrid(written)}` : nothing}
    </div>
  `;
}

function summary(written: Written): TemplateResult | typeof nothing {
  const { status, seconds, tokens, problem, notes, picture } = written;
  if (status === "writing") return nothing;
  if (status === "cancelled") return html`<p class="muted">Stopped; nothing was kept.</p>`;
  if (status === "failed" && problem) {
    return html`<div class="card-problem" role="alert">${icons.alert}${problemView(problem)}</div>`;
  }
  const pace = seconds > 0 ? ` · ${count(Math.round(tokens / seconds))} tokens a second` : "";
  return html`
    <p class="muted tabular">
      ${picture ? html`<span class="file-name">${picture.name}</span> · ` : nothing}${plural(tokens, "token")} in ${duration(seconds)}${pace}
    </p>
    ${notes.map((note) => html`<p class="hint">${note}</p>`)}
  `;
}

function outputGrid(written: Written): TemplateResult | typeof nothing {
  if (written.status === "cancelled" || written.status === "failed") return nothing;
  return html`
    <div class="output-grid">
      ${written.outputs.map((output, index) => outputView(written, output, index))}
    </div>
  `;
}

const ROLES: Record<Written["outputs"][number]["role"], string> = {
  base: "the model alone",
  adapter: "adapter",
  merged: "all adapters in one",
};

function outputView(
  { outputs }: Written,
  { name, role, text, finished }: Written["outputs"][number],
  index: number,
): TemplateResult {
  const same = echoes(outputs, index);
  const shown = text?.trim();
  return html`
    <section class="output ${role}" aria-labelledby="output-${index}">
      <h4 id="output-${index}">
        <span class="output-name">${name}</span> <span class="output-role">${ROLES[role]}</span></h4>
      ${
        shown === undefined
          ? html`<p class="output-text muted">…</p>`
          : shown === ""
            ? html`<p class="output-text muted">(nothing)</p>`
            : html`<p class="output-text">${shown}</p>`
      }
      ${text !== undefined && !finished ? html`<p class="hint">cut at the longest answer</p>` : nothing}
      ${same.length > 0 ? html`<p class="echo">${icons.check} same as ${list(same)}</p>` : nothing}
    </section>
  `;
}
