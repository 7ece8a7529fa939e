/**
 * ranges.ts - which octets beyond rcvNxt are already here
 *
 * A connection's out-of-order ranges are a sorted list of disjoint, non-adjacent [start, end) nodes
 * from one pool. `cover()` adds a range, moves rcvNxt over all that has become contiguous, and, when
 * asked, stores exactly the octets that were not here before: the first copy of an octet wins.
 */
import { RANGE_NODES, RANGES_PER_CONNECTION } from "../limits";
import { state } from "../state";
import { after, before } from "../wire/bytes";
import { Connection } from "../flow/connection";
import { Chain, write } from "./chain";

/** Outcome of `cover()` when something could not be kept. */
export const COVER_NO_MEMORY: i32 = -1;
export const COVER_TOO_MANY: i32 = -2;

/** Octets [start, end) that came early. */
@unmanaged
export class Range {
  start: u32 = 0;
  end: u32 = 0;
  next: u32 = 0;
}

/** The range at `index + 1`, for lists. */
export function node(index: u32): Range {
  return changetype<Range>(state().ranges + <usize> (index - 1) * offsetof<Range>());
}

/** Octets of the node pool. */
export function rangesSize(): u32 {
  return RANGE_NODES * offsetof<Range>();
}

/** Links all nodes into the pool. */
export function formatRanges(): void {
  const s = state();
  s.freeRange = 0;
  for (let i = RANGE_NODES; i > 0; i--) {
    node(i).next = s.freeRange;
    s.freeRange = i;
  }
}

/** Frees all of a connection's ranges. */
export function clearRanges(c: Connection): void {
  const s = state();
  while (c.range) {
    const n = node(c.range);
    const next = n.next;
    n.next = s.freeRange;
    s.freeRange = c.range;
    c.range = next;
  }
  c.rangeCount = 0;
}

/**
 * Adds [start, end) of the client's stream; octets before rcvNxt are ignored. With `chain` not null
 * the new octets are stored there, taken from `from` (which holds `start`). Returns how many octets
 * were new, or COVER_NO_MEMORY / COVER_TOO_MANY, after which the connection cannot stay protected.
 */
export function cover(c: Connection, start: u32, end: u32, from: usize, chain: Chain | null): i32 {
  if (before(start, c.rcvNxt)) {
    if (!after(end, c.rcvNxt)) return 0;
    from += c.rcvNxt - start;
    start = c.rcvNxt;
  }
  if (start == end) return 0;
  let fresh: u32 = 0;
  // In order with nothing waiting: by far the most frequent case.
  if (start == c.rcvNxt && !c.range) {
    if (chain !== null && !write(chain, start, start, from, end - start)) return COVER_NO_MEMORY;
    c.rcvNxt = end;
    return <i32> (end - start);
  }
  // Store what no range covers.
  let cursor = start;
  let index = c.range;
  while (before(cursor, end)) {
    while (index && !after(node(index).end, cursor)) index = node(index).next;
    let stop = end;
    if (index) {
      const n = node(index);
      if (!after(n.start, cursor)) {
        cursor = before(n.end, end) ? n.end : end;
        continue;
      }
      if (before(n.start, end)) stop = n.start;
    }
    if (chain !== null && !write(chain, c.rcvNxt, cursor, from + (cursor - start), stop - cursor)) {
      return COVER_NO_MEMORY;
    }
    fresh += stop - cursor;
    cursor = stop;
  }
  if (!fresh && after(start, c.rcvNxt)) return 0;
  // Join it with the ranges it touches.
  const s = state();
  let previous: u32 = 0;
  index = c.range;
  while (index && before(node(index).end, start)) {
    previous = index;
    index = node(index).next;
  }
  while (index && !after(node(index).start, end)) {
    const n = node(index);
    if (before(n.start, start)) start = n.start;
    if (after(n.end, end)) end = n.end;
    const next = n.next;
    n.next = s.freeRange;
    s.freeRange = index;
    index = next;
    c.rangeCount--;
    if (previous) node(previous).next = next;
    else c.range = next;
  }
  if (!after(start, c.rcvNxt)) {
    c.rcvNxt = end;
    return <i32> fresh;
  }
  const taken = s.freeRange;
  if (!taken || c.rangeCount >= RANGES_PER_CONNECTION) return COVER_TOO_MANY;
  s.freeRange = node(taken).next;
  const n = node(taken);
  n.start = start;
  n.end = end;
  n.next = index;
  if (previous) node(previous).next = taken;
  else c.range = taken;
  c.rangeCount++;
  return <i32> fresh;
}
