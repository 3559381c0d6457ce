// The licences of what is inside the package: the crates in the wasm module and the npm packages in the bundles.
// Their authors ask for their notices to travel with every copy.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { output, Stop } from "../console.mjs";
import { root } from "../paths.mjs";
import { nativeRust, registrySources } from "./rust.mjs";

/** @typedef {{ name: string, version: string, license: string, folder: string, home: string }} Part */

/**
 * @param {Iterable<string>} modules the files that were bundled
 * @returns {Promise<string>} Markdown
 */
export async function notices(modules) {
  const parts = [...(await crates()), ...npmPackages(modules)];
  /** @type {Map<string, Part[]>} */
  const byText = new Map();
  for (const part of parts) {
    const text = licenceFiles(part).join("\n\n") || `Licence: ${part.license}. Its source: ${part.home}`;
    byText.set(text, [...(byText.get(text) ?? []), part]);
  }
  const sections = [...byText].map(([text, of]) => {
    const names = of.map(({ name, version, license }) => `- ${name} ${version} (${license})`);
    return `${names.join("\n")}\n\n\`\`\`text\n${text}\n\`\`\`\n`;
  });
  return `# What is inside, and under which licences\n\n${sections.join("\n")}`;
}

/** The crates that the wasm module is made of; macros and build scripts leave nothing of themselves in it. */
async function crates() {
  const { cargo, env } = await nativeRust();
  const tree = ["tree", "--locked", "--package=iteris-web", "--target=wasm32-unknown-unknown"];
  const listing = [...tree, "--edges=normal,no-proc-macro", "--prefix=none", "--format={p}|{l}"];
  const text = output(cargo, [...listing, `--manifest-path=${join(root, "Cargo.toml")}`], {
    env,
    seconds: 300,
  });
  if (text === null) throw new Stop("cargo tree failed");
  const registries = readdirSync(registrySources).map((index) => join(registrySources, index));
  // The first line is this crate itself; "(*)" marks what stood there before.
  const dependencies = new Set(
    text
      .split("\n")
      .slice(1)
      .map((line) => line.replace(/ \(\*\)$/, "")),
  );
  return [...dependencies].sort().map((line) => {
    const [, name = "", version = "", license = ""] = line.match(/^(\S+) v(\S+).*\|(.*)$/) ?? [];
    const folder = registries.map((registry) => join(registry, `${name}-${version}`)).find(existsSync);
    if (!folder) throw new Stop(`the source of ${line} is not in cargo's registry`);
    return { name, version, license, folder, home: `https://crates.io/crates/${name}` };
  });
}

/** @param {Iterable<string>} modules @returns {Part[]} */
function npmPackages(modules) {
  const folders = new Set();
  for (const module of modules) {
    const folder = module.match(/^.*\/node_modules\/(?:@[^/]+\/)?[^/]+/)?.[0];
    if (folder) folders.add(folder);
  }
  return [...folders].map((folder) => {
    const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    return { name, version, license, folder, home: `https://www.npmjs.com/package/${name}` };
  });
}

/** The texts that come with a part; where it may be had under MIT, that one and any notice. @param {Part} part */
function licenceFiles({ license, folder }) {
  const all = readdirSync(folder)
    .filter((name) => /^(licen[cs]e|copying|notice|unlicense)/i.test(name))
    .sort();
  const mit = all.filter((name) => /mit|notice/i.test(name));
  const names = /\bMIT\b/.test(license) && mit.some((name) => /mit/i.test(name)) ? mit : all;
  return names.map((name) => readFileSync(join(folder, name), "utf8").replaceAll("\r\n", "\n").trim());
}
