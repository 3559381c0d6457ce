/** What a merge gave: the headline numbers, the files to save, the comparison, the layers. */
import { html, nothing, type TemplateResult } from "lit-html";
import { calibrationView } from "./calibration.ts";
import { chartView } from "./chart.ts";
import { comparisonView } from "./comparison.ts";
import { columnsOf, tableOf } from "./comparison-table.ts";
import { count, duration, list, percent } from "./format.ts";
import * as icons from "./icons.ts";
import { layersView, timingView } from "./layers.ts";
import { playgroundPanel } from "./playground-panel.ts";
import type { Repetition } from "./recipe-match.ts";
import { saidView } from "./said.ts";
import { savePanel } from "./save.ts";
import { methodTitle } from "./settings.ts";
import { baseFacts, type Result, type State, type Store } from "./state.ts";

export function resultView(store: Store, result: Result): TemplateResult {
  const { report, comparison } = result;
  const ranks = [...new Set(report.layers.map(({ rank }) => rank))].sort((a, b) => a - b);
  return html`
    <section class="result" aria-labelledby="result-heading">
      <header class="result-head">
        <h2 id="result-heading" tabindex="-1">${result.title}</h2>
        <p class="muted">
          ${list(report.adapters.map(({ name }) => name))} · ${methodTitle(result.method)} · on the
          ${report.device === "webgpu" ? "GPU" : "CPU"}
        </p>
        ${
          result.stale
            ? html`<p class="stale">${icons.info} Inputs or options have changed since this merge.</p>`
            : nothing
        }
        ${result.repetition ? repetitionView(result.repetition) : nothing}
      </header>
      <dl class="tiles">
        ${headline(result)}
        ${tile("Rank", ranks.length > 1 ? `${ranks[0]}–${ranks.at(-1)}` : String(ranks[0] ?? "–"))}
        ${tile("Modules merged", count(report.layers.length))} ${tile("Time", duration(report.seconds.total))}
      </dl>
      ${report.notes.map((note) => html`<p class="note">${icons.info} <span>${note}</span></p>`)}
      ${savePanel(store, result)}
      ${
        comparison
          ? comparisonView(store, comparison)
          : html`<p class="muted">${withoutComparison(store.state)}</p>`
      }
      ${comparison ? saidView(comparison) : nothing}
      ${result.models ? playgroundPanel(store, result.models) : nothing}
      ${
        comparison
          ? chartView(
              comparison,
              report.layers.map(({ module }) => module),
            )
          : nothing
      } ${calibrationView(report, comparison?.pictures || result.models?.ofPictures ? "pictures" : "texts")} ${timingView(report)} ${layersView(store, report)}
    </section>
  `;
}

const repetitionView = ({ same, text }: Repetition): TemplateResult => html`
  <p class="repetition ${same ? "same" : ""}">${same ? icons.check : icons.info} ${text}</p>
`;

/** Why nothing tells how well the result does. */
function withoutComparison(state: State): string {
  const facts = baseFacts(state);
  return !facts || facts.kind === "weights"
    ? "How well it does its tasks can be measured where the base model can be run: a language model or an encoder with its configuration."
    : facts.picture
      ? "Give each adapter samples or held-out pictures to see how well the result does its tasks."
      : "Give each adapter samples or held-out texts to see how well the result does its tasks.";
}

const tile = (name: string, value: string, note?: string): TemplateResult => html`
  <div class="tile">
    <dt>${name}</dt>
    <dd><span class="tile-value">${value}</span>${note ? html` <span class="tile-note">${note}</span>` : nothing}</dd>
  </div>
`;

/** The one number people came for: how often the merged adapter answers as the adapters themselves do. */
function headline({ comparison }: Result): TemplateResult | typeof nothing {
  if (!comparison || comparison.waiting.length > 0) return nothing;
  const agreement = tableOf(comparison).find(({ metric }) => metric === "agreement");
  const row = agreement?.mean ?? agreement?.rows[0];
  if (!row) return nothing;
  const columns = columnsOf(comparison);
  const of = (variant: string | undefined) =>
    row.cells[columns.findIndex((column) => column.variant === variant)]?.value;
  const [asked, other] = comparison.variants;
  return tile(
    "Answers kept",
    percent(of(asked)),
    other === undefined ? undefined : `${other.toLowerCase()}: ${percent(of(other))}`,
  );
}
