/** Pieces that several views share: file pickers, lists of facts, and things that are still being read. */
import { html, type TemplateResult } from "lit-html";
import { filesOfInput } from "./dropzone.ts";
import * as icons from "./icons.ts";
import { type Target, take } from "./intake.ts";
import { problemView } from "./notices.ts";
import type { Loadable, Store } from "./state.ts";

/** Opens the input that comes after the button. */
function openNext(event: Event): void {
  const input = (event.currentTarget as HTMLElement).nextElementSibling;
  if (input instanceof HTMLInputElement) input.click();
}

function takePicked(store: Store, target: Target, event: Event): void {
  const input = event.currentTarget as HTMLInputElement;
  const files = filesOfInput(input);
  // Emptied, so that choosing the same files again is noticed and told.
  input.value = "";
  if (files.length > 0) void take(store, files, target);
}

/** A button for those who do not drag; the input it opens is out of sight and out of the tab order. */
export function picker(
  store: Store,
  target: Target,
  {
    folder,
    label,
    of,
    multiple = target.zone !== "text",
  }: { folder: boolean; label: string; of: string; multiple?: boolean },
): TemplateResult {
  return html`
    <button class="secondary" type="button" @click=${openNext}>
      ${folder ? icons.folder : icons.document} ${label}<span class="sr-only"> for ${of}</span>
    </button>
    <input
      type="file" hidden ?multiple=${!folder && multiple} tabindex="-1" aria-hidden="true"
      ?webkitdirectory=${folder}
      @change=${(event: Event) => takePicked(store, target, event)}
    />
  `;
}

/** A button that opens a picker for one file of a kind. */
export function filePicker(
  store: Store,
  target: Target,
  { label, of, accept, quiet }: { label: string; of: string; accept: string; quiet: boolean },
): TemplateResult {
  return html`
    <button class=${quiet ? "secondary small" : "secondary"} type="button" @click=${openNext}>
      ${icons.document} ${label}<span class="sr-only"> for ${of}</span>
    </button>
    <input
      type="file" hidden accept=${accept} tabindex="-1" aria-hidden="true"
      @change=${(event: Event) => takePicked(store, target, event)}
    />
  `;
}

export function loadable<T>(value: Loadable<T>, view: (value: T) => TemplateResult): TemplateResult {
  if (value.status === "reading") return html`<p class="muted reading">Reading …</p>`;
  if (value.status === "failed") {
    return html`<div class="card-problem" role="alert">${icons.alert}${problemView(value.problem)}</div>`;
  }
  return view(value.value);
}

export const factList = (
  facts: readonly (readonly [string, string | TemplateResult])[],
): TemplateResult => html`
  <dl class="facts">
    ${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>
`;
