/**
 * The page: draws the state, and moves the focus where a person who cannot see the change would look.
 *
 * It is built on the package's public interface alone (`www/lib/index.ts`), so it is also the example of
 * how to put a merge into a page of one's own.
 */
import { html, nothing, render, type TemplateResult } from "lit-html";
import { chooseDevice, defaultOptions, release } from "../lib/index.ts";
import { acceptDrops } from "./dropzone.ts";
import { exampleButtons } from "./example-buttons.ts";
import * as icons from "./icons.ts";
import { inputs } from "./inputs.ts";
import { type Target, take } from "./intake.ts";
import { mergePanel } from "./merge-panel.ts";
import { methodComparisonView } from "./method-comparison-view.ts";
import { notices } from "./notices.ts";
import { options } from "./options.ts";
import { keepPlan } from "./plan.ts";
import { presentModels } from "./playground.ts";
import { playgroundPanel } from "./playground-panel.ts";
import { describe } from "./problem.ts";
import { spoken } from "./progress.ts";
import { recipeButton, recipePanel } from "./recipe-view.ts";
import { resultView } from "./result.ts";
import { Store, type Work } from "./state.ts";

const TITLE = document.title;
const TICK_MILLISECONDS = 500;

function start(): void {
  const store = new Store();
  const place = (id: string): HTMLElement => {
    const found = document.getElementById(id);
    if (!found) throw new Error(`index.html has no element #${id}`);
    return found;
  };
  const main = place("main");
  const device = place("device");
  const example = place("example");
  const spokenProgress = place("spoken");
  main.replaceChildren();

  const draw = (): void => {
    render(deviceBadge(store), device);
    render(exampleButtons(store), example);
    render(page(store), main);
    const { work } = store.state;
    const said = work ? spoken(work) : "";
    if (spokenProgress.textContent !== said) spokenProgress.textContent = said;
    document.title = work ? `${work.label} · ${TITLE}` : TITLE;
    moveFocus(store);
  };
  store.onChange(draw);
  keepPlan(store);
  draw();

  acceptDrops((files, zone) => void take(store, files, targetOf(zone)));
  // The elapsed time goes on between two reports of the worker.
  setInterval(() => {
    if (store.state.work) store.change(() => undefined);
  }, TICK_MILLISECONDS);
  // A long merge should not be lost to a slip of the finger.
  addEventListener("beforeunload", (event) => {
    const { work } = store.state;
    if (work && work.task !== "write") event.preventDefault();
  });
  addEventListener("pagehide", release);
  void findDevice(store);
}

/** A drop beside the zones is sorted as one on the adapters' zone is: whole folders speak for themselves. */
function targetOf(zone: HTMLElement | undefined): Target {
  const { zone: name, adapterId, role } = zone?.dataset ?? {};
  if (name === "base" || name === "picture") return { zone: name };
  if (name === "text" && adapterId && (role === "samples" || role === "heldOut")) {
    return { zone: "text", adapter: adapterId, role };
  }
  return { zone: "adapters" };
}

async function findDevice(store: Store): Promise<void> {
  try {
    const value = await chooseDevice("auto");
    // Loads the wasm module now, so that nothing at all is fetched once files have been dropped.
    await defaultOptions();
    store.change((state) => {
      state.device = { status: "ready", value };
    });
  } catch (thrown) {
    const problem = describe(thrown);
    store.change((state) => {
      state.device = { status: "failed", problem };
    });
    store.notify({ place: "top", tone: "error", text: "The program could not be started.", problem });
  }
}

function page(store: Store): TemplateResult {
  const { result, methodComparison, recipe, work } = store.state;
  // While a merge runs nothing can be tried, and afterwards all of it.
  const made = result || methodComparison || (work && work.task !== "write");
  const models = made ? undefined : presentModels(store.state);
  return html`
    ${notices(store, "top")}
    <div class="workspace">
      <div class="inputs">${recipe ? recipePanel(store, recipe) : nothing} ${inputs(store)}</div>
      <div class="rail">
        <section class="panel" aria-labelledby="options-heading">
          <h2 id="options-heading"><span class="step" aria-hidden="true">3</span> How to merge</h2>
          ${options(store)} ${recipe ? nothing : recipeButton(store)}
        </section>
        <section class="panel ready" aria-label="Merge">${mergePanel(store)} ${notices(store, "merge")}</section>
      </div>
    </div>
    ${models ? html`<div class="before">${playgroundPanel(store, models)}</div>` : nothing}
    ${methodComparison ? methodComparisonView(store, methodComparison) : nothing}
    ${result ? resultView(store, result) : nothing}
  `;
}

function deviceBadge(store: Store): TemplateResult {
  const { device } = store.state;
  if (device.status === "reading") return html`${icons.chip}<span>Looking for a device …</span>`;
  if (device.status === "failed")
    return html`${icons.alert}<span>No device: ${device.problem.message}</span>`;
  const { kind, why } = device.value;
  return html`${icons.chip}<span data-kind=${kind}><span class="sr-only">Runs on: </span>${why}</span>`;
}

let shown: { working: Work["task"] | undefined; result: unknown; methodComparison: unknown; errors: number } =
  {
    working: undefined,
    result: undefined,
    methodComparison: undefined,
    errors: 0,
  };

/**
 * Follows the work: to Cancel when it starts, to the result when there is one, to the message when it fails. Who lets
 * the models write stays at the prompt, and comes back to the button if Stop was pressed, which is then gone.
 */
function moveFocus(store: Store): void {
  const { work, result, methodComparison, notices: all } = store.state;
  const before = shown;
  shown = {
    working: work?.task,
    result: result?.report,
    // Its rows come one by one; it is there when the last one is.
    methodComparison:
      methodComparison && methodComparison.status !== "running" ? methodComparison : undefined,
    errors: all.filter(({ tone }) => tone === "error").length,
  };
  const focus = (selector: string): void => document.querySelector<HTMLElement>(selector)?.focus();
  if (shown.working === "write") return;
  if (before.working === "write") {
    if (document.activeElement === document.body) focus("#write");
    return;
  }
  if (shown.result && shown.result !== before.result) focus("#result-heading");
  else if (shown.methodComparison && shown.methodComparison !== before.methodComparison)
    focus("#method-comparison-heading");
  else if (shown.working && !before.working) focus("#cancel");
  else if (
    !shown.working &&
    before.working &&
    !shown.result &&
    !(before.working === "method-comparison" && shown.methodComparison)
  ) {
    focus(shown.errors > before.errors ? ".notice.error button" : "#merge");
  }
}

start();
