/** Messages, each beside what it is about: what was taken, what went wrong and what to do about it. */
import { html, nothing, type TemplateResult } from "lit-html";
import { repeat } from "lit-html/directives/repeat.js";
import * as icons from "./icons.ts";
import { type Problem, remedyOf } from "./problem.ts";
import type { Notice, Place, Store } from "./state.ts";

export function notices(store: Store, place: Place): TemplateResult {
  return html`
    <div class="notices" aria-live="polite" aria-relevant="additions">
      ${repeat(
        store.state.notices.filter((notice) => notice.place === place),
        (notice) => notice.id,
        (notice) => noticeView(store, notice),
      )}
    </div>
  `;
}

function noticeView(store: Store, notice: Notice): TemplateResult {
  const error = notice.tone === "error";
  return html`
    <div class="notice ${notice.tone}" role=${error ? "alert" : nothing}>
      ${error ? icons.alert : icons.info}
      <div class="notice-text">
        <p>${error ? html`<strong>${notice.text}</strong>` : notice.text}</p>
        ${notice.problem ? problemView(notice.problem) : nothing}
        ${notice.action ? actionButton(store, notice.id, notice.action) : nothing}
        ${
          notice.details?.length
            ? html`
              <details>
                <summary>Which files</summary>
                <ul class="paths">
                  ${notice.details.slice(0, 50).map((path) => html`<li>${path}</li>`)}
                  ${notice.details.length > 50 ? html`<li>and ${notice.details.length - 50} more</li>` : nothing}
                </ul>
              </details>
            `
            : nothing
        }
      </div>
      <button class="quiet icon-only" type="button" @click=${() => store.dismiss(notice.id)}>
        ${icons.cross}<span class="sr-only">Dismiss this message</span>
      </button>
    </div>
  `;
}

function actionButton(store: Store, id: number, action: NonNullable<Notice["action"]>): TemplateResult {
  const press = (): void => {
    store.dismiss(id);
    action.run();
  };
  return html`<div><button class="secondary" type="button" @click=${press}>${action.label}</button></div>`;
}

/** A failure: its message, what to do, and the code that a search or a bug report can use. */
export function problemView(problem: Problem): TemplateResult {
  return html`
    <div class="problem">
      <p class="problem-message">${problem.message}</p>
      <p>${remedyOf(problem)} <code class="code">${problem.code}</code></p>
    </div>
  `;
}
