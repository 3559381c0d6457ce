import { defineConfig } from "vitest/config";

// One file after the other, without starting anew in between: they share a browser, a built library, a packed package.
const inOneProcess = { fileParallelism: false, maxWorkers: 1, isolate: false };

// Projects, because they need different things built first: `unit` needs nothing, `cli` a wasm module and
// the built package in dist/, `browser` a wasm module and Chromium, `package` the built package and npm,
// `emotion` a wasm module, Chromium, and the real model of the fixtures (`npm run test:peers`).
export default defineConfig({
  test: {
    projects: [
      { test: { name: "unit", include: ["tests/unit/**/*.test.ts"], testTimeout: 30_000 } },
      { test: { name: "cli", include: ["tests/cli/**/*.test.ts"], testTimeout: 60_000 } },
      {
        test: {
          name: "browser",
          include: ["tests/browser/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          ...inOneProcess,
        },
      },
      {
        test: {
          name: "emotion",
          include: ["tests/emotion/**/*.test.ts"],
          testTimeout: 600_000,
          hookTimeout: 120_000,
          ...inOneProcess,
        },
      },
      {
        test: {
          name: "package",
          include: ["tests/package/**/*.test.ts"],
          testTimeout: 300_000,
          hookTimeout: 300_000,
          ...inOneProcess,
        },
      },
    ],
  },
});
