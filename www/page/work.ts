/**
 * The one thing the worker is doing, for whoever shows it: its name, its progress, its end.
 *
 * Answers are written before a merge runs, and each stretch counts for itself. So a bar is of one stretch, and starts
 * anew with the next.
 */
import { Pace, type Progress } from "../lib/index.ts";
import { shareDone } from "./pace.ts";
import type { Store, Work } from "./state.ts";

/** Starts to show work; its controller cancels it. */
export function begin(store: Store, task: Work["task"], label: string): AbortController {
  const controller = new AbortController();
  const now = performance.now();
  store.change((state) => {
    state.work = {
      task,
      label,
      progress: undefined,
      share: 0,
      started: now,
      pace: new Pace(),
      secondsLeft: null,
      cancelling: false,
      controller,
    };
  });
  return controller;
}

/** Names the piece of work that is being done now; `undefined` for one that has its name. */
export function nameWork(store: Store, task: Work["task"], label: string | undefined): void {
  if (label !== undefined && store.state.work?.label !== label) relabel(store, task, label);
}

/** Goes on to the next piece of work, under the same controller. */
function relabel(store: Store, task: Work["task"], label: string): void {
  const now = performance.now();
  store.change(({ work }) => {
    if (!work) return;
    const fresh = { progress: undefined, share: 0, started: now, pace: new Pace(), secondsLeft: null };
    Object.assign(work, { task, label, ...fresh });
  });
}

export function show(store: Store, progress: Progress): void {
  store.change(({ work }) => {
    if (!work) return;
    const begins = beginsStretch(work.progress, progress);
    work.share = shareDone(progress, begins ? 0 : work.share);
    work.secondsLeft = work.pace.secondsLeft(progress);
    work.progress = progress;
  });
}

/** Whether `next` counts something else than `last` did. Weights and prompt are read before the first token counts. */
export function beginsStretch(last: Progress | undefined, next: Progress): boolean {
  const wrote = last?.stage === "generate";
  const writes = next.stage === "generate";
  return wrote !== writes || (last !== undefined && writes && next.done < last.done);
}

export function cancel(store: Store): void {
  store.change(({ work }) => {
    if (!work) return;
    work.cancelling = true;
    work.controller.abort();
  });
}
