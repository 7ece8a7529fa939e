/**
 * twin.ts - the plain, slow and obvious twin of the core's wire routines
 *
 * Theory of operation
 * The core repairs checksums, skips work and reads many octets at once. This file does the same jobs
 * the way the RFCs describe them: octet by octet, and every checksum computed anew over everything it
 * covers. Tests compare the two, benchmarks show what the core's way gains. Nothing here is shared
 * with the core, so an error would have to be made twice to stay hidden.
 *
 *   sumOf()        RFC 1071: 16-bit words, most significant octet first
 *   buildPacket()  virtio_net_hdr + IPv4 or IPv6 + TCP from the values of its fields
 *   parsePacket()  the way back; throws on what is not well formed
 *   translate()    parse, change the numbers, build again: no repair (RFC 1624) anywhere
 *   digestOf()     core/stream/digest.ts of a whole stream, octet by octet; datesOf() by splitting lines
 *
 *   | virtio_net_hdr 10 | IP header | options or extension headers | TCP header | options | payload |
 *
 * Sources: RFC 791, RFC 8200, RFC 9293 section 3.1, RFC 2018, RFC 7323, virtio 1.2 section 5.1.6.
 */

/** Octets of the virtio_net_hdr before each packet. */
export const VNET_LENGTH = 10;

/** TCP flags, lowest bit first (RFC 9293 section 3.1). */
export const TcpFlag = {
  fin: 1,
  syn: 2,
  rst: 4,
  psh: 8,
  ack: 16,
  urg: 32,
  ece: 64,
  cwr: 128,
} as const;

/** Who has summed up the segment: its sender, the kernel in part, or the kernel on our behalf. */
export type ChecksumMode = "full" | "partial" | "valid";

/** An IPv6 extension header: its protocol number and its octets, the first one to be filled in. */
export interface Extension {
  /** 0 hop-by-hop, 43 routing, 44 fragment (atomic), 60 destination options. */
  protocol: number;
  /** All of it; a multiple of 8 octets whose second octet is its length as RFC 8200 counts. */
  octets: Uint8Array;
}

/** A TCP segment with all that surrounds it. */
export interface Packet {
  /** Source address: 4 or 16 octets. */
  source: Uint8Array;
  /** Destination address, as long as the source. */
  destination: Uint8Array;
  /** Source port. */
  sourcePort: number;
  /** Destination port. */
  destinationPort: number;
  /** SEG.SEQ. */
  seq: number;
  /** SEG.ACK. */
  ack: number;
  /** `TcpFlag`s. */
  flags: number;
  /** SEG.WND, unscaled. */
  window: number;
  /** Urgent pointer. */
  urgent: number;
  /** TCP options as they stand in the header; a multiple of 4 octets, at most 40. */
  options: Uint8Array;
  /** The segment's octets. */
  payload: Uint8Array;
  /** Who has summed it up. */
  checksum: ChecksumMode;
  /** Payload of one wire segment of a super-segment, 0 for a plain one. */
  gsoSize: number;
  /** IPv4 options; a multiple of 4 octets, at most 40. */
  ipOptions: Uint8Array;
  /** IPv6 extension headers in their order. */
  extensions: Extension[];
  /** IPv4 identification. */
  id: number;
  /** TTL or hop limit. */
  hops: number;
}

const NOTHING = new Uint8Array(0);

/** A packet with the usual values where `fields` has none. */
export function packetOf(
  fields: Partial<Packet> & Pick<Packet, "source" | "destination">,
): Packet {
  return {
    sourcePort: 40000,
    destinationPort: 80,
    seq: 0,
    ack: 0,
    flags: TcpFlag.ack,
    window: 0xffff,
    urgent: 0,
    options: NOTHING,
    payload: NOTHING,
    checksum: "full",
    gsoSize: 0,
    ipOptions: NOTHING,
    extensions: [],
    id: 0,
    hops: 64,
    ...fields,
  };
}

/**
 * One's complement sum of 16-bit words, most significant octet first (RFC 1071).
 *
 * @param octets Summed up; an odd last one is padded with zero.
 * @param initial Sum so far.
 * @returns Folded to 16 bits, not complemented.
 */
export function sumOf(octets: Uint8Array, initial = 0): number {
  let sum = initial;
  for (let i = 0; i < octets.length; i += 2) {
    sum += octets[i] * 256 + (i + 1 < octets.length ? octets[i + 1] : 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

/** Sum of the pseudo-header of a TCP segment of `length` octets (RFC 9293 3.1, RFC 8200 8.1). */
export function pseudoSumOf(
  source: Uint8Array,
  destination: Uint8Array,
  length: number,
): number {
  const tail = new Uint8Array(8);
  new DataView(tail.buffer).setUint32(0, length);
  tail[7] = 6;
  return sumOf(tail, sumOf(destination, sumOf(source)));
}

/** The packet's octets, virtio_net_hdr first, with every length and checksum filled in. */
export function buildPacket(packet: Packet): Uint8Array {
  const v4 = packet.source.length === 4;
  const extensionLength = packet.extensions.reduce((sum, e) => sum + e.octets.length, 0);
  const ipLength = v4 ? 20 + packet.ipOptions.length : 40 + extensionLength;
  const tcpHeader = 20 + packet.options.length;
  const tcpLength = tcpHeader + packet.payload.length;
  const bytes = new Uint8Array(VNET_LENGTH + ipLength + tcpLength);
  const view = new DataView(bytes.buffer);
  const ip = VNET_LENGTH;
  const tcp = ip + ipLength;
  if (packet.checksum === "partial") {
    bytes[0] = 1;
    view.setUint16(6, ipLength, true);
    view.setUint16(8, 16, true);
  } else if (packet.checksum === "valid") bytes[0] = 2;
  if (packet.gsoSize > 0) {
    bytes[1] = v4 ? 1 : 4;
    view.setUint16(2, ipLength + tcpHeader, true);
    view.setUint16(4, packet.gsoSize, true);
  }
  if (v4) {
    bytes[ip] = 0x40 | (ipLength / 4);
    view.setUint16(ip + 2, ipLength + tcpLength);
    view.setUint16(ip + 4, packet.id);
    view.setUint16(ip + 6, 0x4000);
    bytes[ip + 8] = packet.hops;
    bytes[ip + 9] = 6;
    bytes.set(packet.source, ip + 12);
    bytes.set(packet.destination, ip + 16);
    bytes.set(packet.ipOptions, ip + 20);
    view.setUint16(ip + 10, ~sumOf(bytes.subarray(ip, tcp)) & 0xffff);
  } else {
    bytes[ip] = 0x60;
    view.setUint16(ip + 4, extensionLength + tcpLength);
    bytes[ip + 6] = packet.extensions[0]?.protocol ?? 6;
    bytes[ip + 7] = packet.hops;
    bytes.set(packet.source, ip + 8);
    bytes.set(packet.destination, ip + 24);
    let at = ip + 40;
    for (const [index, { octets }] of packet.extensions.entries()) {
      bytes.set(octets, at);
      bytes[at] = packet.extensions[index + 1]?.protocol ?? 6;
      at += octets.length;
    }
  }
  view.setUint16(tcp, packet.sourcePort);
  view.setUint16(tcp + 2, packet.destinationPort);
  view.setUint32(tcp + 4, packet.seq);
  view.setUint32(tcp + 8, packet.ack);
  bytes[tcp + 12] = (tcpHeader / 4) << 4;
  bytes[tcp + 13] = packet.flags;
  view.setUint16(tcp + 14, packet.window);
  view.setUint16(tcp + 18, packet.urgent);
  bytes.set(packet.options, tcp + 20);
  bytes.set(packet.payload, tcp + tcpHeader);
  const pseudo = pseudoSumOf(packet.source, packet.destination, tcpLength);
  view.setUint16(
    tcp + 16,
    packet.checksum === "partial" ? pseudo : ~sumOf(bytes.subarray(tcp), pseudo) & 0xffff,
  );
  return bytes;
}

/**
 * The fields of a packet.
 *
 * @throws {Error} When it is no TCP segment, or a length or checksum in it is wrong.
 */
export function parsePacket(bytes: Uint8Array): Packet {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const ip = VNET_LENGTH;
  const v4 = bytes[ip] >> 4 === 4;
  const extensions: Extension[] = [];
  let tcp: number;
  let end: number;
  if (v4) {
    tcp = ip + (bytes[ip] & 15) * 4;
    end = ip + view.getUint16(ip + 2);
    if (bytes[ip + 9] !== 6) throw new Error(`Cannot parse: protocol is ${bytes[ip + 9]}, not TCP`);
    if (sumOf(bytes.subarray(ip, tcp)) !== 0xffff) throw new Error("Cannot parse: IPv4 checksum");
  } else {
    tcp = ip + 40;
    end = tcp + view.getUint16(ip + 4);
    let protocol = bytes[ip + 6];
    while (protocol !== 6) {
      const length = protocol === 44 ? 8 : 8 + bytes[tcp + 1] * 8;
      // Past the packet's end, a length is no number.
      if (!(tcp + length <= end)) {
        throw new Error(`Cannot parse: extension header ${protocol} too long`);
      }
      extensions.push({ protocol, octets: bytes.slice(tcp, tcp + length) });
      protocol = bytes[tcp];
      tcp += length;
    }
  }
  if (end !== bytes.length) throw new Error(`Cannot parse: ${end} octets of ${bytes.length}`);
  const tcpHeader = (bytes[tcp + 12] >> 4) * 4;
  if (tcpHeader < 20 || tcp + tcpHeader > end) throw new Error("Cannot parse: TCP data offset");
  const source = v4 ? bytes.slice(ip + 12, ip + 16) : bytes.slice(ip + 8, ip + 24);
  const destination = v4 ? bytes.slice(ip + 16, ip + 20) : bytes.slice(ip + 24, ip + 40);
  const pseudo = pseudoSumOf(source, destination, end - tcp);
  const checksum: ChecksumMode = bytes[0] & 1 ? "partial" : bytes[0] & 2 ? "valid" : "full";
  if (checksum === "partial") {
    if (view.getUint16(6, true) !== tcp - ip || view.getUint16(8, true) !== 16) {
      throw new Error("Cannot parse: the checksum's place is not TCP's");
    }
    if (view.getUint16(tcp + 16) !== pseudo) throw new Error("Cannot parse: pseudo-header sum");
  } else if (sumOf(bytes.subarray(tcp, end), pseudo) !== 0xffff) {
    throw new Error("Cannot parse: TCP checksum");
  }
  return {
    source,
    destination,
    sourcePort: view.getUint16(tcp),
    destinationPort: view.getUint16(tcp + 2),
    seq: view.getUint32(tcp + 4),
    ack: view.getUint32(tcp + 8),
    flags: bytes[tcp + 13],
    window: view.getUint16(tcp + 14),
    urgent: view.getUint16(tcp + 18),
    options: bytes.slice(tcp + 20, tcp + tcpHeader),
    payload: bytes.slice(tcp + tcpHeader, end),
    checksum,
    gsoSize: bytes[1] === 0 ? 0 : view.getUint16(4, true),
    ipOptions: v4 ? bytes.slice(ip + 20, tcp) : NOTHING,
    extensions,
    id: v4 ? view.getUint16(ip + 4) : 0,
    hops: bytes[v4 ? ip + 8 : ip + 7],
  };
}

/** Where the options' values stand: offset in `options`, and the option's whole length. */
export function findOption(
  options: Uint8Array,
  kind: number,
): { at: number; length: number } | null {
  let at = 0;
  while (at < options.length && options[at] !== 0) {
    if (options[at] === 1) {
      at++;
      continue;
    }
    if (options[at] === kind) return { at: at + 2, length: options[at + 1] };
    at += options[at + 1];
  }
  return null;
}

/** What is added to a segment's numbers, mod 2^32. */
export interface Shift {
  /** To SEG.SEQ. */
  seq?: number;
  /** To SEG.ACK and every SACK and D-SACK edge. */
  ack?: number;
  /** To TSval. */
  tsVal?: number;
  /** To TSecr. */
  tsEcr?: number;
  /** Takes the place of SEG.WND. */
  window?: number;
}

/** The packet with its numbers shifted: taken apart, changed, and built anew. */
export function translate(bytes: Uint8Array, shift: Shift): Uint8Array {
  const packet = parsePacket(bytes);
  packet.seq = (packet.seq + (shift.seq ?? 0)) >>> 0;
  if (packet.flags & TcpFlag.ack) packet.ack = (packet.ack + (shift.ack ?? 0)) >>> 0;
  if (shift.window !== undefined) packet.window = shift.window;
  const view = new DataView(packet.options.buffer);
  const add = (at: number, delta: number) => view.setUint32(at, view.getUint32(at) + delta);
  const stamps = findOption(packet.options, 8);
  if (stamps !== null) {
    add(stamps.at, shift.tsVal ?? 0);
    add(stamps.at + 4, shift.tsEcr ?? 0);
  }
  const sack = findOption(packet.options, 5);
  if (sack !== null) {
    for (let i = 0; i < sack.length - 2; i += 4) add(sack.at + i, shift.ack ?? 0);
  }
  return buildPacket(packet);
}

/** Which options a header carries, and how they are laid out. */
export interface OptionMix {
  /** TSval and TSecr. */
  stamps?: [value: number, echo: number];
  /** Edges of SACK blocks, two for each; a D-SACK block is simply the first. */
  sack?: number[];
  /** Maximum segment size. */
  mss?: number;
  /** Window scale. */
  scale?: number;
  /** SACK permitted. */
  sackPermitted?: boolean;
  /** Other options, as octets. */
  extra?: Uint8Array;
  /** NOPs before the first option: 0 to 3; moves all that follow to odd places. */
  shift?: number;
}

/** TCP options as octets, padded to a multiple of 4 with NOPs. */
export function buildOptions(mix: OptionMix): Uint8Array {
  const octets: number[] = new Array(mix.shift ?? 0).fill(1);
  const put32 = (value: number) =>
    octets.push(value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255);
  if (mix.mss !== undefined) octets.push(2, 4, mix.mss >> 8, mix.mss & 255);
  if (mix.sackPermitted) octets.push(4, 2);
  if (mix.stamps !== undefined) {
    octets.push(8, 10);
    mix.stamps.forEach(put32);
  }
  if (mix.scale !== undefined) octets.push(3, 3, mix.scale);
  if (mix.extra !== undefined) octets.push(...mix.extra);
  if (mix.sack !== undefined) {
    octets.push(5, 2 + 4 * mix.sack.length);
    mix.sack.forEach(put32);
  }
  while (octets.length % 4 !== 0) octets.push(1);
  if (octets.length > 40) {
    throw new RangeError(`Cannot build TCP options of ${octets.length} octets: 40 are allowed`);
  }
  return Uint8Array.from(octets);
}

/**
 * Cuts an IP packet into fragments (RFC 791 section 3.2, RFC 8200 section 4.5).
 *
 * @param bytes A whole packet; its virtio_net_hdr is not kept.
 * @param options Identification, and where to cut: offsets that are multiples of 8.
 */
export function fragment(
  bytes: Uint8Array,
  options: { id: number; cuts: readonly number[] },
): Uint8Array[] {
  const ip = bytes.subarray(VNET_LENGTH);
  const v4 = ip[0] >> 4 === 4;
  const headerLength = v4 ? (ip[0] & 15) * 4 : 40;
  const upper = ip.subarray(headerLength);
  const edges = [0, ...options.cuts, upper.length];
  return edges.slice(1).map((end, index) => {
    const start = edges[index];
    const last = end === upper.length;
    const extra = v4 ? 0 : 8;
    const piece = new Uint8Array(VNET_LENGTH + headerLength + extra + end - start);
    const view = new DataView(piece.buffer);
    const at = VNET_LENGTH;
    piece.set(ip.subarray(0, headerLength), at);
    piece.set(upper.subarray(start, end), at + headerLength + extra);
    if (v4) {
      view.setUint16(at + 2, headerLength + end - start);
      view.setUint16(at + 4, options.id);
      view.setUint16(at + 6, (start / 8) | (last ? 0 : 0x2000));
      view.setUint16(at + 10, 0);
      view.setUint16(at + 10, ~sumOf(piece.subarray(at, at + headerLength)) & 0xffff);
    } else {
      view.setUint16(at + 4, 8 + end - start);
      piece[at + 40] = piece[at + 6];
      piece[at + 6] = 44;
      view.setUint16(at + 42, start | (last ? 0 : 1));
      view.setUint32(at + 44, options.id);
    }
    return piece;
  });
}

/**
 * An ICMP error about a packet (RFC 792 destination unreachable, RFC 4443 packet too big).
 *
 * @param quoted The packet it is about; as much of it as fits is quoted.
 * @param options Who sends it, and how many of the quoted packet's octets it carries.
 */
export function buildIcmpError(
  quoted: Uint8Array,
  options: { source: Uint8Array; octets: number },
): Uint8Array {
  const inner = quoted.subarray(VNET_LENGTH, VNET_LENGTH + options.octets);
  const v4 = inner[0] >> 4 === 4;
  const target = v4 ? inner.slice(12, 16) : inner.slice(8, 24);
  const headerLength = v4 ? 20 : 40;
  const bytes = new Uint8Array(VNET_LENGTH + headerLength + 8 + inner.length);
  const view = new DataView(bytes.buffer);
  const ip = VNET_LENGTH;
  const icmp = ip + headerLength;
  if (v4) {
    bytes[ip] = 0x45;
    view.setUint16(ip + 2, headerLength + 8 + inner.length);
    bytes[ip + 8] = 64;
    bytes[ip + 9] = 1;
    bytes.set(options.source, ip + 12);
    bytes.set(target, ip + 16);
    view.setUint16(ip + 10, ~sumOf(bytes.subarray(ip, icmp)) & 0xffff);
    bytes[icmp] = 3;
    bytes[icmp + 1] = 4;
  } else {
    bytes[ip] = 0x60;
    view.setUint16(ip + 4, 8 + inner.length);
    bytes[ip + 6] = 58;
    bytes[ip + 7] = 64;
    bytes.set(options.source, ip + 8);
    bytes.set(target, ip + 24);
    bytes[icmp] = 2;
  }
  view.setUint32(icmp + 4, 1400);
  bytes.set(inner, icmp + 8);
  view.setUint16(icmp + 2, icmpChecksum(bytes));
  return bytes;
}

/** The right checksum of an ICMP packet whose checksum field counts as zero. */
export function icmpChecksum(bytes: Uint8Array): number {
  const v4 = bytes[VNET_LENGTH] >> 4 === 4;
  const ip = bytes.subarray(VNET_LENGTH);
  const icmp = ip.slice(v4 ? 20 : 40);
  icmp.fill(0, 2, 4);
  if (v4) return ~sumOf(icmp) & 0xffff;
  const tail = new Uint8Array(8);
  new DataView(tail.buffer).setUint32(0, icmp.length);
  tail[7] = 58;
  return ~sumOf(icmp, sumOf(tail, sumOf(ip.subarray(8, 40)))) & 0xffff;
}

const MASK64 = (1n << 64n) - 1n;
const DIGEST_P1 = 0x9e3779b185ebca87n;
const DIGEST_P2 = 0xc2b2ae3d27d4eb4fn;
/** Keys of a digest that meet in one lane, and octets of a block. */
const DIGEST_KEYS = 512;
const DIGEST_BLOCK = 4096;

/** The digest of a stream, of HTTP/1.x responses or not (core/stream/digest.ts). */
export function digestOf(stream: Uint8Array): bigint {
  const counts = stream.slice();
  for (const [start, end] of datesOf(stream)) counts.fill(0, start, end);
  let sum = DIGEST_P1;
  let lanes = [0, 0, 0, 0];
  for (const [at, octet] of counts.entries()) {
    const word = (at % DIGEST_BLOCK) >> 1;
    const lane = (word >> 1) & 3;
    const key = digestKeys()[((word >> 3) * 2 + (word & 1) + lane * 128) % DIGEST_KEYS];
    // The high octet of a word carries its sign.
    const value = at % 2 === 0 ? octet : (octet < 128 ? octet : octet - 256) * 256;
    lanes[lane] = (lanes[lane] + key * value) >>> 0;
    if ((at + 1) % DIGEST_BLOCK !== 0) continue;
    sum = foldOf(sum + BigInt(at + 1), lanes);
    lanes = [0, 0, 0, 0];
  }
  return foldOf(sum + BigInt(stream.length), lanes);
}

function foldOf(sum: bigint, [a, b, c, d]: number[]): bigint {
  for (const [low, high] of [[a, b], [c, d]]) {
    const x = BigInt(low) | BigInt(high) << 32n;
    const mixed = (sum + x * DIGEST_P2) & MASK64;
    sum = (((mixed << 31n) | (mixed >> 33n)) * DIGEST_P1) & MASK64;
  }
  return sum;
}

let keys: number[] | undefined;

/** The 512 largest primes below 2^15, shuffled. */
function digestKeys(): number[] {
  if (keys !== undefined) return keys;
  const sieve = new Uint8Array(32768);
  for (let i = 2; i < 182; i++) for (let j = i * i; j < 32768; j += i) sieve[j] = 1;
  keys = Array.from(sieve.keys()).filter((n) => n > 1 && sieve[n] === 0).reverse()
    .slice(0, DIGEST_KEYS);
  let random = 1;
  for (let i = DIGEST_KEYS - 1; i > 0; i--) {
    random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
    const j = (random >>> 16) % (i + 1);
    [keys[i], keys[j]] = [keys[j], keys[i]];
  }
  return keys;
}

/**
 * Where the values of `Date:` stand in a stream of HTTP/1.x responses (core/stream/date_header.ts).
 *
 * @param stream As much of it as there is.
 * @returns Start and end of each, as far as the stream goes.
 */
export function datesOf(stream: Uint8Array): [start: number, end: number][] {
  const text = new TextDecoder("latin1").decode(stream);
  const dates: [number, number][] = [];
  let at = 0;
  while (text.startsWith("HTTP/1.", at)) {
    let length = 0;
    let chunked = false;
    for (let empty = false, first = true; !empty; first = false) {
      if (at >= text.length) return dates;
      const end = text.indexOf("\n", at) < 0 ? text.length : text.indexOf("\n", at);
      const line = text.slice(at, end);
      const value = /^\r*date: ([^\r]{0,29})/i.exec(line);
      const size = /^\r*content-length: (\d*)/i.exec(line);
      if (value !== null) {
        dates.push([at + value[0].length - value[1].length, at + value[0].length]);
      }
      if (size !== null) length = Number(size[1]);
      if (/^\r*transfer-encoding: chunked/i.test(line)) chunked = true;
      empty = !first && line.replaceAll("\r", "") === "" && end < text.length;
      at = end + 1;
    }
    if (text.startsWith("HTTP/1.", at)) continue;
    if (!chunked) {
      at += length;
      continue;
    }
    for (let size = -1; size !== 0;) {
      const line = /[0-9a-f]+[^\n]*\n/iy;
      line.lastIndex = at;
      const found = line.exec(text);
      if (found === null) return dates;
      size = parseInt(found[0], 16);
      at += found[0].length + (size > 0 ? size + 2 : 0);
    }
    for (let trailer = "?"; trailer.replaceAll("\r", "") !== "";) {
      const end = text.indexOf("\n", at);
      if (end < 0) return dates;
      trailer = text.slice(at, end);
      at = end + 1;
    }
  }
  return dates;
}
