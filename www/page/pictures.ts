/** Pictures as the page shows them: small, in a box of one size, with what is said of them. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { PictureFacts, SamplesFacts } from "../lib/index.ts";
import { objectUrl } from "./object-url.ts";

/** Of samples on a card. */
const MOST_SHOWN = 12;

/** A picture in its box; an empty box where its bytes are not at hand. */
export function thumbnail({ name, blob }: Pick<PictureFacts, "name" | "blob">, alt: string): TemplateResult {
  if (!blob) return html`<span class="thumb none" role="img" aria-label=${alt} title=${name}></span>`;
  return html`
    <img
      class="thumb" src=${objectUrl(blob)} alt=${alt} title=${name}
      width="96" height="96" loading="lazy" decoding="async"
    />
  `;
}

/** What is known of a picture: its caption, else its class; `undefined` where nothing is. */
export const wordsOf = ({ caption, label }: Pick<PictureFacts, "caption" | "label">): string | undefined =>
  caption ?? (label === null ? undefined : String(label));

/** The first pictures of samples with their captions, and how many more there are. */
export function pictureList({ pictures = [], count }: SamplesFacts): TemplateResult | typeof nothing {
  if (pictures.length === 0) return nothing;
  const shown = pictures.slice(0, MOST_SHOWN);
  return html`
    <ul class="thumbs" aria-label="First pictures">
      ${shown.map((picture) => {
        const words = wordsOf(picture);
        return html`
          <li>
            <figure>
              ${thumbnail(picture, `Picture ${picture.name}`)}
              ${words === undefined ? nothing : html`<figcaption title=${words}>${words}</figcaption>`}
            </figure>
          </li>
        `;
      })}
    </ul>
    ${count > shown.length ? html`<p class="hint">and ${count - shown.length} more</p>` : nothing}
  `;
}
