// The wasm module on token ids, for the Python checks: the goldens have no tokenizer, and the command line prints
// no logits. Reads JSON requests on standard input, one a line, and writes an answer for each, on a line:
//
//     { command: "logits", base, adapter, head, samples }     folders; adapter and head may be null
//     { command: "merge", base, adapters: [{ name, folder, weight, samples }], options, out }     samples may be absent
//     { command: "generate", base, variants: [{ name, folder }], prompts, options }     folder null: the base itself
//
// `samples` are { ids, type_ids, answers, prompts }: token ids a sample, the last three optional; `prompts` has a 1
// where the adapter is to write the answer itself. Or they are { pictures, answers, prompts }: paths of files, sorted by
// name, and of a captioner the captions. A refusal is an answer too: { error: { code, message } }.
import { appendFile, mkdir, open, readdir, readFile, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import init, { Device, generate, logits, merge } from "../../www/wasm/iteris_web.js";

/** Exactly these bytes of a file. @param {string} path @param {number} start @param {number} end */
async function piece(path, start, end) {
  const handle = await open(path);
  try {
    const bytes = new Uint8Array(end - start);
    await handle.read(bytes, 0, bytes.length, start);
    return bytes;
  } finally {
    await handle.close();
  }
}

/** @param {string} path */
async function fileAt(path) {
  const { size } = await stat(path);
  return {
    name: basename(path),
    size,
    read: (/** @type {number} */ start, /** @type {number} */ end) => piece(path, start, end),
  };
}

/** @param {string} folder */
async function filesOf(folder) {
  const files = [];
  for (const name of (await readdir(folder)).sort()) {
    const path = join(folder, name);
    if ((await stat(path)).isFile()) files.push(await fileAt(path));
  }
  return files;
}

/** @param {string | null} folder */
const optional = async (folder) => (folder === null ? null : filesOf(folder));

/** @param {number[][]} lists */
const lengthsOf = (lists) => Uint32Array.from(lists.map((list) => list.length));

/** @param {{ ids?: number[][], type_ids?: number[][] | null, pictures?: string[], answers?: number[][], prompts?: number[] }} samples */
const samplesOf = async ({ ids, type_ids, pictures, answers, prompts }) => ({
  ...(ids && { ids: Uint32Array.from(ids.flat()), lengths: lengthsOf(ids), truncated: 0 }),
  ...(type_ids && { typeIds: Uint32Array.from(type_ids.flat()) }),
  ...(pictures && { pictures: await Promise.all(pictures.map((path) => fileAt(path))) }),
  ...(answers && { answers: Uint32Array.from(answers.flat()), answerLengths: lengthsOf(answers) }),
  ...(prompts && { prompts: Uint8Array.from(prompts) }),
});

/** @param {{ ids: Uint32Array, lengths: Uint32Array }} packed */
function unpacked({ ids, lengths }) {
  let end = 0;
  return Array.from(lengths, (length) => {
    end += length;
    return Array.from(ids.slice(end - length, end));
  });
}

async function answer(/** @type {any} */ request) {
  const base = await filesOf(request.base);
  if (request.command === "logits") {
    const [adapter, head] = await Promise.all([optional(request.adapter), optional(request.head)]);
    const found = await logits(
      { base, adapter, head, samples: await samplesOf(request.samples) },
      Device.cpu(),
    );
    return { shape: found.shape, data: Array.from(found.data) };
  }
  if (request.command === "generate") {
    const variants = await Promise.all(
      request.variants.map(async (/** @type {any} */ { name, folder }) => ({
        name,
        ...(folder !== null && { files: await filesOf(folder) }),
      })),
    );
    const prompts = { ids: Uint32Array.from(request.prompts.flat()), lengths: lengthsOf(request.prompts) };
    const found = await generate({ base, variants, prompts, options: request.options }, Device.cpu(), {
      progress: async () => true,
      write: async () => {},
    });
    return Object.fromEntries(
      found.variants.map((/** @type {any} */ variant) => [
        variant.name,
        { answers: unpacked(variant), finished: variant.finished },
      ]),
    );
  }
  const adapters = await Promise.all(
    request.adapters.map(async (/** @type {any} */ adapter) => ({
      name: adapter.name,
      weight: adapter.weight,
      files: await filesOf(adapter.folder),
      ...(adapter.samples && { samples: await samplesOf(adapter.samples) }),
    })),
  );
  return merge({ base, adapters, options: request.options }, Device.cpu(), {
    progress: async () => true,
    async write(/** @type {string} */ file, /** @type {Uint8Array} */ bytes) {
      const path = join(request.out, file);
      await mkdir(dirname(path), { recursive: true });
      await appendFile(path, bytes);
    },
    read: (/** @type {string} */ file, /** @type {number} */ start, /** @type {number} */ end) =>
      piece(join(request.out, file), start, end),
    remove: (/** @type {string} */ file) => rm(join(request.out, file)),
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
