/** One line of the checklist. */
import { list } from "./format.ts";
import type { Adapter } from "./state.ts";

export interface Item {
  id: string;
  /** `wait`: being read; `missing`: the person has to do something; `wrong`: what is there cannot be used. */
  status: "done" | "wait" | "missing" | "wrong";
  text: string;
}

/** Adapters by name, for a sentence. */
export const nameList = (adapters: readonly Adapter[]): string =>
  list(adapters.map((adapter) => adapter.name || "(no name)"));
