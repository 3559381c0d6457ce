/** A button for each built-in example, which says what it will show. */
import { html, type TemplateResult } from "lit-html";
import { runExample } from "./example.ts";
import * as icons from "./icons.ts";
import type { ExampleName, Store } from "./state.ts";

const EXAMPLES: readonly { name: ExampleName; title: string; shows: string }[] = [
  {
    name: "writers",
    title: "Example: a language model",
    shows: "Three adapters that rewrite sentences, and what they and the merged one write",
  },
  {
    name: "classifiers",
    title: "Example: a text classifier",
    shows: "Three adapters of a BERT that sort texts, each in its own way",
  },
  {
    name: "pictures",
    title: "Example: pictures",
    shows: "Two adapters that say what is on drawings, each in its own manner",
  },
];

export function exampleButtons(store: Store): TemplateResult {
  const { loading, work } = store.state;
  const busy = loading !== undefined || work !== undefined;
  return html`
    ${EXAMPLES.map(
      ({ name, title, shows }) => html`
        <button
          class="example" type="button" aria-disabled=${busy ? "true" : "false"}
          @click=${() => runExample(store, name)}
        >
          <span class="example-icon">${icons.play}</span>
          <span class="example-text">
            <span class="example-title">${loading === name ? "Loading the example …" : title}</span>
            <span class="example-shows">${shows}</span>
          </span>
        </button>
      `,
    )}
  `;
}
