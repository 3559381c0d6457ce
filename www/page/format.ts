/**
 * Numbers, bytes and times as the page shows them. Everything a person reads goes through here, so
 * that the same quantity looks the same everywhere.
 */
import type { SamplesFacts } from "../lib/index.ts";

const whole = new Intl.NumberFormat("en");
const compactNumber = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const count = (value: number): string => whole.format(value);

/** 22,713,216 → `22.7M`. */
export const compact = (value: number): string => compactNumber.format(value);

const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, useGrouping: false });

/** A configured number as people write it: `32`, `0.125`, without zeros that say nothing. */
export const setting = (value: number): string => short.format(value);

/** `1 sample`, `50 samples`. */
export const plural = (value: number, one: string, many = `${one}s`): string =>
  `${whole.format(value)} ${value === 1 ? one : many}`;

/** `40 prompts · 10 chats · 12 with answers · all labelled`, `8 pictures · no captions`. */
export function sampleCounts({ format, count, kinds, pairs, answers, labelled }: SamplesFacts): string {
  const pictures = format === "pictures";
  const parts = [
    ...(pictures ? [plural(count, "picture")] : []),
    ...(kinds.text > 0 ? [plural(kinds.text, "text")] : []),
    ...(kinds.prompt > 0 ? [plural(kinds.prompt, "prompt")] : []),
    ...(kinds.messages > 0 ? [plural(kinds.messages, "chat")] : []),
    ...(pairs > 0 ? [plural(pairs, "pair")] : []),
  ];
  const of = (part: number): string => (part === count ? "all" : String(part));
  if (answers > 0) parts.push(`${of(answers)} with ${pictures ? "captions" : "answers"}`);
  else if (pictures) parts.push("no captions");
  else if (kinds.prompt + kinds.messages > 0) parts.push("no answers");
  if (labelled > 0) parts.push(`${of(labelled)} labelled`);
  return parts.join(" · ");
}

/** Decimal units, as file managers show them. */
export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || size >= 99.5 ? 0 : 1;
  return `${size.toFixed(digits)} ${units[unit]}`;
}

/** A share as `97.1 %`; a dash where there is nothing to show. */
export const percent = (share: number | null | undefined): string =>
  share === null || share === undefined || !Number.isFinite(share) ? "–" : `${(share * 100).toFixed(1)} %`;

/** The same without the sign, for tables whose heading has it. */
export const hundredths = (share: number | null | undefined): string => percent(share).replace(" %", "");

/** `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`. */
export function duration(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const total = Math.round(seconds);
  if (total < 60) return `${total} s`;
  if (total < 3600)
    return total % 60 === 0 ? `${total / 60} min` : `${Math.floor(total / 60)} min ${total % 60} s`;
  return `${Math.floor(total / 3600)} h ${Math.floor((total % 3600) / 60)} min`;
}

/** A time that is estimated: `6 s`, `3 min`, `2 h`. */
export function roughly(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** Three significant digits, in powers of ten when the number is far from one. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return size >= 100 ? whole.format(Math.round(value)) : value.toPrecision(3);
  const [mantissa, exponent] = value.toExponential(1).split("e");
  return `${mantissa} × 10${superscript(Number(exponent))}`;
}

function superscript(value: number): string {
  const digits = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  return [...String(value)].map((sign) => (sign === "-" ? "⁻" : (digits[Number(sign)] ?? sign))).join("");
}

/** `a`, `a and b`, `a, b and c`. */
export const list = (items: readonly string[]): string =>
  new Intl.ListFormat("en-GB", { style: "long", type: "conjunction" }).format(items);

/** Where a module stands in its model. */
export interface LayerPlace {
  /**
   * Of a model that has more than one stack of layers: which of them. A model that is all encoder or all decoder has but
   * one.
   */
  side: "encoder" | "decoder" | "vision" | "text" | undefined;
  layer: string;
  /** The module's name inside the layer; empty for the layer as a whole. */
  rest: string;
}

/** Of a model of pictures: `vision_model.encoder.layers.3`, `text_decoder.bert.encoder.layer.3`. */
const TOWER = /(?:^|\.)(vision|text)_(?:model|tower|encoder|decoder)\.(?:.+\.)?layers?\.(\d+)(?:\.(.+))?$/;
/**
 * BERT and its kin say `encoder.layer`, encoder-decoders `encoder.layers` (BART) or `encoder.block` (T5). T5 numbers the
 * parts of a layer too (`block.0.layer.1.EncDecAttention.q`), and no two share a name.
 */
const SIDED = /(?:^|\.)(encoder|decoder)\.(?:layers|block)\.(\d+)(?:\.(?:layer\.\d+\.)?(.+))?$/;
const LONE = /(?:^|\.)(?:layers?|blocks?|h)\.(\d+)(?:\.(.+))?$/;

export function layerPlace(module: string): LayerPlace | undefined {
  const sided = TOWER.exec(module) ?? SIDED.exec(module);
  if (sided) {
    const [, side, layer = "", rest = ""] = sided;
    return { side: side as LayerPlace["side"], layer, rest };
  }
  const match = LONE.exec(module);
  return match ? { side: undefined, layer: match[1] ?? "", rest: match[2] ?? "" } : undefined;
}

/** `bert.encoder.layer.3.attention.self.query` → `layer 3, attention.self.query`. */
export function layerName(module: string): string {
  const place = layerPlace(module);
  if (!place) return module;
  const layer = `${place.side ? `${place.side} ` : ""}layer ${place.layer}`;
  return place.rest ? `${layer}, ${place.rest}` : layer;
}
