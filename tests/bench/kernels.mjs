// The CPU's kernels by width of a layer, on one core in wasm; beside them the same products in PyTorch on one thread,
// where `npm run test:peers` has made its environment.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import init, { measureKernels } from "../../www/wasm/iteris_web.js";
import { peersFolder } from "../../xtask/paths.mjs";
import { gigaflops, lastLine, printMarkdown } from "./table.mjs";

/** Those of MiniLM, BERT and T5 base, Qwen2-1.5B, T5's inner width, Llama-7B's and that of its MLP. */
const WIDTHS = [384, 768, 1024, 1536, 2048, 3072, 4096, 11008];
/** For each kernel and width. */
const SECONDS = 1;

/** @typedef {{ forward: number, gram: number, factor: number, solve: number }} Rates */

/** @param {{ machine: string }} options */
export async function benchKernels({ machine }) {
  await init({ module_or_path: readFileSync(new URL("../../www/wasm/iteris_web_bg.wasm", import.meta.url)) });
  const peer = inPyTorch();
  const rows = WIDTHS.map((width) => {
    const ours = /** @type {Rates} */ (measureKernels(width, SECONDS));
    return { width, ours, theirs: peer?.[`${width}`] };
  });
  console.log(`Kernels in GFLOP/s: WebAssembly on one core / PyTorch on one thread; ${machine}\n`);
  const kinds = /** @type {const} */ (["forward", "gram", "factor", "solve"]);
  printMarkdown([
    ["width", "512 rows forward, f32", "Gram sums, f64", "Cholesky, f64", "512 solves, f64", "Cholesky s"],
    ...rows.map(({ width, ours, theirs }) => {
      const both = theirs ? [ours, theirs] : [ours];
      return [
        `${width}`,
        ...kinds.map((kind) => both.map((rates) => gigaflops(rates[kind], 1)).join(" / ")),
        both.map(({ factor }) => (width ** 3 / 3 / factor).toFixed(2)).join(" / "),
      ];
    }),
  ]);
}

/** @returns {Record<string, Rates> | undefined} */
function inPyTorch() {
  const python = join(peersFolder, "bin/python");
  if (!existsSync(python)) {
    console.error("no row of PyTorch: npm run test:peers makes its environment");
    return undefined;
  }
  const words = [join(import.meta.dirname, "kernels_peer.py"), `${SECONDS}`, ...WIDTHS.map(String)];
  const done = spawnSync(python, words, { encoding: "utf8" });
  if (done.status !== 0) throw new Error(`PyTorch: ${lastLine(done)}`);
  return JSON.parse(done.stdout);
}
