/**
 * The methods to choose from: one to merge with, or several to compare. What a method does, and the options that
 * it alone looks at, stand below.
 *
 * Everything comes from the library's one table of methods, so a method that is added there is here too.
 */
import { html, nothing, type TemplateResult } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { METHODS, type MethodFacts, type MethodName } from "../lib/index.ts";
import { methodFields } from "./method-fields.ts";
import { CUT, METHOD_GROUPS, type MethodGroup } from "./method-groups.ts";
import { askedMethods, type Store } from "./state.ts";

export function methodPicker(store: Store): TemplateResult {
  const { several } = store.state;
  return html`
    ${modeSwitch(store)}
    <fieldset class="method-groups">
      <legend class="sr-only">${several ? "Methods to compare" : "Method"}</legend>
      ${METHOD_GROUPS.map((group) => groupView(store, group))}
    </fieldset>
    ${about(store)}
  `;
}

function modeSwitch(store: Store): TemplateResult {
  const option = (several: boolean, label: string): TemplateResult => html`
    <label class="segment">
      <input
        type="radio" name="several" .checked=${live(store.state.several === several)}
        @change=${() =>
          store.change((state) => {
            state.several = several;
          })}
      />
      <span>${label}</span>
    </label>
  `;
  return html`
    <fieldset class="segments">
      <legend class="sr-only">What to do</legend>
      ${option(false, "One method")} ${option(true, "Compare several")}
    </fieldset>
  `;
}

function groupView(store: Store, { id, title, methods }: MethodGroup): TemplateResult {
  return html`
    <div class="method-group" role="group" aria-labelledby="methods-${id}">
      <p class="group-title" id="methods-${id}">${title}</p>
      <div class="method-chips">${methods.map((method) => chip(store, method))}</div>
    </div>
  `;
}

function chip(store: Store, { name, title, hint }: MethodFacts): TemplateResult {
  const { several, ticked, settings } = store.state;
  // A group of cuts says for all of them that they are; each still has its own name.
  const words = title.endsWith(CUT) ? title.slice(0, -CUT.length) : title;
  const input = several
    ? html`<input type="checkbox" aria-label=${title} .checked=${live(ticked.includes(name))} @change=${() => toggle(store, name)} />`
    : html`
      <input
        type="radio" name="method" value=${name} aria-label=${title} .checked=${live(settings.method === name)}
        @change=${() => pick(store, name)}
      />
    `;
  return html`<label class="method-chip" title=${hint}>${input}<span>${words}</span></label>`;
}

/** What was compared is still what it was. */
function pick(store: Store, method: MethodName): void {
  store.change((state) => {
    state.settings.method = method;
    if (state.result) state.result.stale = true;
  });
}

function toggle(store: Store, name: MethodName): void {
  store.change((state) => {
    const ticked = new Set(state.ticked);
    if (!ticked.delete(name)) ticked.add(name);
    // In the order of the table, however they were ticked.
    state.ticked = METHODS.flatMap((method) => (ticked.has(method.name) ? [method.name] : []));
    if (state.methodComparison) state.methodComparison.stale = true;
  });
}

/** The one method in words, then the options that belong to it, or to those that are ticked. */
function about(store: Store): TemplateResult | typeof nothing {
  const { several, settings } = store.state;
  const fields = methodFields(store, askedMethods(store.state));
  if (several && fields.length === 0) return nothing;
  const facts = METHODS.find(({ name }) => name === settings.method);
  return html`
    <div class="method-about">
      ${
        several
          ? html`<p>Options of those that have them:</p>`
          : html`<p><strong>${facts?.title}.</strong> ${facts?.hint}</p>`
      }
      ${fields.length > 0 ? html`<div class="method-fields">${fields}</div>` : nothing}
    </div>
  `;
}
