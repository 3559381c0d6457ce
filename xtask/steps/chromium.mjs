// A Chromium for the browser tests.
import { find, Stop, say } from "../console.mjs";
import { aptInstall } from "./apt.mjs";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const MACOS = [
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
];
const REMEDY = "install Chrome or Chromium, or set CHROME_PATH to one";

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
