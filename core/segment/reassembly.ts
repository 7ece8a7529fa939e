/**
 * reassembly.ts - fragments of a TCP segment become one packet again
 *
 * A fragment without the TCP header cannot be logged, and one with it cannot be checked. So the few
 * fragments there are (TCP nearly always sets DF) wait in one of REASSEMBLIES places until they are
 * whole; overlapping ones are refused (RFC 5722), the oldest place is reused when all are taken.
 *
 *   place   | source 16 | id, started, end, have, in use, header, reach, length: u32 each | packet
 *           | one bit for each 8 octets, 1 KiB |
 */
import { PACKET_MAX, REASSEMBLIES, REASSEMBLY_MS } from "../limits";
import { state } from "../state";
import { get16, get32, put16 } from "../wire/bytes";
import { sum } from "../wire/checksum";
import { View, VNET } from "../wire/packet";

@unmanaged
class Place {
  a0: u32 = 0;
  a1: u32 = 0;
  a2: u32 = 0;
  a3: u32 = 0;
  id: u32 = 0;
  started: u32 = 0;
  /** Octets of the whole upper part, 0 while the last fragment is missing. */
  end: u32 = 0;
  have: u32 = 0;
  inUse: u32 = 0;
  /** Octets of the IP header the first fragment had. */
  header: u32 = 0;
  /** End of the furthest fragment. */
  reach: u32 = 0;
  /** Length of the whole packet, just before it: how `joinFragment()` returns it. */
  length: u32 = 0;
}

const HEAD: u32 = offsetof<Place>();
const BITS: u32 = 1024;
const PLACE: u32 = HEAD + 65568 + BITS;

/** Octets of all places. */
export function reassemblySize(): u32 {
  return PLACE * REASSEMBLIES;
}

function place(index: u32): Place {
  return changetype<Place>(state().reassembly + <usize> index * PLACE);
}

/** Address of the whole packet once `v` completes it (its length is the u32 before it), else 0. */
export function joinFragment(v: View): usize {
  const s = state();
  const v4 = v.family == 4;
  let id: u32, offset: u32, more: bool;
  let from: usize;
  const source = v.ip + (v4 ? 12 : 8);
  if (v4) {
    id = get16(v.ip + 4);
    offset = (get16(v.ip + 6) & 0x1fff) << 3;
    more = (get16(v.ip + 6) & 0x2000) != 0;
    from = v.upper;
  } else {
    if (v.upper != v.ip + 40 || v.upper + 8 > v.ip + v.ipLength) return 0;
    id = get32(v.upper + 4);
    offset = get16(v.upper + 2) & 0xfff8;
    more = (get16(v.upper + 2) & 1) != 0;
    from = v.upper + 8;
    // RFC 8200 section 4.5: the first header after it says what was fragmented.
    if (load<u8>(v.upper) != 6) return 0;
  }
  const length = <u32> (v.ip + v.ipLength - from);
  const headerLength: u32 = v4 ? <u32> (v.upper - v.ip) : 40;
  if (!length || (more && (length & 7) != 0)) return 0;
  if (offset + length + VNET + 60 > PACKET_MAX) return 0;
  const a0 = load<u32>(source);
  const a1 = v4 ? 0 : load<u32>(source, 4);
  const a2 = v4 ? 0 : load<u32>(source, 8);
  const a3 = v4 ? 0 : load<u32>(source, 12);
  let found: Place | null = null;
  let oldest = place(0);
  for (let i: u32 = 0; i < REASSEMBLIES; i++) {
    const p = place(i);
    if (p.inUse && s.now - p.started > REASSEMBLY_MS) p.inUse = 0;
    if (p.inUse && p.id == id && p.a0 == a0 && p.a1 == a1 && p.a2 == a2 && p.a3 == a3) {
      found = p;
      break;
    }
    if (!p.inUse || (oldest.inUse && p.started - oldest.started > 0x80000000)) oldest = p;
  }
  if (found === null) {
    found = oldest;
    memory.fill(changetype<usize>(found), 0, HEAD);
    memory.fill(changetype<usize>(found) + PLACE - BITS, 0, BITS);
    found.inUse = 1;
    found.a0 = a0;
    found.a1 = a1;
    found.a2 = a2;
    found.a3 = a3;
    found.id = id;
    found.started = s.now;
  }
  const p = found;
  const base = changetype<usize>(p);
  const bits = base + PLACE - BITS;
  const packet = base + HEAD;
  // The upper part is kept behind the longest header; it moves up when the first fragment is here.
  const upper = packet + VNET + headerLength;
  const units = (length + 7) >>> 3;
  for (let u = offset >>> 3; u < (offset >>> 3) + units; u++) {
    const at = bits + (u >>> 3);
    const bit = <u8> (<u32> 1 << (u & 7));
    if (load<u8>(at) & bit) {
      p.inUse = 0;
      return 0;
    }
    store<u8>(at, load<u8>(at) | bit);
  }
  memory.copy(upper + offset, from, length);
  p.have += length;
  if (offset + length > p.reach) p.reach = offset + length;
  if (!more) p.end = offset + length;
  if (offset == 0) {
    memory.fill(packet, 0, VNET);
    memory.copy(packet + VNET, v.ip, headerLength);
    // Fragments of one datagram with different header lengths do not come from an honest stack.
    p.header = headerLength;
  }
  if (p.end && p.reach > p.end) {
    // Octets beyond its end: the count would hide a gap (RFC 8200 section 4.5 calls it an error).
    p.inUse = 0;
    return 0;
  }
  if (!p.end || p.have != p.end || p.header != headerLength) return 0;
  const ip = packet + VNET;
  const total = headerLength + p.end;
  if (v4) {
    put16(ip + 2, total);
    store<u16>(ip, 0, 6);
    store<u16>(ip, 0, 10);
    store<u16>(ip, <u16> (~sum(ip, headerLength, 0) & 0xffff), 10);
  } else {
    put16(ip + 4, total - 40);
    store<u8>(ip, 6, 6);
  }
  p.length = VNET + total;
  p.inUse = 0;
  return packet;
}
