// The wasm module on token ids, for the Python checks: the goldens have no tokenizer, and the command line prints
// no logits. Reads JSON requests on standard input, one a line, and writes an answer for each, on a line:
//
//     { command: "logits", base, adapter, head, samples: { ids, type_ids } }     folders; adapter and head may be null
//     { command: "merge", base, adapters: [{ name, folder, weight, samples }], options, out }
//
// A refusal is an answer too: { error: { code, message } }.
import { appendFile, mkdir, open, readdir, readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import init, { Device, logits, merge } from "../../www/wasm/iteris_web.js";

/** @param {string} folder */
async function filesOf(folder) {
  const files = [];
  for (const name of (await readdir(folder)).sort()) {
    const path = join(folder, name);
    const facts = await stat(path);
    if (!facts.isFile()) continue;
    files.push({
      name,
      size: facts.size,
      async read(/** @type {number} */ start, /** @type {number} */ end) {
        const handle = await open(path);
        try {
          const bytes = new Uint8Array(end - start);
          await handle.read(bytes, 0, bytes.length, start);
          return bytes;
        } finally {
          await handle.close();
        }
      },
    });
  }
  return files;
}

/** @param {string | null} folder */
const optional = async (folder) => (folder === null ? null : filesOf(folder));

/** @param {{ ids: number[][], type_ids: number[][] | null }} samples */
const tokenized = ({ ids, type_ids }) => ({
  ids: Uint32Array.from(ids.flat()),
  ...(type_ids && { typeIds: Uint32Array.from(type_ids.flat()) }),
  lengths: Uint32Array.from(ids.map((sample) => sample.length)),
  truncated: 0,
});

async function answer(/** @type {any} */ request) {
  const base = await filesOf(request.base);
  if (request.command === "logits") {
    const [adapter, head] = await Promise.all([optional(request.adapter), optional(request.head)]);
    const found = await logits({ base, adapter, head, samples: tokenized(request.samples) }, Device.cpu());
    return { shape: found.shape, data: Array.from(found.data) };
  }
  const adapters = await Promise.all(
    request.adapters.map(async (/** @type {any} */ adapter) => ({
      name: adapter.name,
      weight: adapter.weight,
      files: await filesOf(adapter.folder),
      samples: tokenized(adapter.samples),
    })),
  );
  return merge({ base, adapters, options: request.options }, Device.cpu(), {
    progress: async () => true,
    async write(/** @type {string} */ file, /** @type {Uint8Array} */ bytes) {
      const path = join(request.out, file);
      await mkdir(dirname(path), { recursive: true });
      await appendFile(path, bytes);
    },
  });
}

await init({ module_or_path: await readFile(new URL("../../www/wasm/iteris_web_bg.wasm", import.meta.url)) });
for await (const line of createInterface({ input: process.stdin })) {
  let said;
  try {
    said = await answer(JSON.parse(line));
  } catch (error) {
    const { code = "thrown", message = String(error) } = /** @type {any} */ (error);
    said = { error: { code, message } };
  }
  process.stdout.write(`${JSON.stringify(said)}\n`);
}
