// A Chromium for the browser tests.
import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { find, Stop, say } from "../console.mjs";
import { aptInstall } from "./apt.mjs";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const MACOS = [
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
];
const REMEDY = "install Chrome or Chromium, or set CHROME_PATH to one";

/** Where Debian keeps what its `chromium`, a shell script, starts. */
const DEBIAN = "/usr/lib/chromium";

/**
 * How a native program finds the software adapter for Vulkan that a browser brings with it.
 * @param {string} browser the path of its program
 * @returns {Record<string, string> | null} environment variables; `null` where it brings none
 */
export function softwareGpu(browser) {
  const folders = [dirname(realpathSync(browser)), DEBIAN];
  const folder = folders.find((folder) => existsSync(join(folder, "vk_swiftshader_icd.json")));
  if (folder === undefined) return null;
  const driver = join(folder, "vk_swiftshader_icd.json");
  // The first is what Vulkan's loader, which lies beside it, reads today; the second what it read before.
  return { VK_DRIVER_FILES: driver, VK_ICD_FILENAMES: driver, LD_LIBRARY_PATH: folder };
}

/** @returns {Promise<string>} the path of its program */
export async function chromium() {
  const told = process.env.CHROME_PATH;
  if (told) {
    if (!find(told)) throw new Stop(`CHROME_PATH is ${told}, which is no program`, REMEDY);
    return told;
  }
  const there = [...NAMES, ...MACOS].map((name) => find(name)).find((path) => path !== null);
  if (there) {
    say("set-up", `browser: ${there}`);
    return there;
  }
  await aptInstall(["chromium"], REMEDY);
  const installed = find("chromium");
  if (!installed) throw new Stop("no browser after installing one", REMEDY);
  return installed;
}
