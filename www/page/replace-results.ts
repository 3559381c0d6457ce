/** Makes room for what comes next: results that nobody can save or try any more leave the disk. */
import { discard, type NamedBlob } from "../lib/index.ts";
import type { State, Store } from "./state.ts";

/** The files of every result that is shown, or that writes in “Try it”. */
function keptFiles({ result, methodComparison }: State): Set<NamedBlob> {
  const writers = [result, methodComparison].flatMap((shown) => shown?.models?.writers ?? []);
  return new Set([
    ...(result?.files ?? []),
    ...(methodComparison?.entries ?? []).flatMap(({ files }) => files),
    ...writers.flatMap(({ role, files }) => (role === "merged" ? (files ?? []) : [])),
  ]);
}

/** Changes which results are shown, and discards the files of those that are not any more. */
export function replaceResults(store: Store, change: (state: State) => void): void {
  const before = keptFiles(store.state);
  store.change(change);
  const after = keptFiles(store.state);
  // What cannot be removed now goes when the page is closed.
  void discard([...before].filter((file) => !after.has(file))).catch(() => {});
}
