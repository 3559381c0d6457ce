/** The merge report for reading: where the time went, and what each layer's solve looked like. */
import { html, nothing, svg, type TemplateResult } from "lit-html";
import type { MergeReport } from "../lib/index.ts";
import { bytes, duration, layerName, number, percent, plural } from "./format.ts";
import { groupsOf, type Layer, type LayerGroup, outliersOf } from "./layer-rows.ts";
import type { Store } from "./state.ts";

/** The parts of a merge in their order; the place in this list is the part's colour. */
const PARTS = [
  ["load", "Reading"],
  ["forward", "Running"],
  ["gram", "Gram matrices"],
  ["solve", "Solving"],
  ["write", "Writing"],
  ["generate", "Adapters’ own answers"],
] as const;

export function timingView(report: MergeReport): TemplateResult {
  const seconds: Partial<Record<string, number>> = report.seconds;
  // Nothing is written first where models do not write.
  const parts = PARTS.flatMap(([key, label], color) => {
    const spent = seconds[key] ?? 0;
    return key === "generate" && spent === 0 ? [] : [{ label, color, spent }];
  });
  const total = parts.reduce((sum, { spent }) => sum + spent, 0);
  let x = 0;
  return html`
    <section class="panel" aria-labelledby="timing-heading">
      <h3 id="timing-heading">Where the time went</h3>
      <svg class="timing" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
        ${parts.map(({ color, spent }) => {
          const width = total > 0 ? (100 * spent) / total : 0;
          const bar = svg`<rect class="part-${color}" x=${x} y="0" width=${width} height="6"></rect>`;
          x += width;
          return bar;
        })}
      </svg>
      <dl class="facts timing-facts">
        ${parts.map(
          ({ label, color, spent }) => html`
            <div>
              <dt>
                <svg class="key" viewBox="0 0 10 10" width="10" height="10" aria-hidden="true">
                  ${svg`<rect class="part-${color}" width="10" height="10" rx="2"></rect>`}
                </svg>
                ${label}
              </dt>
              <dd class="tabular">${duration(spent)}</dd>
            </div>
          `,
        )}
        <div><dt>In all</dt><dd class="tabular">${duration(report.seconds.total)}</dd></div>
        ${
          report.peak_bytes > 0
            ? html`<div><dt>Most memory</dt><dd class="tabular">${bytes(report.peak_bytes)}</dd></div>`
            : nothing
        }
      </dl>
    </section>
  `;
}

/** Which columns the report has numbers for. */
interface Columns {
  truncated: boolean;
  solved: boolean;
  tasks: string[];
}

export function layersView(store: Store, report: MergeReport): TemplateResult {
  const columns: Columns = {
    tasks: report.adapters.map(({ name }) => name),
    solved: report.layers.some(({ tasks }) => tasks.some(({ lambda }) => lambda !== null)),
    truncated: report.layers.some((layer) => layer.energy_kept !== null || (layer.error ?? 0) > 0),
  };
  const { solved, truncated, tasks } = columns;
  const groups = groupsOf(report.layers, tasks);
  return html`
    <section class="panel" aria-labelledby="layers-heading">
      <h3 id="layers-heading">Every layer</h3>
      ${groups.length > 0 ? outliers(report) : nothing}
      <details>
        <summary>
          ${plural(report.layers.length, "module")}${groups.length > 0 ? ` of ${plural(groups.length, "kind")}` : ""}:
          rank${truncated ? ", energy and error of the cut" : ""}${solved ? ", condition, lambda and residual" : ""} of each
        </summary>
        <p class="hint">
          ${
            solved
              ? "Condition: of the regularised Gram matrix; above 10⁶ more samples would help. Lambda: the weight a task has in the layer. Residual: the share of its own adapter’s effect that is lost, on the calibration samples."
              : "Nothing was solved here: there is no condition number, lambda or residual."
          }
          ${
            truncated
              ? "Energy kept: the share of the change’s squared norm that the written rank has. Error: how far the written change is from the exact one, relative to it."
              : nothing
          }
          ${
            groups.length > 0
              ? `A kind’s row has ${truncated ? "the least energy and the largest error" : ""}${truncated && solved ? ", " : ""}${solved ? "the largest condition and the means of lambda and residual" : ""}${truncated || solved ? " of its layers, and " : ""}the time of all its layers.`
              : nothing
          }
        </p>
        <div class="scroll" role="region" aria-label="Numbers of every layer" tabindex="0">
          <table>
            <thead>
              <tr>
                <th scope="col" rowspan="2">Module</th>
                <th scope="col" rowspan="2">Rank</th>
                ${truncated ? html`<th scope="col" rowspan="2">Energy kept</th><th scope="col" rowspan="2">Error</th>` : nothing}
                ${solved ? html`<th scope="col" rowspan="2">Condition</th>` : nothing}
                <th scope="col" rowspan="2">Time</th>
                ${solved ? tasks.map((task) => html`<th scope="colgroup" class="group" colspan="2">${task}</th>`) : nothing}
              </tr>
              <tr>
                ${solved ? tasks.map(() => html`<th scope="col" class="group">λ</th><th scope="col">Residual</th>`) : nothing}
              </tr>
            </thead>
            <tbody>
              ${
                groups.length > 0
                  ? groups.map((group) => groupRows(store, group, columns))
                  : report.layers.map((layer) => layerRow(layer, columns))
              }
            </tbody>
          </table>
        </div>
      </details>
    </section>
  `;
}

function outliers({ layers }: MergeReport): TemplateResult {
  const found = outliersOf(layers);
  if (found.length === 0) return html`<p class="muted">No layer lost much more than the others.</p>`;
  return html`
    <p class="muted">What stands out, by what was lost:</p>
    <ul class="outliers">
      ${found.map(
        ({ layer, what, value }) => html`
          <li><span class="module">${layer.module}</span> <span class="tabular">${what} ${number(value)}, rank ${layer.rank}</span></li>
        `,
      )}
    </ul>
  `;
}

/** A kind's row, and when it is opened those of its layers: a thousand rows at once would hold the page up. */
function groupRows(store: Store, group: LayerGroup, columns: Columns): TemplateResult | TemplateResult[] {
  const { pattern, layers } = group;
  const [only] = layers;
  if (layers.length === 1 && only) return layerRow(only, columns);
  const open = store.state.openPatterns.includes(pattern);
  const toggle = (): void =>
    store.change((state) => {
      state.openPatterns = open
        ? state.openPatterns.filter((other) => other !== pattern)
        : [...state.openPatterns, pattern];
    });
  const numbers: Numbers = { ...group, rank: group.ranks, ofTask: (task) => group.tasks.get(task) };
  const head = html`
    <span class="kind-name">
      <button class="link module" type="button" aria-expanded=${open ? "true" : "false"} @click=${toggle}>${pattern}</button>
      <span class="muted">${plural(layers.length, "layer")}</span>
    </span>
  `;
  return [row(head, numbers, columns), ...(open ? layers.map((layer) => layerRow(layer, columns)) : [])];
}

const layerRow = (layer: Layer, columns: Columns): TemplateResult =>
  row(
    html`${layerName(layer.module)}`,
    {
      ...layer,
      energyKept: layer.energy_kept,
      ofTask: (task) => layer.tasks.find((entry) => entry.task === task),
    },
    columns,
  );

/** What stands in one row. */
interface Numbers {
  rank: number | string;
  energyKept: number | null;
  error: number | null;
  condition: number | null;
  seconds: number;
  ofTask(task: string): { lambda: number | null; residual: number | null } | undefined;
}

function row(
  head: TemplateResult,
  { rank, energyKept, error, condition, seconds, ofTask }: Numbers,
  { truncated, solved, tasks }: Columns,
): TemplateResult {
  return html`
    <tr>
      <th scope="row">${head}</th>
      <td>${rank}</td>
      ${truncated ? html`<td>${percent(energyKept)}</td><td>${number(error)}</td>` : nothing}
      ${solved ? html`<td>${number(condition)}</td>` : nothing}
      <td>${duration(seconds)}</td>
      ${
        solved
          ? tasks.map((task) => {
              const entry = ofTask(task);
              return html`<td class="group">${number(entry?.lambda)}</td><td>${number(entry?.residual)}</td>`;
            })
          : nothing
      }
    </tr>
  `;
}
