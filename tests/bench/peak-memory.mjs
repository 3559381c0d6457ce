// Loaded before the command line (node --import): leaves the process's peak memory, in bytes, in a file when it ends.
import { writeFileSync } from "node:fs";

process.on("exit", () => {
  const file = process.env.ITERIS_PEAK_MEMORY;
  if (file) writeFileSync(file, String(process.resourceUsage().maxRSS * 1024));
});
