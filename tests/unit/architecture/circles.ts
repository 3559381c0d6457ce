/** Circles between files: sets in which each file uses, by way of others, each other. */
import { broken, type Use } from "./report.ts";

/** Sets of files that use each other in circles (strongly connected components of more than one file). */
export function circlesOf(edges: ReadonlyMap<string, ReadonlySet<string>>): string[][] {
  const order = new Map<string, number>();
  const lowest = new Map<string, number>();
  const stack: string[] = [];
  const found: string[][] = [];
  const visit = (file: string): number => {
    const own = order.size;
    order.set(file, own);
    let low = own;
    stack.push(file);
    for (const other of edges.get(file) ?? []) {
      if (!order.has(other)) low = Math.min(low, visit(other));
      else if (stack.includes(other)) low = Math.min(low, lowest.get(other) ?? order.get(other) ?? own);
    }
    lowest.set(file, low);
    if (low === own) {
      const circle = stack.splice(stack.indexOf(file));
      if (circle.length > 1) found.push(circle.sort());
    }
    return low;
  };
  for (const file of edges.keys()) if (!order.has(file)) visit(file);
  return found;
}

function edgesOf(uses: readonly Use[], files?: ReadonlySet<string>): Map<string, Set<string>> {
  const edges = new Map<string, Set<string>>();
  for (const { file, target } of uses) {
    if (file === target || (files && !(files.has(file) && files.has(target)))) continue;
    edges.set(file, (edges.get(file) ?? new Set()).add(target));
  }
  return edges;
}

/**
 * Every circle, in words.
 *
 * @param isParent - whether the first file is a module that holds the second: such a one may use its own children and
 * be used by them, so that a circle counts only as far as it closes without it
 */
export function circles(
  uses: readonly Use[],
  isParent: (parent: string, child: string) => boolean = () => false,
): string[] {
  const among = (files?: ReadonlySet<string>): string[][] =>
    circlesOf(edgesOf(uses, files)).flatMap((circle) => {
      const parent = circle.find((file) => circle.every((other) => other === file || isParent(file, other)));
      return parent === undefined ? [circle] : among(new Set(circle.filter((file) => file !== parent)));
    });
  return among().map((circle) => {
    const inside = new Set(circle);
    const shown = new Map<string, Use>();
    for (const use of uses) {
      if (use.file !== use.target && inside.has(use.file) && inside.has(use.target)) {
        shown.set(`${use.file} ${use.target}`, use);
      }
    }
    const lines = [...shown.values()].map((use) => `  ${broken(use, `uses ${use.target} (${use.written})`)}`);
    return [`a circle of ${circle.length} files: ${circle.join(", ")}`, ...lines].join("\n");
  });
}
