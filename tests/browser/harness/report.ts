/** The script of report.html: draws the page's own parts with what a merge of SDXL adapters would give them. */
import "../../../www/page/styles/controls.css";
import "../../../www/page/styles/frame.css";
import "../../../www/page/styles/inputs.css";
import "../../../www/page/styles/merge.css";
import "../../../www/page/styles/result.css";
import { html, render } from "lit-html";
import { groupByPattern } from "../../../www/lib/index.ts";
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
/** As inspecting tells them of adapters of SDXL: what two text encoders call the same is one target of two groups. */
const ofUnet = groupByPattern(modules, (name) => name).map(({ pattern, items }) => ({
  pattern,
  modules: items.length,
  ranks: [8],
}));
const ofText = ["k_proj", "v_proj", "q_proj", "out_proj", "mlp.fc1", "mlp.fc2"];
const groups = [
  ...ofUnet,
  ...["text_encoder", "text_encoder_2"].flatMap((component, index) =>
    ofText.map((part) => ({ pattern: `${component}.*.${part}`, modules: [12, 32][index] ?? 0, ranks: [8] })),
  ),
];
const targets = [...ofUnet.map(({ pattern }) => pattern.replace("unet.*.", "")), ...ofText];
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
  adapter(name, { targets, groups, modules: groups.reduce((sum, group) => sum + group.modules, 0) }),
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
