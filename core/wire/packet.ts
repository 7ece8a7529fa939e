/**
 * packet.ts - one packet as a checked view
 *
 *   at                at + 10                      tcp               payload
 *   | virtio_net_hdr  | IP header, options/ext.    | TCP, options    | octets |
 *
 * `parse()` is the one door: after it has said Kind.Tcp, every accessor below stays inside the
 * packet. Setters of checksummed fields repair the checksum in the same step, so no half-rewritten
 * segment can exist: with VIRTIO_NET_HDR_F_NEEDS_CSUM the field holds only the pseudo-header sum
 * (addresses, protocol, length), which a rewrite of TCP fields does not touch; otherwise RFC 1624.
 *
 * Sources: RFC 9293 section 3.1, RFC 791, RFC 8200, RFC 7323, RFC 2018, virtio 1.2 section 5.1.6.
 */
import { EXTENSION_HEADERS_MAX, PACKET_MAX } from "../limits";
import { state } from "../state";
import { get16, get32, put16 } from "./bytes";
import { replace32, sum } from "./checksum";

/** What `parse()` found. */
export const enum Kind {
  Malformed = 0,
  /** TCP, whole, and every length checked. */
  Tcp,
  /** An ICMP error that quotes one of our segments. */
  IcmpError,
  /** A fragment of a datagram. */
  Fragment,
  /** Anything else: not ours to touch. */
  Other,
}

export const VNET: u32 = 10;
export const NEEDS_CSUM: u32 = 1;
export const DATA_VALID: u32 = 2;

export const FIN: u32 = 1;
export const SYN: u32 = 2;
export const RST: u32 = 4;
export const PSH: u32 = 8;
export const ACK: u32 = 16;
export const ECE: u32 = 64;
export const CWR: u32 = 128;

const OFF_SEQ: usize = 4;
const OFF_ACK: usize = 8;
const OFF_DATA: usize = 12;
export const OFF_FLAGS: usize = 13;
const OFF_WINDOW: usize = 14;
const OFF_CHECKSUM: usize = 16;

/** The packet in hand. Valid until the next `parse()`. */
@unmanaged
export class View {
  at: usize = 0;
  length: u32 = 0;
  ip: usize = 0;
  /** Octets of the IP packet as its own header says. */
  ipLength: u32 = 0;
  family: u32 = 0;
  protocol: u32 = 0;
  tcp: usize = 0;
  headerLength: u32 = 0;
  payload: usize = 0;
  payloadLength: u32 = 0;
  seq: u32 = 0;
  ack: u32 = 0;
  flags: u32 = 0;
  window: u32 = 0;
  sourcePort: u32 = 0;
  destinationPort: u32 = 0;
  /** Offsets of option values from `tcp`; 0 when the option is absent. */
  tsAt: u32 = 0;
  sackAt: u32 = 0;
  sackBlocks: u32 = 0;
  mssAt: u32 = 0;
  wsAt: u32 = 0;
  hasSackPermitted: u32 = 0;
  hasMd5: u32 = 0;
  hasAuth: u32 = 0;
  hasMultipath: u32 = 0;
  hasFastOpen: u32 = 0;
  /** Quoted TCP header of an ICMP error, and the ICMP header. */
  quoted: usize = 0;
  icmp: usize = 0;
  /** Where the upper protocol starts. */
  upper: usize = 0;
}

const VIEW: usize = memory.data(160, 16);

/** The view of the packet parsed last. */
export function view(): View {
  return changetype<View>(VIEW);
}

/** Checks a packet of `length` octets (virtio_net_hdr included) and fills the view. */
export function parse(at: usize, length: u32): Kind {
  const v = view();
  v.at = at;
  v.length = length;
  v.tcp = 0;
  if (length < VNET + 20 || length > PACKET_MAX) return Kind.Malformed;
  const ip = at + VNET;
  const available = length - VNET;
  v.ip = ip;
  const version = <u32> load<u8>(ip) >>> 4;
  let upper: usize;
  let protocol: u32;
  let fragment = false;
  v.family = version;
  if (version == 4) {
    const headerLength = (<u32> load<u8>(ip) & 15) << 2;
    const total = get16(ip + 2);
    if (headerLength < 20 || total < headerLength || total > available) return Kind.Malformed;
    v.ipLength = total;
    fragment = (get16(ip + 6) & 0x3fff) != 0;
    protocol = load<u8>(ip, 9);
    upper = ip + headerLength;
  } else if (version == 6) {
    if (available < 40) return Kind.Malformed;
    const total: u32 = 40 + get16(ip + 4);
    if (total > available) return Kind.Malformed;
    v.ipLength = total;
    protocol = load<u8>(ip, 6);
    upper = ip + 40;
    const end = ip + total;
    let walked: u32 = 0;
    while (protocol == 0 || protocol == 43 || protocol == 60 || protocol == 44) {
      if (++walked > EXTENSION_HEADERS_MAX || upper + 8 > end) return Kind.Malformed;
      const next = load<u8>(upper);
      if (protocol == 44) {
        // An "atomic" fragment (RFC 6946) is whole: offset 0 and no more to come.
        if (get16(upper + 2) & 0xfff9) {
          fragment = true;
          protocol = next;
          break;
        }
        upper += 8;
      } else {
        upper += (<usize> load<u8>(upper, 1) + 1) << 3;
      }
      protocol = next;
    }
    if (upper > end) return Kind.Malformed;
  } else return Kind.Malformed;
  v.protocol = protocol;
  v.upper = upper;
  if (fragment) return Kind.Fragment;
  const left = <u32> (ip + v.ipLength - upper);
  if (protocol == 6) return parseTcp(v, upper, left);
  if (version == 4 && protocol == 1) return parseIcmp(v, upper, left);
  if (version == 6 && protocol == 58) return parseIcmp(v, upper, left);
  return Kind.Other;
}

function parseTcp(v: View, tcp: usize, left: u32): Kind {
  if (left < 20) return Kind.Malformed;
  const headerLength = (<u32> load<u8>(tcp, OFF_DATA) >>> 4) << 2;
  if (headerLength < 20 || headerLength > left) return Kind.Malformed;
  if (load<u8>(v.at) & NEEDS_CSUM) {
    // The kernel will put the checksum where this says; elsewhere it would damage the packet.
    if (load<u16>(v.at, 6) != <u16> (tcp - v.ip) || load<u16>(v.at, 8) != <u16> OFF_CHECKSUM) {
      return Kind.Malformed;
    }
  }
  v.tcp = tcp;
  v.headerLength = headerLength;
  v.payload = tcp + headerLength;
  v.payloadLength = left - headerLength;
  v.sourcePort = get16(tcp);
  v.destinationPort = get16(tcp + 2);
  v.seq = get32(tcp + OFF_SEQ);
  v.ack = get32(tcp + OFF_ACK);
  v.flags = load<u8>(tcp, OFF_FLAGS);
  v.window = get16(tcp + OFF_WINDOW);
  v.tsAt = 0;
  v.sackAt = 0;
  v.sackBlocks = 0;
  v.mssAt = 0;
  v.wsAt = 0;
  v.hasSackPermitted = 0;
  v.hasMd5 = 0;
  v.hasAuth = 0;
  v.hasMultipath = 0;
  v.hasFastOpen = 0;
  if (headerLength == 20) return Kind.Tcp;
  // NOP NOP TS: what nearly every segment of a Linux or BSD host carries.
  if (headerLength == 32 && load<u32>(tcp, 20) == 0x0a080101) {
    v.tsAt = 24;
    return Kind.Tcp;
  }
  let offset: u32 = 20;
  while (offset < headerLength) {
    const kind = load<u8>(tcp + offset);
    if (kind == 0) break;
    if (kind == 1) {
      offset++;
      continue;
    }
    // RFC 9293 section 3.1: a length below 2 or past the header is malformed.
    if (offset + 1 >= headerLength) return Kind.Malformed;
    const optionLength: u32 = load<u8>(tcp + offset, 1);
    if (optionLength < 2 || offset + optionLength > headerLength) return Kind.Malformed;
    switch (kind) {
      case 2:
        if (optionLength == 4) v.mssAt = offset + 2;
        break;
      case 3:
        if (optionLength == 3) v.wsAt = offset + 2;
        break;
      case 4:
        if (optionLength == 2) v.hasSackPermitted = 1;
        break;
      case 5:
        if (optionLength >= 10 && ((optionLength - 2) & 7) == 0) {
          v.sackAt = offset + 2;
          v.sackBlocks = (optionLength - 2) >>> 3;
        }
        break;
      case 8:
        if (optionLength == 10) v.tsAt = offset + 2;
        break;
      case 19:
        v.hasMd5 = 1;
        break;
      case 29:
        v.hasAuth = 1;
        break;
      case 30:
        v.hasMultipath = 1;
        break;
      case 34:
        v.hasFastOpen = 1;
        break;
      case 254:
        // Experimental Fast Open (RFC 7413 appendix, ExID 0xF989).
        if (optionLength >= 4 && get16(tcp + offset + 2) == 0xf989) v.hasFastOpen = 1;
        break;
      default:
        break;
    }
    offset += optionLength;
  }
  return Kind.Tcp;
}

function parseIcmp(v: View, icmp: usize, left: u32): Kind {
  const least: u32 = v.family == 4 ? 8 + 20 + 8 : 8 + 40 + 8;
  if (left < least) return Kind.Other;
  const type = load<u8>(icmp);
  const inner = icmp + 8;
  if (v.family == 4) {
    if (type != 3 && type != 4 && type != 11 && type != 12) return Kind.Other;
    const innerLength: u32 = (<u32> load<u8>(inner) & 15) << 2;
    if (load<u8>(inner) >>> 4 != 4 || innerLength < 20 || innerLength + 16 > left) {
      return Kind.Other;
    }
    if (load<u8>(inner, 9) != 6 || (get16(inner + 6) & 0x1fff)) return Kind.Other;
    v.quoted = inner + innerLength;
  } else {
    if (type == 0 || type > 4) return Kind.Other;
    // A quoted segment of ours carries no extension header: our kernels send none.
    if (load<u8>(inner) >>> 4 != 6 || load<u8>(inner, 6) != 6) return Kind.Other;
    v.quoted = inner + 40;
  }
  v.icmp = icmp;
  return Kind.IcmpError;
}

/** True when the packet goes to the service address. */
export function isToService(v: View): bool {
  const s = state();
  if (v.family != s.family) return false;
  if (v.family == 4) return load<u32>(v.ip, 16) == s.v0;
  return load<u32>(v.ip, 24) == s.v0 && load<u32>(v.ip, 28) == s.v1 &&
    load<u32>(v.ip, 32) == s.v2 && load<u32>(v.ip, 36) == s.v3;
}

/** True when the packet comes from the service address. */
export function isFromService(v: View): bool {
  const s = state();
  if (v.family != s.family) return false;
  if (v.family == 4) return load<u32>(v.ip, 12) == s.v0;
  return load<u32>(v.ip, 8) == s.v0 && load<u32>(v.ip, 12) == s.v1 &&
    load<u32>(v.ip, 16) == s.v2 && load<u32>(v.ip, 20) == s.v3;
}

/** Sum of the pseudo-header for `length` octets of TCP (RFC 9293 section 3.1, RFC 8200 8.1). */
export function pseudoSum(ip: usize, family: u32, length: u32): u32 {
  // Widened before the addition: 16 bits would lose the carry.
  const tail: u32 = <u32> bswap<u16>(<u16> length) + (6 << 8);
  return family == 4 ? sum(ip + 12, 8, tail) : sum(ip + 8, 32, tail);
}

/**
 * True when the TCP checksum is right or the kernel vouches for it (NEEDS_CSUM, DATA_VALID). A
 * damaged segment must not enter an input log: its octets would win over the good copy's.
 */
export function isChecksumGood(v: View): bool {
  if (load<u8>(v.at) & (NEEDS_CSUM | DATA_VALID)) return true;
  const length = v.headerLength + v.payloadLength;
  return sum(v.tcp, length, pseudoSum(v.ip, v.family, length)) == 0xffff;
}

/** Writes a 32-bit TCP field at `offset` and repairs the checksum. */
export function setTcp32(v: View, offset: usize, value: u32): void {
  const field = v.tcp + offset;
  const next = bswap<u32>(value);
  const previous = load<u32>(field);
  if (previous == next) return;
  store<u32>(field, next);
  if (load<u8>(v.at) & NEEDS_CSUM) return;
  const checksum = v.tcp + OFF_CHECKSUM;
  store<u16>(
    checksum,
    <u16> replace32(load<u16>(checksum), previous, next, <u32> offset & 1),
  );
}

/** Writes an octet of the TCP header at `offset` and repairs the checksum. */
export function setTcp8(v: View, offset: usize, value: u32): void {
  // The aligned 16-bit word that holds it changes as a whole.
  const word = v.tcp + (offset & ~1);
  const previous: u32 = load<u16>(word);
  store<u8>(v.tcp + offset, <u8> value);
  if (load<u8>(v.at) & NEEDS_CSUM) return;
  const checksum = v.tcp + OFF_CHECKSUM;
  store<u16>(checksum, <u16> replace32(load<u16>(checksum), previous, load<u16>(word), 0));
}

/** Writes SEG.SEQ. */
export function setSeq(v: View, seq: u32): void {
  v.seq = seq;
  setTcp32(v, OFF_SEQ, seq);
}

/** Writes SEG.ACK. */
export function setAck(v: View, ack: u32): void {
  v.ack = ack;
  setTcp32(v, OFF_ACK, ack);
}

/** Writes SEG.WND, unscaled. */
export function setWindow(v: View, window: u32): void {
  v.window = window;
  setTcp8(v, OFF_WINDOW, window >>> 8);
  setTcp8(v, OFF_WINDOW + 1, window & 0xff);
}

/** TSval and TSecr of the segment in hand; only with `tsAt` set. */
export function tsVal(v: View): u32 {
  return get32(v.tcp + v.tsAt);
}
/** See `tsVal()`. */
export function tsEcr(v: View): u32 {
  return get32(v.tcp + v.tsAt + 4);
}

/** Subtracts `delta` from every SACK and D-SACK edge (RFC 2018, RFC 2883). */
export function shiftSack(v: View, delta: u32): void {
  let offset = <usize> v.sackAt;
  for (let i: u32 = 0; i < v.sackBlocks << 1; i++) {
    setTcp32(v, offset, get32(v.tcp + offset) - delta);
    offset += 4;
  }
}

/** Replaces an option of a SYN by NOPs, so that neither side negotiates it. */
export function eraseOptions(v: View): u32 {
  let erased: u32 = 0;
  let offset: u32 = 20;
  while (offset < v.headerLength) {
    const kind = load<u8>(v.tcp + offset);
    if (kind == 0) break;
    if (kind == 1) {
      offset++;
      continue;
    }
    const length: u32 = load<u8>(v.tcp + offset, 1);
    const fastOpen = kind == 34 ||
      (kind == 254 && length >= 4 && get16(v.tcp + offset + 2) == 0xf989);
    if (kind == 30 || fastOpen) {
      for (let i: u32 = 0; i < length; i++) setTcp8(v, offset + i, 1);
      erased++;
    }
    offset += length;
  }
  return erased;
}

/** Shifts the sequence number that an ICMP error quotes from client space to server space. */
export function shiftQuoted(v: View, delta: u32): void {
  const field = v.quoted + 4;
  const previous = load<u32>(field);
  const next = bswap<u32>(bswap<u32>(previous) - delta);
  store<u32>(field, next);
  if (load<u8>(v.at) & NEEDS_CSUM) return;
  const checksum = v.icmp + 2;
  const odd = <u32> (field - v.icmp) & 1;
  store<u16>(checksum, <u16> replace32(load<u16>(checksum), previous, next, odd));
}

/** The header checksum of an IPv4 header without options. */
export function ipv4Checksum(ip: usize): u32 {
  store<u16>(ip, 0, 10);
  return ~sum(ip, 20, 0) & 0xffff;
}

/** Drops the payload of the segment in hand: lengths and checksums follow. */
export function dropPayload(v: View): void {
  if (!v.payloadLength) return;
  const length = v.headerLength;
  v.payloadLength = 0;
  v.ipLength = <u32> (v.tcp - v.ip) + length;
  v.length = VNET + v.ipLength;
  if (v.family == 4) {
    put16(v.ip + 2, v.ipLength);
    store<u16>(v.ip, 0, 10);
    store<u16>(v.ip, <u16> (~sum(v.ip, <u32> (v.tcp - v.ip), 0) & 0xffff), 10);
  } else {
    put16(v.ip + 4, v.ipLength - 40);
  }
  finish(v.at, v.ip, v.tcp, v.family, length, 0);
}

/**
 * Completes a segment we made: virtio_net_hdr for a checksum still to be computed and, with
 * `gsoSize`, for segmentation; the pseudo-header sum where the kernel expects it.
 */
export function finish(
  at: usize,
  ip: usize,
  tcp: usize,
  family: u32,
  tcpLength: u32,
  gsoSize: u32,
): void {
  const headerLength = (<u32> load<u8>(tcp, OFF_DATA) >>> 4) << 2;
  store<u8>(at, <u8> NEEDS_CSUM);
  store<u8>(at, <u8> (gsoSize ? (family == 4 ? 1 : 4) : 0), 1);
  store<u16>(at, <u16> ((tcp - ip) + headerLength), 2);
  store<u16>(at, <u16> gsoSize, 4);
  store<u16>(at, <u16> (tcp - ip), 6);
  store<u16>(at, <u16> OFF_CHECKSUM, 8);
  store<u16>(tcp, <u16> pseudoSum(ip, family, tcpLength), OFF_CHECKSUM);
}
