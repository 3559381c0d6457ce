// Serves a built page to this machine alone, under the Content-Security-Policy that the page itself states: the header
// also covers workers and what a `meta` element cannot say.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { preview } from "vite";
import { Stop } from "./console.mjs";
import { pageFolder, root } from "./paths.mjs";

/**
 * @param {{ folder?: string, port?: number }} [options] `folder`: of a built page, by default that of `npm start`;
 *   `port`: the first to try, the next free one is taken
 * @returns {Promise<{ url: string, close: () => Promise<void> }>}
 */
export async function servePage({ folder = pageFolder, port = 4280 } = {}) {
  const html = readFileSync(join(folder, "index.html"), "utf8");
  const policy = html.match(/http-equiv="Content-Security-Policy"\s+content="([^"]+)"/)?.[1];
  if (!policy) throw new Stop("index.html states no Content-Security-Policy");
  const server = await preview({
    root,
    configFile: false,
    appType: "mpa",
    logLevel: "warn",
    build: { outDir: folder },
    preview: {
      host: "127.0.0.1",
      port,
      headers: {
        "Content-Security-Policy": `${policy.replace(/\s+/g, " ").trim().replace(/;$/, "")}; frame-ancestors 'none'`,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
      },
    },
  });
  const url = server.resolvedUrls?.local[0];
  if (!url) throw new Stop("the page's server did not start");
  return { url, close: () => server.close() };
}
