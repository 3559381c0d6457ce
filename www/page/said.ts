/**
 * What base, own adapter and merged adapters say of single pictures: a card for each picture, with captions or the likeliest
 * classes below each other, and which of them say what the own adapter says.
 *
 * What a model writes is put on the page as text, never as markup.
 */
import { html, nothing, svg, type TemplateResult } from "lit-html";
import { type CompareReport, type PictureFacts, type SaidOfPicture, saysTheSame } from "../lib/index.ts";
import { type Column, columnsOf } from "./comparison-table.ts";
import { list, percent, plural } from "./format.ts";
import * as icons from "./icons.ts";
import { thumbnail } from "./pictures.ts";
import type { Comparison, Text } from "./state.ts";

/** Cards that are in view; the others are there on request. */
const IN_VIEW = 6;
/** Classes of one variant. */
const MOST_CLASSES = 3;

type Task = CompareReport["tasks"][number];

/** Nothing where the comparison is one on texts. */
export function saidView(
  comparison: Pick<Comparison, "tasks" | "variants" | "pictures">,
): TemplateResult | typeof nothing {
  const tasks = comparison.tasks.filter(({ said = [] }) => said.length > 0);
  if (tasks.length === 0) return nothing;
  const columns = columnsOf(comparison);
  return html`
    <section class="panel" aria-labelledby="said-heading">
      <h3 id="said-heading">What they say of the pictures</h3>
      ${tasks.map((task) => taskView(task, columns, picturesOf(comparison.pictures?.get(task.task))))}
    </section>
  `;
}

/** By name. */
function picturesOf(text: Text | undefined): ReadonlyMap<string, PictureFacts> {
  const pictures = text?.facts.status === "ready" ? (text.facts.value.pictures ?? []) : [];
  return new Map(pictures.map((picture) => [picture.name, picture]));
}

function taskView(
  { task, said = [] }: Task,
  columns: readonly Column[],
  pictures: ReadonlyMap<string, PictureFacts>,
): TemplateResult {
  const card = (one: SaidOfPicture): TemplateResult => cardView(one, columns, pictures.get(one.picture));
  const rest = said.slice(IN_VIEW);
  return html`
    <div class="said-task">
    <h4>${task}</h4>
    <p class="muted">${agreement(said, columns)}</p>
    <ul class="said-cards">${said.slice(0, IN_VIEW).map(card)}</ul>
    ${
      rest.length > 0
        ? html`
          <details>
            <summary>${plural(rest.length, "more picture")}</summary>
            <ul class="said-cards">${rest.map(card)}</ul>
          </details>
        `
        : nothing
    }
    </div>
  `;
}

/** `IterIS agrees with the task’s own adapter on 7 of 8 pictures, Linear average on 3, Base on 1.` */
export function agreement(said: readonly SaidOfPicture[], columns: readonly Column[]): string {
  const counted = columns
    .filter(({ variant }) => variant !== "adapter")
    .map(({ variant, label }) => ({
      label,
      same: said.filter((picture) => saysTheSame(picture, variant)).length,
    }))
    .reverse();
  const [first, ...others] = counted;
  if (!first) return "";
  const pictures = `${first.same} of ${plural(said.length, "picture")}`;
  const rest = others.map(({ label, same }) => `${label} on ${same}`);
  return `${first.label} agrees with the task’s own adapter on ${pictures}${rest.length > 0 ? `; ${list(rest)}` : ""}.`;
}

function cardView(
  said: SaidOfPicture,
  columns: readonly Column[],
  picture: PictureFacts | undefined,
): TemplateResult {
  const known = said.caption ?? (said.label === undefined ? undefined : String(said.label));
  return html`
    <li class="said-card">
      <div class="said-head">
        ${thumbnail(picture ?? { name: said.picture }, `Picture ${said.picture}`)}
        <p>
          <span class="file-name">${said.picture}</span>
          ${known === undefined ? nothing : html`<span class="hint">${said.caption === undefined ? "Label" : "Caption"}: ${known}</span>`}
        </p>
      </div>
      <dl>${columns.map((column) => variantView(said, column))}</dl>
    </li>
  `;
}

function variantView(
  said: SaidOfPicture,
  { variant, label, merged }: Column,
): TemplateResult | typeof nothing {
  const one = said.variants.find((entry) => entry.variant === variant);
  if (!one) return nothing;
  const same = variant !== "adapter" && saysTheSame(said, variant) === true;
  return html`
    <div class=${merged ? "merged" : ""}>
      <dt>
        <span class="said-who">${label}</span>
        ${same ? html`<span class="echo">${icons.check} same as the adapter</span>` : nothing}
      </dt>
      <dd>
        ${
          one.text === undefined
            ? classesView(one.classes ?? [])
            : html`<span class="said-text">${one.text === "" ? "(nothing)" : one.text}</span>`
        }
      </dd>
    </div>
  `;
}

function classesView(classes: NonNullable<SaidOfPicture["variants"][number]["classes"]>): TemplateResult {
  return html`
    <ul class="shares">
      ${classes.slice(0, MOST_CLASSES).map(
        ({ label, share }) => html`
          <li>
            <span class="share-label">${label}</span>
            <svg class="share-bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
              ${svg`<rect class="track" width="100" height="8"></rect><rect class="fill" width=${(share * 100).toFixed(1)} height="8"></rect>`}
            </svg>
            <span class="tabular">${percent(share)}</span>
          </li>
        `,
      )}
    </ul>
  `;
}
