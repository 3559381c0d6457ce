/** What a merge gave: the headline numbers, the files to save, the comparison, the layers. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { OutputFile } from "../lib/index.ts";
import { calibrationView } from "./calibration.ts";
import { chartView } from "./chart.ts";
import { comparisonView } from "./comparison.ts";
import { columnsOf, tableOf } from "./comparison-table.ts";
import { canPickFolder, saveBlob, saveToFolder, totalBytes, ZIP_LIMIT_BYTES, zip } from "./download.ts";
import { bytes, count, duration, list, percent } from "./format.ts";
import * as icons from "./icons.ts";
import { layersView, timingView } from "./layers.ts";
import { notices } from "./notices.ts";
import { describe } from "./problem.ts";
import { METHOD_NAMES } from "./settings.ts";
import type { Result, Store } from "./state.ts";
import { tryPanel } from "./try-panel.ts";

export function resultView(store: Store, result: Result): TemplateResult {
  const { report, comparison } = result;
  const ranks = [...new Set(report.layers.map(({ rank }) => rank))].sort((a, b) => a - b);
  return html`
    <section class="result" aria-labelledby="result-heading">
      <header class="result-head">
        <h2 id="result-heading" tabindex="-1">${result.title}</h2>
        <p class="muted">
          ${list(report.adapters.map(({ name }) => name))} · ${METHOD_NAMES[result.method]} · on the
          ${report.device === "webgpu" ? "GPU" : "CPU"}
        </p>
        ${
          result.stale
            ? html`<p class="stale">${icons.info} Inputs or options have changed since this merge.</p>`
            : nothing
        }
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
          : html`
            <p class="muted">Give each adapter samples or held-out texts to see how well the result does its tasks.</p>
          `
      }
      ${result.cast ? tryPanel(store, result.cast) : nothing}
      ${
        comparison
          ? chartView(
              comparison,
              report.layers.map(({ module }) => module),
            )
          : nothing
      } ${calibrationView(report)} ${timingView(report)} ${layersView(report)}
    </section>
  `;
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

function savePanel(store: Store, { files, output }: Result): TemplateResult {
  const name = output === "adapter" ? "merged-adapter" : "merged-model";
  const attempt = (work: () => Promise<string | undefined>) => async (): Promise<void> => {
    try {
      const done = await work();
      if (done) store.notify({ place: "save", tone: "info", text: done });
    } catch (thrown) {
      store.notify({
        place: "save",
        tone: "error",
        text: "The files could not be saved.",
        problem: describe(thrown),
      });
    }
  };
  const saveZip = attempt(async () => {
    saveBlob(await zip(files, name), `${name}.zip`);
    return undefined;
  });
  const scope = window;
  const saveFolder = canPickFolder(scope)
    ? attempt(async () => {
        const folder = await saveToFolder(scope, files, name);
        return folder === undefined ? undefined : `Saved as ${name} in ${folder}.`;
      })
    : undefined;
  return html`
    <section class="panel" aria-labelledby="save-heading">
      <div class="save-head">
        <h3 id="save-heading">Save it</h3>
        <div class="save-buttons">
          ${
            totalBytes(files) <= ZIP_LIMIT_BYTES
              ? html`
                <button class="primary" type="button" @click=${saveZip}>
                  ${icons.save} Download ${output === "adapter" ? "adapter" : "model"} (.zip, ${bytes(totalBytes(files))})
                </button>
              `
              : nothing
          }
          ${
            saveFolder
              ? html`
                <button class="secondary" type="button" @click=${saveFolder}>${icons.folder} Save to a folder</button>
              `
              : nothing
          }
        </div>
      </div>
      <details>
        <summary>Single files</summary>
        <ul class="files">${files.map(fileRow)}</ul>
      </details>
      ${notices(store, "save")}
    </section>
  `;
}

const fileRow = ({ name, blob }: OutputFile): TemplateResult => html`
  <li>
    <button class="link" type="button" @click=${() => saveBlob(blob, name.slice(name.lastIndexOf("/") + 1))}>
      ${name}<span class="sr-only">, download</span>
    </button>
    <span class="muted tabular">${bytes(blob.size)}</span>
  </li>
`;
