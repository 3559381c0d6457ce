/**
 * The methods to choose from: one to merge with, or several to compare. What a method does, and the options that
 * it alone looks at, stand below.
 *
 * Everything comes from the library's one table of methods, so a method that is added there is here too.
 */
import { html, nothing, type TemplateResult } from "lit-html";
import { live } from "lit-html/directives/live.js";
import { METHODS, type MethodFacts, type MethodName } from "../lib/index.ts";
import { list, plural } from "./format.ts";
import * as icons from "./icons.ts";
import { methodFields } from "./method-fields.ts";
import { methodTitle } from "./settings.ts";
import { askedMethods, type Store } from "./state.ts";

/** How the titles of methods that end in a cut are told, where a group says it for all. */
const CUT = ", cut by SVD";

const cuts = ({ title }: MethodFacts): boolean => title.endsWith(CUT);

interface MethodGroup {
  id: string;
  title: string;
  methods: readonly MethodFacts[];
}

export const METHOD_GROUPS: readonly MethodGroup[] = [
  { id: "samples", title: "Looks at samples", methods: METHODS.filter(({ samples }) => samples) },
  {
    id: "free",
    title: "Needs no samples",
    methods: METHODS.filter((method) => !method.samples && !cuts(method)),
  },
  {
    id: "cut",
    title: "The same, cut to a smaller rank by SVD",
    methods: METHODS.filter((method) => !method.samples && cuts(method)),
  },
];

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
  const words = title.endsWith(CUT)
    ? html`${title.slice(0, -CUT.length)}<span class="sr-only">${CUT}</span>`
    : title;
  const input = several
    ? html`<input type="checkbox" .checked=${live(ticked.includes(name))} @change=${() => toggle(store, name)} />`
    : html`
      <input
        type="radio" name="method" value=${name} .checked=${live(settings.method === name)}
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
    if (state.survey) state.survey.stale = true;
  });
}

/** The one method in words, or which ones are ticked; then the options that belong to them. */
function about(store: Store): TemplateResult {
  const { several, settings } = store.state;
  const asked = askedMethods(store.state);
  const facts = METHODS.find(({ name }) => name === settings.method);
  const fields = methodFields(store, asked);
  return html`
    <div class="method-about">
      ${
        several
          ? html`<p><strong>${plural(asked.length, "method")}</strong>${
              asked.length > 0 ? html`: ${list(asked.map(methodTitle))}` : nothing
            }</p>`
          : html`<p><strong>${facts?.title}</strong>. ${facts?.hint}</p>`
      }
      ${several && fields.length > 0 ? html`<p class="hint">${icons.info} These options count for all that have them.</p>` : nothing}
      ${fields.length > 0 ? html`<div class="method-fields">${fields}</div>` : nothing}
    </div>
  `;
}
