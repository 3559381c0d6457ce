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
    const inside = uses.filter(
      ({ file, target }) => file !== target && circle.includes(file) && circle.includes(target),
    );
    const own = ({ file, target }: Use) => isParent(file, target) || isParent(target, file);
    const way = shortest(inside.filter((use) => !own(use))) ?? shortest(inside) ?? [];
    const lines = way.map((use) => `  ${broken(use, `uses ${use.target} (${use.written})`)}`);
    return [`a circle of ${circle.length} files: ${circle.join(", ")}`, ...lines].join("\n");
  });
}

/** The fewest uses by which a file leads back to itself. */
function shortest(uses: readonly Use[]): Use[] | undefined {
  let best: Use[] | undefined;
  for (const start of new Set(uses.map(({ file }) => file))) {
    const ways = new Map<string, Use[]>([[start, []]]);
    // A way is looked at after all that are shorter: the map grows while it is gone through.
    for (const [file, way] of ways) {
      for (const use of uses.filter((one) => one.file === file)) {
        if (use.target === start && way.length + 1 < (best?.length ?? Number.POSITIVE_INFINITY)) {
          best = [...way, use];
        }
        if (!ways.has(use.target)) ways.set(use.target, [...way, use]);
      }
    }
  }
  return best;
}
