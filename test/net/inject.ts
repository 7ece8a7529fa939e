/**
 * inject.ts - put one forged TCP segment on the wire
 *
 * Theory of operation
 * A raw socket takes a whole IP packet from us (IPv4: IP_HDRINCL is implied by IPPROTO_RAW; IPv6
 * likewise since Linux 4.5) and routes it like any other, whatever its source address says. Run
 * inside the namespace whose wire is meant. The TCP checksum is ours to compute.
 *
 * Sources: raw(7), RFC 9293 section 3.1, RFC 1071.
 *
 * Usage: deno run -A test/net/inject.ts '{"source":"10.0.0.1","sourcePort":4000, ...}'
 * The argument is a ForgedSegment as JSON.
 */

import { check, libc, Memory } from "../../runtime/io/libc.ts";

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const IPPROTO_RAW = 255;
const PROTOCOL_TCP = 6;

/** A segment to forge. */
export interface ForgedSegment {
  /** Sender it pretends to have. */
  source: string;
  /** Sender's port. */
  sourcePort: number;
  /** Receiver. */
  destination: string;
  /** Receiver's port. */
  destinationPort: number;
  /** SEG.SEQ. */
  seq: number;
  /** SEG.ACK. */
  ack: number;
  /** The flags octet: FIN 1, SYN 2, RST 4, PSH 8, ACK 16. */
  flags: number;
  /** Payload, as text; default none. */
  payload?: string;
}

/**
 * Lays out a forged segment as an IP packet.
 *
 * @param segment What to forge.
 * @returns The packet from its IP header on.
 * @throws {RangeError} If the addresses are not of one family.
 */
export function packetOf(segment: ForgedSegment): Uint8Array<ArrayBuffer> {
  const source = addressOctets(segment.source);
  const destination = addressOctets(segment.destination);
  if (source.length !== destination.length) {
    throw new RangeError(`Cannot forge from ${segment.source} to ${segment.destination}`);
  }
  const payload = new TextEncoder().encode(segment.payload ?? "");
  const tcp = new Uint8Array(20 + payload.length);
  const view = new DataView(tcp.buffer);
  view.setUint16(0, segment.sourcePort);
  view.setUint16(2, segment.destinationPort);
  view.setUint32(4, segment.seq);
  view.setUint32(8, segment.ack);
  view.setUint8(12, 5 << 4);
  view.setUint8(13, segment.flags);
  view.setUint16(14, 1024);
  tcp.set(payload, 20);
  const pseudo = [...source, ...destination, 0, PROTOCOL_TCP, tcp.length >> 8, tcp.length & 255];
  view.setUint16(16, checksum([...pseudo, ...tcp]));
  const total = 20 + tcp.length;
  const header = source.length === 4
    ? [0x45, 0, total >> 8, total & 255, 0, 0, 0x40, 0, 64, PROTOCOL_TCP, 0, 0]
    : [0x60, 0, 0, 0, tcp.length >> 8, tcp.length & 255, PROTOCOL_TCP, 64];
  return Uint8Array.from([...header, ...source, ...destination, ...tcp]);
}

/**
 * Sends a forged segment from the network namespace of this process.
 *
 * @param segment What to send.
 * @throws {SystemError} If the kernel refuses it; needs CAP_NET_RAW.
 */
export function inject(segment: ForgedSegment): void {
  const packet = Memory.of(packetOf(segment));
  const isIpv4 = !segment.destination.includes(":");
  const what = `inject a segment for ${segment.destination}`;
  const family = isIpv4 ? AF_INET : AF_INET6;
  const fd = check(libc.socket(family, SOCK_RAW_CLOEXEC, IPPROTO_RAW), "socket", what);
  const address = new Memory(isIpv4 ? 16 : 28); // struct sockaddr_in, sockaddr_in6
  address.view.setUint16(0, family, true);
  address.bytes.set(addressOctets(segment.destination), isIpv4 ? 4 : 8);
  const { length } = packet.bytes;
  const sent = libc.sendto(fd, packet.address, length, 0, address.address, address.bytes.length);
  check(sent, "sendto", what);
  libc.close(fd);
}

/** Octets of an address in text form, 4 or 16. */
function addressOctets(text: string): number[] {
  if (!text.includes(":")) return text.split(".").map(Number);
  const [head, tail] = text.split("::").map((part) => part === "" ? [] : part.split(":"));
  const missing = tail === undefined ? 0 : 8 - head.length - tail.length;
  const groups = [...head, ...Array(missing).fill("0"), ...(tail ?? [])];
  return groups.flatMap((group) => [parseInt(group, 16) >> 8, parseInt(group, 16) & 255]);
}

/** Internet checksum (RFC 1071). */
function checksum(octets: number[]): number {
  let sum = 0;
  for (let at = 0; at < octets.length; at += 2) sum += (octets[at] << 8) + (octets[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

if (import.meta.main) inject(JSON.parse(Deno.args[0]));
