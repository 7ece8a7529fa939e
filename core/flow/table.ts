/**
 * table.ts - from addresses and ports to a record
 *
 * Open addressing with linear probing; an entry is {index + 1, hash}, so a probe touches a record
 * only when the whole hash agrees. The table has at least twice as many entries as records, and
 * deletion shifts later entries back (Knuth 6.4 algorithm R) instead of leaving tombstones.
 */
import { state } from "../state";
import { at, Connection, indexOf } from "./connection";

/** Hash of a client's address and both ports; multiply and fold, not secret. */
export function hashOf(a0: u32, a1: u32, a2: u32, a3: u32, ports: u32): u32 {
  let h: u64 = (<u64> a0 | (<u64> ports << 32)) * 0x9e3779b97f4a7c15;
  h ^= h >>> 29;
  h = (h ^ (<u64> a1 | (<u64> a2 << 32))) * 0xbf58476d1ce4e5b9;
  h ^= h >>> 32;
  h = (h ^ a3) * 0x94d049bb133111eb;
  return <u32> (h ^ (h >>> 31));
}

/** Index + 1 of the record with this key, 0 when there is none. */
export function find(a0: u32, a1: u32, a2: u32, a3: u32, ports: u32): u32 {
  const s = state();
  const hash = hashOf(a0, a1, a2, a3, ports);
  let slot = hash & s.flowMask;
  while (true) {
    const entry = s.flows + (<usize> slot << 3);
    const index = load<u32>(entry);
    if (!index) return 0;
    if (load<u32>(entry, 4) == hash) {
      const c = at(index - 1);
      if (c.ports == ports && c.c0 == a0 && c.c1 == a1 && c.c2 == a2 && c.c3 == a3) return index;
    }
    slot = (slot + 1) & s.flowMask;
  }
}

/** Enters a record by the key it holds. The caller has made sure that the key is not there. */
export function insert(c: Connection): void {
  const s = state();
  c.hash = hashOf(c.c0, c.c1, c.c2, c.c3, c.ports);
  let slot = c.hash & s.flowMask;
  while (load<u32>(s.flows + (<usize> slot << 3))) slot = (slot + 1) & s.flowMask;
  const entry = s.flows + (<usize> slot << 3);
  store<u32>(entry, indexOf(c) + 1);
  store<u32>(entry, c.hash, 4);
}

/** Removes a record that is in the table. */
export function remove(c: Connection): void {
  const s = state();
  const mask = s.flowMask;
  const wanted = indexOf(c) + 1;
  let hole = c.hash & mask;
  while (load<u32>(s.flows + (<usize> hole << 3)) != wanted) {
    if (!load<u32>(s.flows + (<usize> hole << 3))) return;
    hole = (hole + 1) & mask;
  }
  let next = hole;
  while (true) {
    next = (next + 1) & mask;
    const entry = s.flows + (<usize> next << 3);
    const index = load<u32>(entry);
    if (!index) break;
    const home = load<u32>(entry, 4) & mask;
    // Move it only when its home does not lie between the hole (exclusive) and where it stands.
    if (((next - home) & mask) < ((next - hole) & mask)) continue;
    store<u64>(s.flows + (<usize> hole << 3), load<u64>(entry));
    hole = next;
  }
  store<u64>(s.flows + (<usize> hole << 3), 0);
}
