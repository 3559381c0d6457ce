// The page, built into build/page.
import { run, say, since } from "../console.mjs";
import { npmBin, root } from "../paths.mjs";

export async function buildPage() {
  const begin = performance.now();
  await run(npmBin("vite"), ["build", "--logLevel", "warn"], { cwd: root, shows: "vite build" });
  say("set-up", `page: built (${since(begin)})`);
}
