/** The script of report.html: draws the page's own parts with what a merge of SDXL adapters would give them. */
import "../../../www/page/styles/controls.css";
import "../../../www/page/styles/frame.css";
import "../../../www/page/styles/inputs.css";
import "../../../www/page/styles/merge.css";
import "../../../www/page/styles/result.css";
import { html, render } from "lit-html";
import { Pace } from "../../../www/lib/pace.ts";
import { inputs } from "../../../www/page/inputs.ts";
import { progressView } from "../../../www/page/progress.ts";
import { resultView } from "../../../www/page/result.ts";
import { type Comparison, Store } from "../../../www/page/state.ts";
import { adapter } from "../../unit/page-state.ts";
import { sdxlModules, sdxlReport } from "../../unit/sdxl-report.ts";

declare global {
  /** Draws everything, anew with each change of the state. */
  var draw: () => void;
  /** Changes the state, as progress does 20 times a second. */
  var change: () => void;
}

const modules = sdxlModules();
const variants = ["SVD", "Average"];
const comparison: Comparison = {
  texts: "held-out",
  writes: false,
  tasks: [],
  residuals: ["one", "two"].flatMap((task, t) =>
    modules.flatMap((module, index) =>
      variants.map((variant, v) => ({
        module,
        task,
        variant,
        residual: 0.1 + 0.2 * v + 0.1 * t + ((index * 7) % 100) / 500,
      })),
    ),
  ),
  notes: [],
  variants,
  status: "done",
  waiting: [],
};

const store = new Store();
const controller = new AbortController();
store.state.adapters = ["one", "two"].map((name) =>
  adapter(name, { targets: modules, modules: modules.length }),
);
store.state.result = {
  title: "2 adapters merged into one",
  output: "adapter",
  method: "svd",
  files: modules.slice(0, 3).map((name) => ({ name, blob: new Blob([name]) })),
  report: sdxlReport(),
  comparison,
  models: undefined,
  stale: false,
};
store.state.work = {
  task: "merge",
  label: "Merging",
  progress: {
    stage: "merge",
    layer: modules[400] ?? "",
    done: 400,
    total: modules.length,
    bytesDone: 2.4e8,
    bytesTotal: 4.36e8,
    seconds: 60,
  },
  share: 400 / modules.length,
  started: performance.now() - 60_000,
  pace: new Pace(),
  secondsLeft: 48,
  cancelling: false,
  controller,
};

globalThis.draw = () => {
  const { result, work } = store.state;
  render(
    html`
      <div class="workspace">
        <div class="inputs">${inputs(store)}</div>
        <div class="rail"><section class="panel">${work ? progressView(store, work) : ""}</section></div>
      </div>
      ${result ? resultView(store, result) : ""}
    `,
    document.querySelector("#page") as HTMLElement,
  );
};
store.onChange(() => draw());
globalThis.change = () => store.change(() => {});
