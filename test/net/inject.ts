/**
 * inject.ts - put forged TCP segments on the wire
 *
 * Theory of operation
 * A raw socket takes a whole IP packet from us (IPv4: IP_HDRINCL is implied by IPPROTO_RAW; IPv6
 * likewise since Linux 4.5) and routes it like any other, whatever its source address says. Run
 * inside the namespace whose wire is meant. The TCP checksum is ours to compute.
 *
 * Sources: raw(7), RFC 9293 section 3.1, RFC 1071.
 *
 * Usage: deno run -A test/net/inject.ts '[{"source":"10.0.0.1","sourcePort":4000, ...}, ...]'
 * The argument is a list of ForgedSegment as JSON.
 */

import { encodeSockaddr, parseAddress } from "../../runtime/io/address.ts";
import { check, libc, Memory } from "../../runtime/io/libc.ts";

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
  /** TSval and TSecr (RFC 7323); default no timestamps. */
  timestamps?: { value: number; echo: number };
}

/**
 * Lays out a forged segment as an IP packet.
 *
 * @param segment What to forge.
 * @returns The packet from its IP header on.
 * @throws {RangeError} If the addresses are not of one family.
 */
export function packetOf(segment: ForgedSegment): Uint8Array<ArrayBuffer> {
  const source = parseAddress(segment.source).bytes;
  const destination = parseAddress(segment.destination).bytes;
  if (source.length !== destination.length) {
    throw new RangeError(`Cannot forge from ${segment.source} to ${segment.destination}`);
  }
  const payload = new TextEncoder().encode(segment.payload ?? "");
  const { timestamps } = segment;
  const headerLength = timestamps === undefined ? 20 : 32;
  const tcp = new Uint8Array(headerLength + payload.length);
  const view = new DataView(tcp.buffer);
  view.setUint16(0, segment.sourcePort);
  view.setUint16(2, segment.destinationPort);
  view.setUint32(4, segment.seq);
  view.setUint32(8, segment.ack);
  view.setUint8(12, (headerLength / 4) << 4);
  view.setUint8(13, segment.flags);
  view.setUint16(14, 1024);
  if (timestamps !== undefined) {
    tcp.set([1, 1, 8, 10], 20); // NOP, NOP, timestamps
    view.setUint32(24, timestamps.value);
    view.setUint32(28, timestamps.echo);
  }
  tcp.set(payload, headerLength);
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
  const what = `inject a segment for ${segment.destination}`;
  const destination = parseAddress(segment.destination);
  const address = Memory.of(encodeSockaddr({ address: destination, port: 0 }));
  const family = address.view.getUint16(0, true);
  const fd = check(libc.socket(family, SOCK_RAW_CLOEXEC, IPPROTO_RAW), "socket", what);
  const { length } = packet.bytes;
  const sent = libc.sendto(fd, packet.address, length, 0, address.address, address.bytes.length);
  check(sent, "sendto", what);
  libc.close(fd);
}

/** Internet checksum (RFC 1071). */
function checksum(octets: number[]): number {
  let sum = 0;
  for (let at = 0; at < octets.length; at += 2) sum += (octets[at] << 8) + (octets[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

if (import.meta.main) {
  for (const segment of JSON.parse(Deno.args[0]) as ForgedSegment[]) inject(segment);
}
