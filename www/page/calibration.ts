/** What each task was calibrated on: whose texts, how many, and who wrote the answers in them. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { MergeReport } from "../lib/index.ts";
import { count, plural, setting } from "./format.ts";
import * as icons from "./icons.ts";

type Samples = NonNullable<MergeReport["adapters"][number]["samples"]>;

const ANSWERS: Readonly<Record<Samples["answers"], string | undefined>> = {
  none: undefined,
  given: "with their answers",
  own: "with answers that the adapter wrote",
  start: "with the start token alone",
  mixed: "with their answers, or else the adapter’s own",
};

/** @param what - the samples of one that has no name: `texts` or `pictures` */
export function calibrationView(
  { adapters }: MergeReport,
  what: "texts" | "pictures",
): TemplateResult | typeof nothing {
  const tasks = adapters.flatMap(({ name, samples }) => (samples ? [{ name, samples }] : []));
  if (tasks.length === 0) return nothing;
  return html`
    <section class="panel" aria-labelledby="calibration-heading">
      <h3 id="calibration-heading">What it was merged on</h3>
      <div class="scroll" role="region" aria-label="Calibration samples by task" tabindex="0">
        <table class="calibration">
          <thead>
            <tr>
              <th scope="col">Task</th>
              <th scope="col">Samples</th>
              <th scope="col">Number</th>
              <th scope="col">Tokens</th>
            </tr>
          </thead>
          <tbody>
            ${tasks.map(
              ({ name, samples }) => html`
                <tr>
                  <th scope="row">${name}</th>
                  <td class="words">
                    ${samples.self ? selfWritten(samples.self) : (samples.source ?? what)} ${answersOf(samples, what)}
                  </td>
                  <td>${count(samples.count)}</td>
                  <td>${count(samples.tokens)}</td>
                </tr>
              `,
            )}
          </tbody>
        </table>
      </div>
    </section>
  `;
}

function selfWritten(self: NonNullable<Samples["self"]>): TemplateResult {
  const beginning =
    self.prompt_tokens > 0 ? `after ${plural(self.prompt_tokens, "token")} of prompt` : "from nothing";
  const draws = [
    `seed ${self.seed}`,
    `temperature ${setting(self.temperature)}`,
    ...(self.top_p < 1 ? [`top-p ${setting(self.top_p)}`] : []),
    `at most ${plural(self.max_new_tokens, "token")}`,
  ];
  return html`
    <span class="badge">${icons.pen} Self-written</span>
    <span class="hint">${beginning}, ${draws.join(", ")}</span>
  `;
}

function answersOf(
  { answers, answer_tokens }: Samples,
  what: "texts" | "pictures",
): TemplateResult | typeof nothing {
  const from = what === "pictures" ? ANSWERS[answers]?.replace("answers", "captions") : ANSWERS[answers];
  if (from === undefined) return nothing;
  return html`<span class="hint">${from}${answer_tokens > 0 ? `, ${plural(answer_tokens, "token")}` : ""}</span>`;
}
