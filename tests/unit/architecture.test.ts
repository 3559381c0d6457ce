/**
 * Which way the house points: every room uses rooms below it, and no file uses itself by way of others.
 *
 * The order stands here, once; the head comment of `src/lib.rs` tells it to readers, and the two are held together.
 * `#[cfg(test)]` modules are free: tests may build what they need from anywhere.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { circles, circlesOf } from "./architecture/circles.ts";
import { faultsOf, type Order, violations } from "./architecture/order.ts";
import { broken, type Use } from "./architecture/report.ts";
import { codeOf, pathsOfTree, roomOfRust, usesOfRust } from "./architecture/rust.ts";
import { roomOfPath, usesOfTypeScript } from "./architecture/typescript.ts";

const ground = ["error", "progress"];
const told = [...ground, "describe"];
const machine = [...told, "io", "compute"];
const words = [...machine, "delta", "naming"];
const bound = [...words, "pictures", "adapter", "model", "binding"];

/** The rooms of `src` from the ground up, and what each may use. `model` knows no adapters. */
const RUST: Order = [
  ["error", []],
  ["progress", ["error"]],
  ["describe", ["error"]],

  ["io", told],
  ["compute", told],

  ["delta", machine],
  ["naming", ["error"]],
  ["pictures", [...ground, "io"]],

  ["adapter", words],
  ["model", [...words, "pictures"]],
  ["binding", [...words, "pictures", "adapter", "model"]],

  ["generate", bound],
  ["calibrate", [...bound, "generate"]],
  ["compare", [...bound, "generate", "calibrate"]],
  ["merge", [...bound, "generate", "calibrate"]],
  ["export", [...bound, "calibrate", "merge"]],

  ["jobs", [...bound, "generate", "calibrate", "compare", "merge", "export"]],
  ["wasm", [...bound, "generate", "calibrate", "compare", "merge", "export", "jobs"]],
];

const facts = ["lib/generated", "lib/errors", "lib/types"];
const vocabulary = [...facts, "lib/options", "lib/methods", "lib/sampling", "lib/wasm-interface"];
const inputs = [...vocabulary, "lib/sources", "lib/samples", "lib/tokens"];
const engine = [...inputs, "lib/recipe", "lib/device", "lib/engine", "wasm"];

/** The rooms of `www`, files and folders. Page and command line use what the package exports, and nothing else. */
const TYPESCRIPT: Order = [
  ["wasm", []],

  ["lib/generated", []],
  ["lib/errors", ["lib/generated"]],
  ["lib/types", ["lib/generated", "lib/errors"]],
  ["lib/layer-weights", []],
  ["lib/patterns", []],
  ["lib/pace", facts],
  ["lib/options", facts],
  ["lib/methods", facts],
  ["lib/sampling", [...facts, "lib/options"]],
  ["lib/wasm-interface", [...facts, "lib/options", "lib/sampling"]],
  ["lib/recipe", [...facts, "lib/options", "lib/methods"]],

  ["lib/sources", vocabulary],
  ["lib/samples", [...vocabulary, "lib/sources"]],
  ["lib/tokens", [...vocabulary, "lib/sources", "lib/samples"]],
  ["lib/device", facts],
  ["lib/engine", [...inputs, "lib/device"]],
  ["lib/worker", engine],
  ["lib/index", [...inputs, "lib/layer-weights", "lib/patterns", "lib/pace", "lib/recipe", "lib/worker"]],

  ["node", engine],
  ["node/index", [...engine, "lib/layer-weights", "lib/patterns", "lib/pace", "node"]],

  ["page", ["lib/index"]],
  ["node/cli", ["node/index"]],
];

const root = new URL("../../", import.meta.url);

/** The files below a folder of the repository with that ending, by their paths. */
function sources(folder: string, ending: string): Map<string, string> {
  const names = readdirSync(new URL(`${folder}/`, root), { recursive: true, encoding: "utf8" });
  const paths = names
    .filter((name) => name.endsWith(ending))
    .map((name) => `${folder}/${name}`.replaceAll("\\", "/"));
  return new Map(paths.sort().map((path) => [path, readFileSync(new URL(path, root), "utf8")]));
}

/** The rooms that the head comment of `lib.rs` lists, from the ground up: the first column of its table. */
function roomsInComment(lib: string): string[] {
  const rows = lib.split("\n").filter((line) => /^\/\/! \|.*\|.*\|/.test(line));
  return rows.flatMap((row) =>
    [...(row.split("|")[1] ?? "").matchAll(/`(\w+)`/g)].map(([, name = ""]) => name),
  );
}

/** What the comment tells otherwise than the order, or the modules of `lib.rs` otherwise than both. */
function disagreements(lib: string, order: Order): string[] {
  const told = roomsInComment(lib);
  const modules = [...codeOf(lib).matchAll(/\bmod\s+(\w+)\s*;/g)].map(([, name = ""]) => name);
  const rooms = order.map(([room]) => room);
  return [
    ...rooms.filter((room) => !told.includes(room)).map((room) => `the comment does not tell of ${room}`),
    ...told.filter((room) => !rooms.includes(room)).map((room) => `${room} has no place in the order`),
    ...modules
      .filter((room) => !rooms.includes(room))
      .map((room) => `the module ${room} has no place in the order`),
    ...rooms.filter((room) => !modules.includes(room)).map((room) => `there is no module ${room}`),
    ...order.flatMap(([room, uses]) =>
      uses
        .filter((other) => told.indexOf(other) > told.indexOf(room) && told.includes(room))
        .map((other) => `the comment has ${room} below ${other}, which it may use`),
    ),
  ];
}

const rustViolations = (files: ReadonlyMap<string, string>): string[] =>
  violations(RUST, usesOfRust(files).rooms, roomOfRust);

const typescriptUses = (files: ReadonlyMap<string, string>): Use[] =>
  [...files].flatMap(([file, text]) => usesOfTypeScript(file, text));

const roomOfTypeScript = roomOfPath(
  "www",
  TYPESCRIPT.map(([room]) => room),
);

const typescriptViolations = (files: ReadonlyMap<string, string>): string[] =>
  violations(TYPESCRIPT, typescriptUses(files), roomOfTypeScript);

/** What of JavaScript is mentioned elsewhere than in the binding. */
function javascriptOutside(files: ReadonlyMap<string, string>): string[] {
  return [...files].flatMap(([file, text]) => {
    if (/^src\/wasm(\.rs$|\/)/.test(file)) return [];
    const lines = codeOf(text).split("\n");
    return lines.flatMap((line, i) =>
      /\b(JsValue|js_sys|web_sys|wasm_bindgen)\b/.test(line)
        ? [`${file}:${i + 1}: JavaScript is seen by src/wasm.rs alone (${line.trim()})`]
        : [],
    );
  });
}

describe("the order", () => {
  it("has each room once, and none that uses one above it", () => {
    expect([...faultsOf(RUST), ...faultsOf(TYPESCRIPT)]).toEqual([]);
  });

  it("is told by the head comment of src/lib.rs, which declares the same rooms", () => {
    expect(disagreements(readFileSync(new URL("src/lib.rs", root), "utf8"), RUST)).toEqual([]);
  });
});

describe("src", () => {
  const files = sources("src", ".rs");

  // Every path of every file is resolved: some seconds on a busy machine.
  it("keeps the order", { timeout: 60_000 }, () => {
    expect(rustViolations(files)).toEqual([]);
  });

  it("has no circle of files, a module with its own children apart", () => {
    const { files: uses, isParent } = usesOfRust(files);
    expect(circles(uses, isParent)).toEqual([]);
  });

  it("shows JavaScript to the binding alone", () => {
    expect(javascriptOutside(files)).toEqual([]);
  });
});

describe("www", () => {
  const files = sources("www", ".ts");

  it("keeps the order; page and command line use what the package exports alone", () => {
    expect(typescriptViolations(files)).toEqual([]);
  });

  it("has no circle of files", () => {
    expect(circles(typescriptUses(files))).toEqual([]);
  });

  it("is read as it is: every import that is found leads to a file", () => {
    const missing = typescriptUses(files).filter(
      ({ target }) => !target.startsWith("www/wasm/") && !existsSync(new URL(target, root)),
    );
    expect(missing.map((use) => broken(use, use.written))).toEqual([]);
  });
});

// What follows shows that each of the rules can fail.

const rust = (files: Record<string, string>) => new Map(Object.entries(files));

describe("a broken order in Rust", () => {
  it.each([
    ["a plain path", "use crate::merge::Solution;", 1],
    [
      "nested braces",
      "use crate::{\n    error::Result,\n    merge::{self, methods::{ties, Layer as L}},\n};",
      1,
    ],
    ["a name that is given anew", "use crate::merge as other;", 1],
    ["a path up through the crate", "use super::super::merge::Solution;", 1],
    ["a path in the code", "fn f() {\n    crate::merge::solve();\n}", 2],
    ["a path in a module of the file", "mod inner {\n    use super::super::super::merge::Solution;\n}", 2],
    ["a name that is passed on", "pub(crate) use crate::merge::*;", 1],
  ])("is found in %s", (_, text, line) => {
    const files = rust({ "src/merge/mod.rs": "pub struct Solution;", "src/model/parts.rs": text });
    const found = rustViolations(files);
    expect(found.length).toBeGreaterThan(0);
    expect(new Set(found.map((one) => one.split(": ").slice(0, 2).join(": ").replace(/ \(.*/, "")))).toEqual(
      new Set([`src/model/parts.rs:${line}: model uses merge`]),
    );
  });

  it("is told with the rule in words", () => {
    const files = rust({
      "src/adapter/mod.rs": "pub struct Adapter;",
      "src/model/mod.rs": "\nuse crate::adapter::Adapter;",
      "src/io.rs": "use crate::model::Model;",
      "src/attic.rs": "use crate::io::Folder;",
    });
    expect(rustViolations(files)).toEqual([
      "src/model/mod.rs:2: model uses adapter (crate::adapter::Adapter), which stands below it, but is not among " +
        "what it may use; model may use error, progress, describe, io, compute, delta, naming, pictures",
      "src/io.rs:1: io uses model (crate::model::Model), which stands above it; io may use error, progress, describe",
      "src/attic.rs:1: attic has no place in the order",
    ]);
  });

  it.each([
    ["a test module", "#[cfg(test)]\nmod tests {\n    use crate::merge::Solution;\n}"],
    [
      "a test module with more to it",
      "#[cfg(test)]\n#[expect(x)]\npub(crate) mod tests {\n    use crate::merge::X;\n}",
    ],
    ["a test module in a file of its own", "#[cfg(test)]\nmod tests;"],
    ["an import for tests", "#[cfg(test)]\nuse crate::merge::Solution;"],
    [
      "a comment",
      "//! See [`crate::merge::Solution`].\n/* use crate::merge::X; /* nested */ crate::merge::X */",
    ],
    ["a string", 'const A: &str = "crate::merge::X"; const B: &str = r#"use "crate::merge::X;"#;'],
    ["another crate's module of that name", "use other::merge::Solution;"],
    ["what it may use", "use crate::{error::Result, naming::{self, ModulePath}};"],
  ])("is not found in %s", (_, text) => {
    const files = rust({
      "src/merge/mod.rs": "",
      "src/error.rs": "",
      "src/naming.rs": "",
      "src/model/mod.rs": text,
      "src/model/tests.rs": text.includes("mod tests;") ? "use crate::merge::Solution;" : "",
    });
    expect(rustViolations(files)).toEqual([]);
  });

  it("is not taken from characters, which look like strings", () => {
    const code = codeOf("let a = '\"'; use crate::io; let b = '\\''; fn f<'a>(x: &'a str) {} // end");
    expect(code.split(/\s+/).join(" ")).toBe("let a = ; use crate::io; let b = ; fn f<'a>(x: &'a str) {} ");
  });

  it("takes a tree of paths apart", () => {
    const tree = "crate::{a, b::{self, c::*, d as e}, f::g}";
    expect(pathsOfTree(tree).map(({ path, name }) => `${path.join("::")} ${name}`)).toEqual([
      "crate::a a",
      "crate::b b",
      "crate::b::c::* *",
      "crate::b::d e",
      "crate::f::g g",
    ]);
  });

  it("is found where JavaScript is seen outside of the binding", () => {
    const files = rust({
      "src/io.rs": "// JsValue\nuse wasm_bindgen::JsValue;",
      "src/wasm.rs": "use wasm_bindgen::JsValue;",
    });
    expect(javascriptOutside(files)).toEqual([
      "src/io.rs:2: JavaScript is seen by src/wasm.rs alone (use wasm_bindgen::JsValue;)",
    ]);
  });
});

describe("a circle in Rust", () => {
  const found = (files: Record<string, string>) => {
    const { files: uses, isParent } = usesOfRust(rust(files));
    return circles(uses, isParent).map((circle) => circle.split("\n")[0]);
  };

  it("is found between two files, in whatever way they name each other", () => {
    const files = { "src/io/mod.rs": "mod a;\nmod b;", "src/io/a.rs": "pub struct A(super::b::B);" };
    expect(found({ ...files, "src/io/b.rs": "use crate::io::a::A;\npub struct B;" })).toEqual([
      "a circle of 2 files: src/io/a.rs, src/io/b.rs",
    ]);
  });

  it("is found through names that a module only passes on", () => {
    const files = {
      "src/io/mod.rs": "mod a;\nmod b;\npub use self::{a::A, b::*};",
      "src/io/a.rs": "use super::B;\npub struct A;",
      "src/io/b.rs": "use crate::io::A;\npub struct B;",
    };
    expect(found(files)).toEqual(["a circle of 2 files: src/io/a.rs, src/io/b.rs"]);
  });

  it("is found between a module and the children of another", () => {
    const files = {
      "src/merge/mod.rs": "pub mod methods;\npub mod solution;",
      "src/merge/methods/mod.rs": "pub mod ties;\npub trait Method {}",
      "src/merge/methods/ties.rs": "use crate::merge::solution::Solution;",
      "src/merge/solution.rs": "use crate::merge::methods::Method;\npub struct Solution;",
    };
    expect(found(files)).toEqual([
      "a circle of 3 files: src/merge/methods/mod.rs, src/merge/methods/ties.rs, src/merge/solution.rs",
    ]);
  });

  it("is none between a module and its own children, or through tests", () => {
    const files = {
      "src/io/mod.rs": "mod a;\nmod b;\npub struct Io(a::A, b::B);",
      "src/io/a.rs":
        "use super::Io;\npub struct A;\n#[cfg(test)]\nmod tests {\n    use super::super::b::B;\n}",
      "src/io/b.rs": "use super::{a::A, Io};\npub struct B;",
    };
    expect(found(files)).toEqual([]);
  });
});

describe("a broken order in TypeScript", () => {
  const at = (file: string, text: string) => typescriptViolations(rust({ [file]: text }));

  it.each([
    [
      "a page that goes behind the library",
      "www/page/run.ts",
      'import { a } from "../lib/engine/engine.ts";',
    ],
    ["a page that takes only a type", "www/page/run.ts", 'import type { A } from "../lib/types.ts";'],
    ["a page that uses Node's side", "www/page/run.ts", 'import { a } from "../node/index.ts";'],
    ["a command line that goes behind its entry", "www/node/cli/merge.ts", 'import { a } from "../run.ts";'],
    [
      "a command line that uses the library's files",
      "www/node/cli/a.ts",
      'export * from "../../lib/errors.ts";',
    ],
    ["a library that uses the page", "www/lib/engine/a.ts", 'import "../../page/main.ts";'],
    ["a low file that uses a high one", "www/lib/types.ts", 'import {\n  type A,\n} from "./methods.ts";'],
    [
      "an import that is made later",
      "www/lib/sources/a.ts",
      'const a = await import("../engine/engine.ts");',
    ],
    [
      "a worker's address",
      "www/page/a.ts",
      'new Worker(new URL("../lib/worker/worker.ts", import.meta.url));',
    ],
    ["a file that has no place", "www/lib/attic.ts", 'import "./errors.ts";'],
  ])("is found in %s", (_, file, text) => {
    expect(at(file, text)).toHaveLength(1);
  });

  it("is told with file, line and the rule in words", () => {
    expect(
      at("www/page/run.ts", '/* import "../lib/a.ts"; */\nimport a from "../lib/engine/engine.ts";'),
    ).toEqual([
      "www/page/run.ts:2: page uses lib/engine (../lib/engine/engine.ts), which stands below it, but is not among " +
        "what it may use; page may use lib/index",
    ]);
  });

  it.each([
    ["a page's own file", "www/page/run.ts", 'import { a } from "./state.ts";'],
    ["what the package exports", "www/page/run.ts", 'import { a } from "../lib/index.ts";'],
    ["what the package exports in Node", "www/node/cli/a.ts", 'import { a } from "../index.ts";'],
    ["another package", "www/lib/types.ts", 'import { a } from "lit-html";'],
    ["a comment", "www/page/a.ts", '// import { a } from "../lib/types.ts";'],
  ])("is not found in %s", (_, file, text) => {
    expect(at(file, text)).toEqual([]);
  });
});

describe("a circle in TypeScript", () => {
  it("is found of any length, types alone too, with a line for each of its arrows", () => {
    const files = rust({
      "www/page/a.ts": 'import type { B } from "./b.ts";',
      "www/page/b.ts": '\nexport { c } from "./c.ts";',
      "www/page/c.ts": 'import { a } from "./a.ts";\nimport { d } from "./d.ts";',
      "www/page/d.ts": "",
    });
    expect(circles(typescriptUses(files))).toEqual([
      [
        "a circle of 3 files: www/page/a.ts, www/page/b.ts, www/page/c.ts",
        "  www/page/a.ts:1: uses www/page/b.ts (./b.ts)",
        "  www/page/b.ts:2: uses www/page/c.ts (./c.ts)",
        "  www/page/c.ts:1: uses www/page/a.ts (./a.ts)",
      ].join("\n"),
    ]);
  });

  it("is told apart from others", () => {
    const edges = { a: ["b"], b: ["a", "c"], c: ["d"], d: ["c", "e"], e: [] };
    const sets = new Map(Object.entries(edges).map(([file, uses]) => [file, new Set(uses)]));
    expect(circlesOf(sets).sort()).toEqual([
      ["a", "b"],
      ["c", "d"],
    ]);
  });
});

describe("a faulty order", () => {
  it("is refused where it points upward or tells a room twice", () => {
    const order: Order = [
      ["a", ["b"]],
      ["b", []],
      ["b", ["a"]],
    ];
    expect(faultsOf(order)).toEqual([
      "a may not use b, which does not stand before it",
      "b stands in the order twice",
    ]);
  });

  it("is found where the comment or the modules tell another", () => {
    const order: Order = [
      ["error", []],
      ["io", ["error"]],
      ["merge", ["io"]],
    ];
    const lib = (rooms: string, modules: string) =>
      `//! | room | what |\n//! |---|---|\n${rooms
        .split(" ")
        .map((room) => `//! | [\`${room}\`] | x |`)
        .join("\n")}\n${modules}`;
    const all = "pub mod error;\nmod io;\n#[cfg(x)]\nmod merge;";
    expect(disagreements(lib("error io merge", all), order)).toEqual([]);
    expect(disagreements(lib("io error merge", all), order)).toEqual([
      "the comment has io below error, which it may use",
    ]);
    expect(disagreements(lib("error io attic", `${all}\nmod attic;`), order)).toEqual([
      "the comment does not tell of merge",
      "attic has no place in the order",
      "the module attic has no place in the order",
    ]);
    expect(disagreements(lib("error io merge", "mod error;\nmod io;"), order)).toEqual([
      "there is no module merge",
    ]);
  });
});
