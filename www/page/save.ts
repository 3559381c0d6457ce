/** Saving what was made: all as a zip or into a folder, or one file. */
import { html, nothing, type TemplateResult } from "lit-html";
import type { MergeOptions, OutputFile } from "../lib/index.ts";
import { canPickFolder, saveBlob, saveToFolder, totalBytes, ZIP_LIMIT_BYTES, zip } from "./download.ts";
import { bytes } from "./format.ts";
import * as icons from "./icons.ts";
import { notices } from "./notices.ts";
import { describe } from "./problem.ts";
import type { Place, Result, Store } from "./state.ts";

interface Saving {
  /** Where it is told what came of it. */
  place: Place;
  /** The folder's name, and the zip's. */
  name: string;
  files: readonly OutputFile[];
}

/** The ways to save, as far as there are; each tells beside the result what came of it. */
function waysToSave(store: Store, { place, name, files }: Saving) {
  const attempt = (work: () => Promise<string | undefined>) => async (): Promise<void> => {
    try {
      const done = await work();
      if (done) store.notify({ place, tone: "info", text: done });
    } catch (thrown) {
      store.notify({
        place,
        tone: "error",
        text: "The files could not be saved.",
        problem: describe(thrown),
      });
    }
  };
  const scope = window;
  return {
    /** `undefined` where the files are too many bytes for a zip. */
    zip:
      totalBytes(files) <= ZIP_LIMIT_BYTES
        ? attempt(async () => {
            saveBlob(await zip(files, name), `${name}.zip`);
            return undefined;
          })
        : undefined,
    /** `undefined` where the browser cannot write into folders. */
    folder: canPickFolder(scope)
      ? attempt(async () => {
          const folder = await saveToFolder(scope, files, name);
          return folder === undefined ? undefined : `Saved as ${name} in ${folder}.`;
        })
      : undefined,
  };
}

const folderName = (output: MergeOptions["output"]): string =>
  output === "adapter" ? "merged-adapter" : "merged-model";

export function savePanel(store: Store, { files, output }: Result): TemplateResult {
  const ways = waysToSave(store, { place: "save", name: folderName(output), files });
  const what = output === "adapter" ? "adapter" : "model";
  return html`
    <section class="panel" aria-labelledby="save-heading">
      <div class="save-head">
        <h3 id="save-heading">Save it</h3>
        <div class="save-buttons">
          ${
            ways.zip
              ? html`
                <button class="primary" type="button" @click=${ways.zip}>
                  ${icons.save} Download ${what} (.zip, ${bytes(totalBytes(files))})
                </button>
              `
              : nothing
          }
          ${
            ways.folder
              ? html`
                <button class="secondary" type="button" @click=${ways.folder}>${icons.folder} Save to a folder</button>
              `
              : nothing
          }
        </div>
      </div>
      <details>
        <summary>Single files</summary>
        <ul class="files">${files.map(fileRow)}</ul>
      </details>
      ${notices(store, "save")}
    </section>
  `;
}

/** What a file is for, where its name does not say it. */
const PURPOSES: Readonly<Record<string, string>> = {
  "README.md": "model card for the hub",
  "merge_report.json": "report of every layer, and the recipe to repeat the merge",
};

const fileRow = ({ name, blob }: OutputFile): TemplateResult => html`
  <li>
    <span>
      <button class="link" type="button" @click=${() => saveBlob(blob, name.slice(name.lastIndexOf("/") + 1))}>
        ${name}<span class="sr-only">, download</span>
      </button>
      ${PURPOSES[name] ? html`<span class="hint">${PURPOSES[name]}</span>` : nothing}
    </span>
    <span class="muted tabular">${bytes(blob.size)}</span>
  </li>
`;

/** For a row of a table: the zip, or the folder where there is no zip. */
export function saveButton(
  store: Store,
  title: string,
  { name, files }: Pick<Saving, "name" | "files">,
): TemplateResult {
  const ways = waysToSave(store, { place: "method-comparison", name, files });
  return html`
    ${
      ways.zip
        ? html`
          <button class="secondary small" type="button" @click=${ways.zip}>
            ${icons.save} Save<span class="sr-only"> ${title} as a zip</span>
          </button>
        `
        : nothing
    }
    ${
      ways.folder
        ? html`
          <button class="quiet icon-only" type="button" title="Save to a folder" @click=${ways.folder}>
            ${icons.folder}<span class="sr-only">Save ${title} to a folder</span>
          </button>
        `
        : nothing
    }
  `;
}
