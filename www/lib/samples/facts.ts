/** What `inspectSamples` tells of samples. */
import type { Sample, SamplesFacts } from "../types.ts";
import { answerOf, askedOf } from "./answer.ts";
import { arePictures, type TaskSet } from "./pictures.ts";

/** As many as a comparison tells of one by one. */
const MOST_PICTURES = 16;

/** The texts of a sample that a model reads, without its answer. */
function textsOf(sample: Sample): string[] {
  if ("text" in sample) return [sample.text, ...(sample.text_pair === undefined ? [] : [sample.text_pair])];
  if ("prompt" in sample) return [sample.prompt];
  return askedOf(sample.messages).map(({ content }) => content);
}

/** The text that stands for a sample in a list of them: of a chat, what the user said last. */
export function previewOf(sample: Sample): string {
  if ("text" in sample) return sample.text;
  if ("prompt" in sample) return sample.prompt;
  return askedOf(sample.messages).at(-1)?.content ?? "";
}

function labelFacts(
  samples: readonly { label?: string | number | null | undefined }[],
): Pick<SamplesFacts, "labelled" | "labels"> {
  const labels = samples.flatMap(({ label }) => (label === undefined || label === null ? [] : [label]));
  return {
    labelled: labels.length,
    labels: [...new Set(labels)].sort((a, b) =>
      typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : 1,
    ),
  };
}

/** What `inspectSamples` tells. */
export function factsOf(set: TaskSet): SamplesFacts {
  if (arePictures(set)) {
    const captions = set.pictures.flatMap(({ caption }) => (caption === null ? [] : [caption]));
    return {
      name: set.name,
      format: "pictures",
      count: set.pictures.length,
      ...labelFacts(set.pictures),
      pairs: 0,
      kinds: { text: 0, prompt: 0, messages: 0 },
      answers: captions.length,
      longestCharacters: captions.reduce((most, { length }) => Math.max(most, length), 0),
      preview: set.pictures
        .slice(0, 3)
        .map(({ file, caption }) => (caption === null ? file.name : `${file.name}: ${caption}`)),
      pictures: set.pictures.slice(0, MOST_PICTURES).map(({ file: { name, blob }, caption, label }) => ({
        ...{ name, caption, label },
        ...(blob === undefined ? {} : { blob }),
      })),
    };
  }
  const { name, format, samples } = set;
  const answers = samples.map(answerOf);
  const lengths = samples.map((sample, i) =>
    [...textsOf(sample), answers[i] ?? ""].reduce((sum, text) => sum + text.length, 0),
  );
  const count = (kind: "text" | "prompt" | "messages") => samples.filter((sample) => kind in sample).length;
  return {
    name,
    format,
    count: samples.length,
    ...labelFacts(samples),
    pairs: samples.filter((sample) => "text_pair" in sample && sample.text_pair !== undefined).length,
    kinds: { text: count("text"), prompt: count("prompt"), messages: count("messages") },
    answers: answers.filter((answer) => answer !== undefined).length,
    longestCharacters: lengths.reduce((a, b) => Math.max(a, b), 0),
    preview: samples.slice(0, 3).map(previewOf),
  };
}
