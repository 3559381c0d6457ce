/** The merge report for reading: where the time went, and what each layer's solve looked like. */
import { html, nothing, svg, type TemplateResult } from "lit-html";
import type { MergeReport } from "../lib/index.ts";
import { bytes, duration, layerName, number, percent } from "./format.ts";

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

export function layersView(report: MergeReport): TemplateResult {
  const tasks = report.adapters.map(({ name }) => name);
  const solved = report.layers.some(({ tasks: entries }) => entries.some(({ lambda }) => lambda !== null));
  const truncated = report.layers.some((layer) => layer.energy_kept !== null || (layer.error ?? 0) > 0);
  return html`
    <section class="panel" aria-labelledby="layers-heading">
      <h3 id="layers-heading">Every layer</h3>
      <details>
        <summary>
          ${report.layers.length} modules: rank${truncated ? ", energy and error of the cut" : ""}${solved ? ", condition, lambda and residual" : ""} of each
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
              ${report.layers.map(
                (layer) => html`
                  <tr>
                    <th scope="row">${layerName(layer.module)}</th>
                    <td>${layer.rank}</td>
                    ${truncated ? html`<td>${percent(layer.energy_kept)}</td><td>${number(layer.error)}</td>` : nothing}
                    ${solved ? html`<td>${number(layer.condition)}</td>` : nothing}
                    <td>${duration(layer.seconds)}</td>
                    ${
                      solved
                        ? tasks.map((task) => {
                            const entry = layer.tasks.find((other) => other.task === task);
                            return html`<td class="group">${number(entry?.lambda)}</td><td>${number(entry?.residual)}</td>`;
                          })
                        : nothing
                    }
                  </tr>
                `,
              )}
            </tbody>
          </table>
        </div>
      </details>
    </section>
  `;
}
