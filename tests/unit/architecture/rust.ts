/**
 * What Rust files use, by the text of their paths: `use` with nested braces, `mod`, and paths in the code, which begin
 * with `crate`, `self`, `super` or the name of a module declared in the file.
 *
 * A path leads to the file that defines what it names. Where a module only passes a name on (`pub use`), the path is
 * followed to where it comes from, so that a `mod.rs` hides no circle between its children.
 */
import { lineAt, type Use } from "./report.ts";

/** What a path begins from: modules by name, without `crate`. */
type Path = readonly string[];

/** A name that a module passes on, or a glob of names. */
interface PassedOn {
  /** `*` for all that is there. */
  name: string;
  from: Path;
}

interface Mention {
  path: Path;
  line: number;
  written: string;
}

interface Module {
  path: Path;
  file: string;
  /** The names of the modules inside. */
  children: Set<string>;
  /** Items that are defined here. */
  items: Set<string>;
  passedOn: PassedOn[];
  mentions: Mention[];
  /** Modules that are there for tests alone, with all below them. */
  test: boolean;
}

const blank = (text: string): string => text.replace(/[^\n]/g, " ");

/** The code with comments, strings and characters blanked out, so that places stay where they are. */
export function codeOf(text: string): string {
  let out = "";
  let depth = 0;
  for (const [part] of text.matchAll(PART)) {
    // Block comments nest.
    if (part === "/*") depth += 1;
    out += depth > 0 || part.length > 2 ? blank(part) : part;
    if (part === "*/" && depth > 0) depth -= 1;
  }
  return out;
}

/** A bracket of a block comment; a line comment, a raw string, a string or a character as a whole; else one letter. */
const PART =
  /\/\*|\*\/|\/\/[^\n]*|\b[bc]?r(#*)"[\s\S]*?"\1|"(?:\\[\s\S]|[^"\\])*"|'(?:\\.[^'\n]*|[^'\\\n])'|[\s\S]/g;

/** `a::{b, c::{self, d as e}}` as its single paths, each with the name that it has afterwards. */
export function pathsOfTree(tree: string): { path: string[]; name: string }[] {
  const open = tree.indexOf("{");
  if (open === -1) {
    const [whole = "", alias] = tree.trim().split(/\s+as\s+/);
    const path = whole.split("::").map((part) => part.trim());
    if (path.at(-1) === "self" && path.length > 1) path.pop();
    return [{ path: path.filter((part) => part !== ""), name: alias?.trim() ?? path.at(-1) ?? "" }];
  }
  const before = tree
    .slice(0, open)
    .split("::")
    .map((part) => part.trim())
    .filter((part) => part !== "");
  return splitList(tree.slice(open + 1, tree.lastIndexOf("}"))).flatMap((part) =>
    pathsOfTree(part).map(({ path, name }) => {
      const own = path.length === 1 && path[0] === "self" ? [] : path;
      return { path: [...before, ...own], name: name === "self" ? (before.at(-1) ?? "") : name };
    }),
  );
}

/** Splits at commas that stand in no braces. */
function splitList(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let part = "";
  for (const letter of text) {
    if (letter === "{") depth += 1;
    if (letter === "}") depth -= 1;
    if (letter === "," && depth === 0) {
      parts.push(part);
      part = "";
    } else part += letter;
  }
  return [...parts, part].filter((one) => one.trim() !== "");
}

/** The end of the block that opens at `open`. */
function closing(code: string, open: number): number {
  let depth = 0;
  for (let i = open; i < code.length; i += 1) {
    if (code[i] === "{") depth += 1;
    if (code[i] === "}") depth -= 1;
    if (depth === 0) return i;
  }
  return code.length;
}

/** Whether the attributes that stand right before a place say that it is for tests alone. */
const isForTests = (before: string): boolean =>
  /#\[cfg\((?:all\([^\]]*\b)?test\b[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?$/.test(before);

const ITEM = /\b(?:struct|enum|union|trait|type|fn|const|static|macro_rules!)\s+(?:mut\s+)?([A-Za-z_]\w*)/g;
const WORD = "[A-Za-z_]\\w*";

/** The modules of a crate. */
class Crate {
  readonly modules = new Map<string, Module>();

  /** Reads a file, and the modules that stand in it as blocks. */
  add(file: string, path: Path, text: string): void {
    this.#read(file, path, codeOf(text), 0, false);
  }

  at(path: Path): Module | undefined {
    return this.modules.get(path.join("::"));
  }

  #read(file: string, path: Path, whole: string, offset: number, test: boolean): void {
    const module: Module = {
      path,
      file,
      children: new Set(),
      items: new Set(),
      passedOn: [],
      mentions: [],
      test,
    };
    this.modules.set(path.join("::"), module);
    let code = whole;
    const cut = (from: number, to: number): void => {
      code = code.slice(0, from) + blank(code.slice(from, to)) + code.slice(to);
    };
    const line = (index: number): number => lineAt(whole, index) + offset;
    for (const match of whole.matchAll(new RegExp(`\\bmod\\s+(${WORD})\\s*([;{])`, "g"))) {
      const [declaration, name = "", end] = match;
      // Inside of a block that was read already.
      if (code.slice(match.index, match.index + 3) !== "mod") continue;
      const tests = test || isForTests(code.slice(0, match.index));
      module.children.add(name);
      const close = end === "{" ? closing(code, match.index + declaration.length - 1) : 0;
      if (end === "{") {
        const start = match.index + declaration.length;
        this.#read(file, [...path, name], code.slice(start, close), line(start) - 1, tests);
        cut(match.index, close + 1);
      } else {
        if (!tests)
          module.mentions.push({ path: [...path, name], line: line(match.index), written: declaration });
        else this.testOnly.add([...path, name].join("::"));
        cut(match.index, match.index + declaration.length);
      }
    }
    for (const match of code.matchAll(/\b(pub(?:\s*\([^)]*\))?\s+)?use\s+([^;]+);/g)) {
      const [statement, , tree = ""] = match;
      const for_tests = isForTests(code.slice(0, match.index));
      for (const { path: used, name } of pathsOfTree(tree.replace(/\s+/g, " "))) {
        const from = this.#absolute(used, module);
        if (from === undefined || for_tests) continue;
        module.passedOn.push({ name, from });
        module.mentions.push({ path: from, line: line(match.index), written: used.join("::") });
      }
      code = code.replace(statement, blank(statement));
    }
    // A visibility names a place and uses nothing of it.
    code = code.replace(/pub\s*\(\s*in[^)]*\)/g, blank);
    for (const [, name = ""] of code.matchAll(ITEM)) module.items.add(name);
    const paths = new RegExp(`(?<![\\w:])${WORD}(?:::${WORD})+`, "g");
    for (const match of code.matchAll(paths)) {
      const used = match[0].split("::");
      const known = ["crate", "self", "super"].includes(used[0] ?? "") || module.children.has(used[0] ?? "");
      const from = known ? this.#absolute(used, module) : undefined;
      if (from) module.mentions.push({ path: from, line: line(match.index), written: match[0] });
    }
  }

  /** Modules that are declared for tests alone, in files of their own. */
  readonly testOnly = new Set<string>();

  /** The path from the root of the crate; `undefined` for one into another crate. */
  #absolute(used: readonly string[], { path, children }: Module): Path | undefined {
    const [first = "", ...rest] = used;
    if (first === "crate") return rest;
    if (first === "self") return [...path, ...rest];
    if (first !== "super") return children.has(first) ? [...path, ...used] : undefined;
    const ups = used.findIndex((part) => part !== "super");
    const count = ups === -1 ? used.length : ups;
    return [...path.slice(0, path.length - count), ...used.slice(count)];
  }

  /** Whether a module, or one around it, is there for tests alone. */
  isTest({ path, test }: Module): boolean {
    return test || path.some((_, i) => this.testOnly.has(path.slice(0, i + 1).join("::")));
  }

  /** The module that defines what a path names. */
  definer(path: Path, seen: ReadonlySet<string> = new Set()): Module | undefined {
    const key = path.join("::");
    if (seen.has(key)) return undefined;
    const visited = new Set([...seen, key]);
    let length = path.length;
    while (length > 0 && this.at(path.slice(0, length)) === undefined) length -= 1;
    const module = this.at(path.slice(0, length));
    const [name, ...rest] = path.slice(length);
    if (module === undefined || name === undefined || name === "*" || module.items.has(name)) return module;
    for (const { from } of module.passedOn.filter((one) => one.name === name)) {
      const found = this.definer([...from, ...rest], visited);
      if (found !== undefined) return found;
    }
    for (const { from } of module.passedOn.filter((one) => one.name === "*")) {
      const found = this.definer([...from.slice(0, -1), name, ...rest], visited);
      if (found?.items.has(rest.at(-1) ?? name)) return found;
    }
    return module;
  }
}

/** What the order looks at: rooms as they are written, and files as names lead to them. */
export interface RustUses {
  /** Between rooms: the target is the first module of the path as it is written. */
  rooms: Use[];
  /** Between files: the target is the file that defines what is named. */
  files: Use[];
  /** Whether the first file is a module that holds the second. */
  isParent(parent: string, child: string): boolean;
}

/** The module path of a file: `src/merge/methods/mod.rs` and `src/merge/methods.rs` are `merge::methods`. */
const moduleOf = (file: string): Path =>
  file
    .replace(/^src\//, "")
    .replace(/\.rs$/, "")
    .split("/")
    .filter((part, i, all) => !(i === all.length - 1 && (part === "mod" || part === "lib")));

/** The room of a file: the folder or file right below `src`; `lib.rs`, which only lists them, has none. */
export const roomOfRust = (file: string): string | undefined => moduleOf(file)[0];

/** Everything that the files of a crate use of each other, but for what `#[cfg(test)]` modules use. */
export function usesOfRust(files: ReadonlyMap<string, string>): RustUses {
  const crate = new Crate();
  for (const [file, text] of files) crate.add(file, moduleOf(file), text);
  const found: RustUses = {
    rooms: [],
    files: [],
    isParent: (parent, child) => {
      const [outer, inner] = [moduleOf(parent), moduleOf(child)];
      return outer.length < inner.length && outer.every((part, i) => inner[i] === part);
    },
  };
  for (const module of crate.modules.values()) {
    if (crate.isTest(module)) continue;
    for (const { path, line, written } of module.mentions) {
      const { file } = module;
      const room = crate.at(path.slice(0, 1));
      if (room && path.length > 0) found.rooms.push({ file, line, target: room.file, written });
      const target = crate.definer(path);
      if (target && !crate.isTest(target) && target.file !== file) {
        found.files.push({ file, line, target: target.file, written });
      }
    }
  }
  return found;
}
