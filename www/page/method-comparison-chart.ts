/**
 * A method comparison as bars: a panel for each measure, a bar for each method, in the same order everywhere, so that the eye
 * follows a method from panel to panel.
 *
 * Every number stands in words beside its bar: length and colour add to it and replace nothing.
 */
import { html, nothing, svg, type TemplateResult } from "lit-html";
import { ticksTo } from "./chart-layout.ts";
import { percent } from "./format.ts";
import {
  lessIsBetter,
  type Measure,
  type MethodComparisonTable,
  written,
} from "./method-comparison-table.ts";

const WIDTH = 264;
const ROW = 38;
const BAR_TOP = 22;
const BAR_HEIGHT = 8;

const TITLES: Readonly<Record<Measure, string>> = {
  accuracy: "Right answers, %",
  agreement: "Agreement, %",
  cosine: "Likeness of features, %",
  residual: "Mean residual",
  seconds: "Time",
};

export function methodComparisonChart(table: MethodComparisonTable): TemplateResult | typeof nothing {
  if (table.measures.length === 0) return nothing;
  return html`
    <section class="panel" aria-labelledby="method-comparison-chart-heading">
      <h3 id="method-comparison-chart-heading">Side by side</h3>
      <div class="bar-panels">${table.measures.map((measure) => panel(table, measure))}</div>
    </section>
  `;
}

function panel(table: MethodComparisonTable, measure: Measure): TemplateResult {
  const bars = table.rows.flatMap(({ entry, values }) => {
    const found = values[measure];
    return found && found.value !== null ? [{ name: entry.name, value: found.value, best: found.best }] : [];
  });
  const shares = measure !== "residual" && measure !== "seconds";
  const top = shares ? 1 : (ticksTo(Math.max(...bars.map(({ value }) => value))).at(-1) ?? 1);
  const length = (value: number): number => Math.max(0, Math.min(1, value / top)) * WIDTH;
  const height = bars.length * ROW;
  const marks = shares ? [table.base[measure], table.own[measure]] : [];
  const described = bars.map(({ name, value }) => `${name} ${written(measure, value)}`).join(", ");
  return html`
    <figure class="bar-panel">
      <figcaption>${TITLES[measure]}<span class="hint">${caption(table, measure)}</span></figcaption>
      <svg
        class="bars" viewBox="0 0 ${WIDTH} ${height}" role="img"
        aria-labelledby="bars-title-${measure} bars-desc-${measure}"
      >
        ${svg`
          <title id="bars-title-${measure}">${TITLES[measure]} of each method</title>
          <desc id="bars-desc-${measure}">${described}</desc>
          ${bars.map(
            ({ name, value, best }, index) => svg`
              <g transform="translate(0 ${index * ROW})" class=${best ? "best" : ""}>
                <text class="bar-name" x="0" y="15">${name}</text>
                <text class="bar-value" x=${WIDTH} y="15" text-anchor="end">${written(measure, value)}</text>
                <rect class="bar-track" x="0" y=${BAR_TOP} width=${WIDTH} height=${BAR_HEIGHT} rx="4"></rect>
                <rect class="bar" x="0" y=${BAR_TOP} width=${length(value)} height=${BAR_HEIGHT} rx=${Math.min(4, length(value) / 2)}></rect>
                ${marks.map((mark) =>
                  mark === null || mark === undefined
                    ? nothing
                    : svg`<line class="bar-mark" x1=${clamp(length(mark))} x2=${clamp(length(mark))} y1=${BAR_TOP - 3} y2=${BAR_TOP + BAR_HEIGHT + 3}></line>`,
                )}
              </g>
            `,
          )}
        `}
      </svg>
    </figure>
  `;
}

/** A line at the very edge would be drawn by half. */
const clamp = (x: number): number => Math.max(0.75, Math.min(WIDTH - 0.75, x));

function caption({ base, own }: MethodComparisonTable, measure: Measure): string {
  if (measure === "seconds") return "of the merge alone";
  if (lessIsBetter(measure)) return "less is better";
  const known = [
    ["base", base[measure]],
    ["own adapters", own[measure]],
  ] as const;
  return known
    .flatMap(([who, share]) => (share === null || share === undefined ? [] : [`${who} ${percent(share)}`]))
    .map((text, index) => (index === 0 ? `lines: ${text}` : text))
    .join(", ");
}
