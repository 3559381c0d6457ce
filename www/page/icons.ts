/** The few drawings of the page. All are decoration: what they say is said in words beside them. */
import { html, svg, type TemplateResult } from "lit-html";

const drawn = (d: string): TemplateResult => html`
  <svg class="icon" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true">${svg`<path d=${d}></path>`}</svg>
`;

export const lock = drawn("M5.5 9h9v7.5h-9zM7.2 9V6.4a2.8 2.8 0 0 1 5.6 0V9");
export const chip = drawn("M6 6h8v8H6zM8 3v3M12 3v3M8 14v3M12 14v3M3 8h3M3 12h3M14 8h3M14 12h3");
export const check = drawn("M4.5 10.5l3.6 3.6 7.4-8.2");
export const cross = drawn("M5.5 5.5l9 9M14.5 5.5l-9 9");
export const circle = drawn("M10 4.2a5.8 5.8 0 1 1 0 11.6a5.8 5.8 0 1 1 0-11.6");
export const clock = drawn("M10 3.8a6.2 6.2 0 1 1 0 12.4a6.2 6.2 0 1 1 0-12.4M10 6.8V10l2.2 1.6");
export const alert = drawn("M10 3.5l7 12.5H3zM10 8v3.6M10 13.6v.2");
export const info = drawn("M10 3.8a6.2 6.2 0 1 1 0 12.4a6.2 6.2 0 1 1 0-12.4M10 9.2v4M10 6.8v.2");
export const folder = drawn("M3 5.5h5l1.6 2H17v8H3z");
export const document = drawn("M6 3.5h5.5L15 7v9.5H6zM11.5 3.5V7H15M8.3 10h4.4M8.3 13h4.4");
export const save = drawn("M10 3.5v8.5M6.5 8.8L10 12.3l3.5-3.5M4 15.8h12");
export const pen = drawn("M4 16l.8-3.4L13.6 3.8l2.6 2.6-8.8 8.8zM11.8 5.6l2.6 2.6");
export const stop = drawn("M6 6h8v8H6z");
export const play = drawn("M7 5l8 5-8 5z");
