/**
 * The residual of every layer and task: one small chart a task, one column a module, a dot for each
 * merged adapter and a stem between the dots, so that the distance between methods is what one sees.
 *
 * Methods differ in colour and in shape (filled, hollow), because colour alone reaches not everybody.
 */
import { html, nothing, svg, type TemplateResult } from "lit-html";
import {
  BOTTOM,
  type ColumnKind,
  type ColumnMark,
  condensed,
  HEIGHT,
  LEFT,
  layout,
  type Panel,
  RIGHT,
  TOP,
  WIDTH,
} from "./chart-layout.ts";
import { layerName, layerPlace, number } from "./format.ts";
import type { Comparison } from "./state.ts";

/** What the module is inside its layer, for the caption: `query`, `output.dense`. */
const placeInLayer = (module: string): string =>
  (layerPlace(module)?.rest ?? module).replace(/^(self_attn|mlp|attention\.self)\./, "");

/** The modules of the layer that has most of them: a decoder's layer has all that an encoder's has, and more. */
function fullestLayer(modules: readonly string[]): string[] {
  const layers = new Map<string, string[]>();
  for (const module of modules) {
    const { side = "", layer = "" } = layerPlace(module) ?? {};
    const key = `${side} ${layer}`;
    layers.set(key, [...(layers.get(key) ?? []), module]);
  }
  return [...layers.values()].reduce((most, layer) => (layer.length > most.length ? layer : most), []);
}

/** What the bands' labels are of. */
function axisOf(modules: readonly string[]): string {
  const sides = new Set(modules.map((module) => layerPlace(module)?.side));
  if (sides.has("vision") && sides.has("text")) return "layers that read pictures (v) and texts (t)";
  if (sides.has("encoder") || sides.has("decoder")) return "layers of the encoder (e) and the decoder (d)";
  return "layer";
}

/** `order` is that of the model's own pass. */
export function chartView(comparison: Comparison, order: readonly string[]): TemplateResult | typeof nothing {
  const { residuals, columns } = condensed(comparison.residuals);
  const panels = layout(residuals, comparison.variants, order);
  if (panels.length === 0) return nothing;
  const modules = (panels[0]?.columns ?? []).map(({ module }) => module);
  const inLayer = fullestLayer(modules).map(placeInLayer);
  const axis = columns === "kind" ? "kinds of modules" : axisOf(modules);
  return html`
    <section class="panel" aria-labelledby="chart-heading">
      <h3 id="chart-heading">What merging loses, layer by layer</h3>
      <p class="muted">
        The share of what an adapter does at a layer that the merged one does not do: 0 is nothing lost, 1 as much
        as leaving the adapter out. ${explained(columns, inLayer)}
      </p>
      <ul class="legend">
        ${comparison.variants.map(
          (variant, index) => html`
            <li>
              <svg class="key" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">
                ${svg`<circle class="dot ${series(index)}" cx="7" cy="7" r="4.5"></circle>`}
              </svg>
              ${variant}
            </li>
          `,
        )}
      </ul>
      <div class="charts">${panels.map((panel, index) => panelView(panel, index, comparison.variants, axis))}</div>
      ${residualTable(panels, comparison.variants)}
    </section>
  `;
}

function explained(columns: ColumnKind, inLayer: readonly string[]): string {
  switch (columns) {
    case "module":
      return `In each layer, from left to right: ${inLayer.join(", ")}.`;
    case "layer":
      return "There are too many modules for a column each: a column is the mean of a layer’s modules.";
    case "kind":
      return "There are too many modules for a column each: a column is the mean of the modules of one kind.";
  }
}

/** The first variant is the one that was asked for, the second what it is compared with. */
const series = (index: number): string => (index === 0 ? "asked" : "other");

function panelView(panel: Panel, index: number, variants: readonly string[], axis: string): TemplateResult {
  const bottom = HEIGHT - BOTTOM;
  const radius = Math.max(1.6, Math.min(4.5, panel.columnWidth * 0.34));
  return html`
    <figure>
      <figcaption>${panel.task}</figcaption>
      <svg
        class="chart" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img"
        aria-labelledby="chart-title-${index} chart-desc-${index}"
      >
        ${svg`
          <title id="chart-title-${index}">Residual per layer, task ${panel.task}</title>
          <desc id="chart-desc-${index}">${describePanel(panel, variants)}</desc>
          ${panel.bands.map((band, number) =>
            number % 2 === 1
              ? svg`<rect class="band" x=${band.x} y=${TOP} width=${band.width} height=${bottom - TOP}></rect>`
              : nothing,
          )}
          ${panel.ticks.map(
            ({ value, y }) => svg`
              <line class="grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y} y2=${y}></line>
              <text class="tick" x=${LEFT - 6} y=${y + 3.5} text-anchor="end">${value}</text>
            `,
          )}
          ${labelledBands(panel.bands).map(
            (band) => svg`
              <text class="tick" x=${band.x + band.width / 2} y=${bottom + 14} text-anchor="middle">${band.label}</text>
            `,
          )}
          <text class="tick" x=${(LEFT + WIDTH - RIGHT) / 2} y=${HEIGHT - 4} text-anchor="middle">${axis}</text>
          ${panel.columns.map((column) => columnView(column, panel.columnWidth, radius, variants, bottom))}
        `}
      </svg>
    </figure>
  `;
}

/** At most about sixteen labels have room. */
function labelledBands(bands: Panel["bands"]): Panel["bands"] {
  const every = Math.ceil(bands.length / 16);
  return bands.filter((_, index) => index % every === 0);
}

function columnView(
  column: ColumnMark,
  width: number,
  radius: number,
  variants: readonly string[],
  bottom: number,
): TemplateResult {
  const ys = column.points.map(({ y }) => y);
  const tooltip = [
    layerName(column.module),
    ...column.points.map(({ variant, value }) => `${variant}: ${number(value)}`),
  ].join("\n");
  return svg`
    <g class="column">
      <title>${tooltip}</title>
      <rect class="hit" x=${column.x - width / 2} y=${TOP} width=${width} height=${bottom - TOP}></rect>
      ${
        ys.length > 1
          ? svg`<line class="stem" x1=${column.x} x2=${column.x} y1=${Math.min(...ys)} y2=${Math.max(...ys)}></line>`
          : nothing
      }
      ${[...column.points]
        .reverse()
        .map(
          ({ variant, y }) =>
            svg`<circle class="dot ${series(variants.indexOf(variant))}" cx=${column.x} cy=${y} r=${radius}></circle>`,
        )}
    </g>
  ` as unknown as TemplateResult;
}

function describePanel(panel: Panel, variants: readonly string[]): string {
  const means = variants.flatMap((variant) => {
    const values = panel.columns.flatMap(({ points }) =>
      points.filter((point) => point.variant === variant).map(({ value }) => value),
    );
    if (values.length === 0) return [];
    return [`${variant} ${number(values.reduce((sum, value) => sum + value, 0) / values.length)}`];
  });
  return `Mean over ${panel.columns.length} modules: ${means.join(", ")}. The table below holds every number.`;
}

function residualTable(panels: readonly Panel[], variants: readonly string[]): TemplateResult {
  const modules = panels[0]?.columns.map(({ module }) => module) ?? [];
  return html`
    <details>
      <summary>The same numbers as a table</summary>
      <div class="scroll" role="region" aria-label="Residual per layer and task" tabindex="0">
        <table>
          <thead>
            <tr>
              <th scope="col" rowspan="2">Module</th>
              ${panels.map((panel) => html`<th scope="colgroup" class="group" colspan=${variants.length}>${panel.task}</th>`)}
            </tr>
            <tr>${panels.map(() => variants.map((variant, index) => html`<th scope="col" class=${index === 0 ? "group" : ""}>${variant}</th>`))}</tr>
          </thead>
          <tbody>
            ${modules.map(
              (module, row) => html`
                <tr>
                  <th scope="row">${layerName(module)}</th>
                  ${panels.map((panel) =>
                    variants.map((variant, index) => {
                      const point = panel.columns[row]?.points.find((entry) => entry.variant === variant);
                      return html`<td class=${index === 0 ? "group" : ""}>${number(point?.value)}</td>`;
                    }),
                  )}
                </tr>
              `,
            )}
          </tbody>
        </table>
      </div>
    </details>
  `;
}
