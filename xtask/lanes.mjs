// Steps that do not wait for each other, side by side: what one core has to do alone (linking, wasm-opt) leaves the
// others to the rest.
import { AsyncLocalStorage } from "node:async_hooks";

/**
 * @typedef {object} Lane
 * @property {string} name
 * @property {Set<import("node:child_process").ChildProcess>} children
 */

/** @type {AsyncLocalStorage<Lane>} */
const lanes = new AsyncLocalStorage();

/** The lane in which this code runs, if it is in one. */
export const lane = () => lanes.getStore();

/**
 * Runs each function in a lane of its own, whose lines begin with its name. The first failure ends the programs of
 * the others, and is the failure of all.
 * @param {Record<string, () => Promise<void>>} work
 */
export async function sideBySide(work) {
  const running = Object.entries(work).map(([name, steps]) => ({ name, steps, children: new Set() }));
  let failed = false;
  await Promise.all(
    running.map((own) =>
      lanes.run(own, own.steps).catch((error) => {
        if (!failed) for (const { children } of running) for (const child of children) child.kill();
        failed = true;
        throw error;
      }),
    ),
  );
}

/**
 * Hands text on to `stream`, in a lane by whole lines behind its name.
 * @param {NodeJS.WritableStream} stream
 */
export function output(stream) {
  const name = lane()?.name;
  let rest = "";
  const labelled = (/** @type {string} */ text) => text.replace(/.*\n/g, (line) => `[${name}] ${line}`);
  return {
    /** @param {string} text */
    write(text) {
      const end = text.lastIndexOf("\n") + 1;
      if (name === undefined) stream.write(text);
      else {
        if (end > 0) stream.write(labelled(rest + text.slice(0, end)));
        rest = end > 0 ? text.slice(end) : rest + text;
      }
    },
    end() {
      if (rest !== "") stream.write(labelled(`${rest}\n`));
      rest = "";
    },
  };
}
