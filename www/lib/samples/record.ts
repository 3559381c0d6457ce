/**
 * One sample from a parsed JSON value or from the cells of a table: checked once, trusted afterwards.
 *
 * Nothing is guessed: a sample that mixes the names of two kinds (`text` with `completion`) might be meant either way,
 * so it is refused with the name that it should have.
 */
import type { ChatMessage, Sample } from "../types.ts";
import { malformed, type Place } from "./malformed.ts";

/** A sample, and where it stands, for messages about it. */
export interface Placed {
  sample: Sample;
  place: Place;
}

/** What a kind of sample may have beside its own text, and what to write instead of the rest. */
const kinds = {
  text: { also: ["text_pair", "target"], advice: { completion: `beside "text" the answer is "target"` } },
  prompt: { also: ["completion"], advice: { target: `beside "prompt" the answer is "completion"` } },
  messages: { also: [], advice: {} },
} as const;
type Kind = keyof typeof kinds;

const kindNames = Object.keys(kinds) as Kind[];
const companions = ["text_pair", "target", "completion"] as const;

/** What a JSON value is, with its article. */
export function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : typeof value === "object" ? "an object" : `a ${typeof value}`;
}

/** A text that is not empty. */
export function textOf(value: unknown, key: string, place: Place): string {
  if (typeof value !== "string") {
    const hint = key === "prompt" && Array.isArray(value) ? ` A chat is given as "messages".` : "";
    throw malformed(place, `"${key}" must be a text, not ${kindOf(value)}.${hint}`);
  }
  if (value.trim() === "") throw malformed(place, `"${key}" is empty.`);
  return value;
}

/** A label's name or index; `null` where there is none. */
export function labelOf(value: unknown, place: Place): string | number | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "string") return value;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0) return value;
  throw malformed(place, `"label" must be a name or an index (0, 1, …), not ${JSON.stringify(value)}.`);
}

function messageOf(value: unknown, number: number, place: Place): ChatMessage {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw malformed(place, `message ${number} must be an object with "role" and "content".`);
  }
  const { role, content } = value as Record<string, unknown>;
  if (typeof role !== "string" || role === "") {
    throw malformed(place, `message ${number}: "role" must be a text such as "user" or "assistant".`);
  }
  if (typeof content !== "string") {
    throw malformed(place, `message ${number}: "content" must be a text, not ${kindOf(content)}.`);
  }
  return { role, content };
}

/**
 * The turns of a chat.
 *
 * @throws IterisError `samples_invalid` that names the place and the turn
 */
export function messagesOf(value: unknown, place: Place): ChatMessage[] {
  if (!Array.isArray(value)) throw malformed(place, `"messages" must be a list, not ${kindOf(value)}.`);
  const messages = value.map((message, i) => messageOf(message, i + 1, place));
  const last = messages.at(-1);
  if (last === undefined) throw malformed(place, `"messages" is empty.`);
  if (last.role === "assistant") {
    if (messages.length === 1) {
      throw malformed(place, "the chat has only the assistant's answer; put what it answers before it.");
    }
    if (last.content.trim() === "") throw malformed(place, "the assistant's last message is empty.");
  }
  return messages;
}

/** Which of the three kinds an object is; exactly one of their names occurs in it. */
function whichKind(value: Record<string, unknown>, place: Place): Kind {
  const present = (key: string) => value[key] !== undefined && value[key] !== null;
  const [kind, second] = kindNames.filter(present);
  if (kind === undefined) {
    const keys = Object.keys(value).filter(present);
    const has = keys.length === 0 ? "it is empty" : `it has ${keys.map((key) => `"${key}"`).join(", ")}`;
    throw malformed(place, `one of "text", "prompt" and "messages" is needed; ${has}.`);
  }
  if (second !== undefined) {
    throw malformed(place, `it has both "${kind}" and "${second}"; a sample is one of the two.`);
  }
  const { also, advice }: { also: readonly string[]; advice: Partial<Record<string, string>> } = kinds[kind];
  const stray = companions.find((key) => present(key) && !also.includes(key));
  if (stray !== undefined) {
    const answer = kind === "messages" ? "in a chat the answer is a last message of the assistant" : null;
    const what = advice[stray] ?? answer ?? `"text_pair" belongs to "text"`;
    throw malformed(place, `"${stray}" does not go with "${kind}"; ${what}.`);
  }
  return kind;
}

/**
 * A sample from a text, or from an object with `text` (and `text_pair`, `target`), `prompt` (and `completion`)
 * or `messages`, each with or without `label`; other keys are ignored.
 *
 * @throws IterisError `samples_invalid` that names the place
 */
export function sampleOf(value: unknown, place: Place): Sample {
  if (typeof value === "string") return { text: textOf(value, "text", place) };
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw malformed(
      place,
      `a sample must be a text or an object with "text", "prompt" or "messages", not ${kindOf(value)}.`,
    );
  }
  const record = value as Record<string, unknown>;
  const optional = <Key extends string>(key: Key) =>
    record[key] === undefined || record[key] === null ? {} : { [key]: textOf(record[key], key, place) };
  const kind = whichKind(record, place);
  const label = labelOf(record.label, place);
  switch (kind) {
    case "text":
      return {
        text: textOf(record.text, "text", place),
        label,
        ...optional("text_pair"),
        ...optional("target"),
      };
    case "prompt":
      return { prompt: textOf(record.prompt, "prompt", place), label, ...optional("completion") };
    case "messages":
      return { messages: messagesOf(record.messages, place), label };
  }
}
