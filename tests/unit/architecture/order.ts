/** Holds uses of files against a written order of rooms. */
import { broken, type Use } from "./report.ts";

/** A room, and the rooms that it may use: all of them stand before it. */
export type Row = readonly [room: string, uses: readonly string[]];

/** Rooms from the ground up. */
export type Order = readonly Row[];

/** What is wrong with the order itself: a room that stands twice, or uses one that does not stand before it. */
export function faultsOf(order: Order): string[] {
  const faults: string[] = [];
  const before = new Set<string>();
  for (const [room, uses] of order) {
    if (before.has(room)) faults.push(`${room} stands in the order twice`);
    for (const other of uses) {
      if (!before.has(other)) faults.push(`${room} may not use ${other}, which does not stand before it`);
    }
    before.add(room);
  }
  return faults;
}

/**
 * Every use that the order does not allow, in words.
 *
 * @param roomOf - the room of a file; `undefined` for one that belongs to none and is free
 */
export function violations(
  order: Order,
  uses: readonly Use[],
  roomOf: (file: string) => string | undefined,
): string[] {
  const rows = new Map(order);
  const places = new Map(order.map(([room], place) => [room, place]));
  return uses.flatMap((use) => {
    const [from, to] = [roomOf(use.file), roomOf(use.target)];
    if (from === undefined || to === undefined || from === to) return [];
    const allowed = rows.get(from);
    if (allowed === undefined) return [broken(use, `${from} has no place in the order`)];
    if (allowed.includes(to)) return [];
    const place = places.get(to);
    const why =
      place === undefined
        ? "has no place in the order"
        : place > (places.get(from) ?? 0)
          ? "stands above it"
          : "stands below it, but is not among what it may use";
    const may = allowed.length === 0 ? "nothing" : allowed.join(", ");
    return [broken(use, `${from} uses ${to} (${use.written}), which ${why}; ${from} may use ${may}`)];
  });
}
