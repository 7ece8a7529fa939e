/**
 * capture.ts - record what a namespace's wire carried, and judge the TCP in it
 *
 * Theory of operation
 * `Capture.start()` runs tcpdump inside a network namespace and writes the first SNAP_LENGTH octets
 * of every matching frame to a file; `readFrames()` walks such a file a chunk at a time, so a
 * capture may be larger than memory; `traceTcp()` folds the frames into one small record per
 * connection. A record keeps only running maxima and counts, never the frames:
 *
 *   serverNext      highest SEG.SEQ + SEG.LEN the server has sent
 *   serverAck       highest SEG.ACK the server has sent
 *   rightEdge       highest SEG.ACK + (SEG.WND << scale) the server has shown
 *   serverTsval     highest TSval the server has sent
 *   holes           intervals below serverNext that no server segment has covered yet
 *
 * "Highest" is modulo 2^32 (RFC 9293 section 3.4). The view is that of the capture point: captured
 * at the client, an ACK that goes back is an ACK that the client saw going back. Super-segments
 * (GSO, GRO) count as one segment of their whole length; a BIG TCP frame, whose IP length field is
 * 0, takes its length from the frame.
 *
 * Limits: at most CONNECTIONS_MAX connections and HOLES_MAX holes in one of them, RangeError beyond.
 * Not read: VLAN tags, IP fragments other than the first, pcapng.
 * Sources: pcap-savefile(5), RFC 9293 section 3.1, RFC 7323 section 2 and 3, RFC 826, RFC 4861.
 */

import { addressOfBytes, parseAddress } from "../../runtime/io/address.ts";
import { startProcess, type TestProcess } from "./process.ts";

/** Octets kept of each frame: Ethernet, IPv6 with extension headers and the longest TCP header. */
const SNAP_LENGTH = 192;
/** Octets read from a file at a time. */
const CHUNK_LENGTH = 1 << 20;
/** Longest frame accepted from a file; a BIG TCP frame is shorter. */
const FRAME_LENGTH_MAX = 1 << 20;
/** More connections than any test here opens; beyond it the file is not what was meant. */
const CONNECTIONS_MAX = 1 << 20;
/** Holes of one connection; loss tests open a few dozen at a time. */
const HOLES_MAX = 1 << 14;
/** Kernel buffer of tcpdump in KiB: a second of headers at the highest rate seen here. */
const KERNEL_BUFFER_KIB = 65_536;

const MAGIC_MICROSECONDS = 0xa1b2c3d4;
const MAGIC_NANOSECONDS = 0xa1b23c4d;
const LINKTYPE_ETHERNET = 1;
const LINKTYPE_RAW = 101;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_ARP = 0x0806;
const ETHERTYPE_IPV6 = 0x86dd;
const PROTOCOL_TCP = 6;
const PROTOCOL_ICMPV6 = 58;
const IPV6_HOP_BY_HOP = 0;
const IPV6_ROUTING = 43;
const IPV6_FRAGMENT = 44;
const IPV6_DESTINATION = 60;
const ICMPV6_NEIGHBOR_ADVERTISEMENT = 136;
const ARP_REPLY = 2;

const FIN = 0x01;
const SYN = 0x02;
const RST = 0x04;
const ACK = 0x10;

/** One frame of a capture file. `octets` is a view that the next step of the reader overwrites. */
export interface Frame {
  /** Time of capture, milliseconds since 1970, with the file's sub-millisecond part. */
  timeMs: number;
  /** Link type of the file: 1 Ethernet, 101 raw IP. */
  linkType: number;
  /** Length on the wire; `octets` may be cut shorter. */
  wireLength: number;
  /** The captured part of the frame. */
  octets: Uint8Array;
}

/** A TCP segment found in a frame; addresses in their usual text form, numbers as on the wire. */
export interface Segment {
  /** Time of capture, milliseconds since 1970. */
  timeMs: number;
  /** Sender's address. */
  source: string;
  /** Sender's port. */
  sourcePort: number;
  /** Receiver's address. */
  destination: string;
  /** Receiver's port. */
  destinationPort: number;
  /** SEG.SEQ. */
  seq: number;
  /** SEG.ACK; meaningful when the ACK flag is set. */
  ack: number;
  /** The flags octet: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32. */
  flags: number;
  /** SEG.WND as carried, before scaling. */
  window: number;
  /** Payload octets. */
  payloadLength: number;
  /** The options that were found; absent ones are undefined. */
  options: SegmentOptions;
}

/** TCP options of one segment. */
export interface SegmentOptions {
  /** Maximum segment size (RFC 9293 section 3.7.1), on SYN only. */
  mss?: number;
  /** Shift count of window scaling (RFC 7323 section 2), on SYN only. */
  windowScale?: number;
  /** SACK permitted (RFC 2018), on SYN only. */
  sackPermitted?: boolean;
  /** TSval and TSecr (RFC 7323 section 3). */
  timestamps?: { value: number; echo: number };
  /** Number of SACK blocks. */
  sackBlocks?: number;
}

/** What went wrong in one segment, for a message a person can look up in the capture. */
export interface Anomaly {
  /** Time of the segment, milliseconds since 1970. */
  timeMs: number;
  /** The number that should not have gone back. */
  before: number;
  /** What it went back to. */
  after: number;
}

/** What a capture says about one connection. "Server" is the side that owns the service address. */
export interface ConnectionTrace {
  /** `client:port > server:port`. */
  name: string;
  /** SYN segments from the client, retransmissions included. */
  clientSyns: number;
  /** Distinct initial sequence numbers in them; two mean that the client dialled again. */
  clientIsns: number;
  /** SYN segments the client sent after it had a SYN-ACK. */
  clientSynsAfterSynAck: number;
  /** SYN-ACK segments from the server. */
  serverSynAcks: number;
  /** Distinct initial sequence numbers in them. */
  serverIsns: number;
  /** RST segments from the client. */
  clientRsts: number;
  /**
   * Those with which its kernel, for which all was over, answered a second ACK of its repeated FIN: the other
   * side is in TIME-WAIT and answers each (RFC 9293 section 3.10.7.4).
   */
  clientRstsAfterEnd: number;
  /** RST segments from the server. */
  serverRsts: number;
  /** Those that came when both FINs had been sent and the client had acknowledged the server's. */
  serverRstsAfterEnd: number;
  /** Time of the first RST from the server, milliseconds since 1970; NaN without one. */
  serverRstMs: number;
  /** FIN segments from the client, retransmissions included. */
  clientFins: number;
  /** FIN segments from the server, retransmissions included. */
  serverFins: number;
  /** Options of the client's first SYN. */
  clientOptions: SegmentOptions;
  /** Options of the server's first SYN-ACK. */
  serverOptions: SegmentOptions;
  /** Time of the first frame of the connection, milliseconds since 1970. */
  firstMs: number;
  /** Time of the first SYN-ACK, milliseconds since 1970; NaN without one. */
  synAckMs: number;
  /** Time of the last frame of the connection, milliseconds since 1970. */
  lastMs: number;
  /** Longest time between two successive segments from the server, milliseconds. */
  largestServerGapMs: number;
  /** When that gap began, milliseconds since 1970; NaN without two segments. */
  largestServerGapAtMs: number;
  /** Payload octets of the server, repeated ones counted once. */
  serverOctets: number;
  /** Payload octets of the server that had been seen before. */
  serverRepeatedOctets: number;
  /** Payload octets of the client with repetitions. */
  clientOctetsSent: number;
  /** How often the server's payload skipped ahead of the highest octet seen. */
  holesOpened: number;
  /** Octets of the server's stream below the highest one seen that never came. */
  octetsMissing: number;
  /** Segments of the server whose SEG.ACK was below an earlier one. */
  ackRegressions: Anomaly[];
  /** Segments of the server whose scaled right window edge was below an earlier one. */
  rightEdgeRegressions: Anomaly[];
  /** Segments of the server whose TSval was below an earlier one. */
  tsvalRegressions: Anomaly[];
  /** Segments of the server after the SYN that lacked the timestamps both sides agreed on. */
  timestampsMissing: number;
  /** Segments of the server that showed a window of 0. */
  serverZeroWindows: number;
  /** Segments of the client that showed a window of 0. */
  clientZeroWindows: number;
}

/** What a capture says about the TCP connections of one service address. */
export interface TcpTrace {
  /** One record per connection, in order of appearance; ports that are used again make another. */
  connections: ConnectionTrace[];
  /** TCP segments read. */
  segments: number;
}

/** An answer to "who has this address": an ARP reply or announcement, or a neighbor advertisement. */
export interface AddressClaim {
  /** Time of capture, milliseconds since 1970. */
  timeMs: number;
  /** The address that is claimed. */
  address: string;
  /** Link-layer source of the frame, as in `ip link`. */
  mac: string;
}

/** Where a capture runs and what it keeps. */
export interface CaptureOptions {
  /** Network namespace. */
  namespace: string;
  /** Interface inside it. */
  interfaceName: string;
  /** Directory that gets the file. */
  directory: string;
  /** pcap-filter(7) expression; without one every frame is kept. */
  filter?: string;
}

/** A running tcpdump. */
export class Capture {
  /** The capture file. */
  readonly path: string;
  #process: TestProcess;

  /** Use {@linkcode Capture.start}. */
  private constructor(path: string, process: TestProcess) {
    this.path = path;
    this.#process = process;
  }

  /**
   * Starts tcpdump and waits until it listens.
   *
   * @param options Namespace, interface, directory and filter.
   * @returns The running capture.
   * @throws {Error} If tcpdump does not listen within 10 s; the message holds what it printed.
   */
  static async start(options: CaptureOptions): Promise<Capture> {
    const { namespace, interfaceName, directory, filter } = options;
    const path = await Deno.makeTempFile({
      dir: directory,
      prefix: `${namespace}-${interfaceName}-`,
      suffix: ".pcap",
    });
    const process = startProcess("tcpdump", [
      ...["-i", interfaceName, "-w", path, "-s", String(SNAP_LENGTH), "-B", `${KERNEL_BUFFER_KIB}`],
      ...["-U", "-n", "-Z", "root", "--immediate-mode"],
      ...(filter === undefined ? [] : [filter]),
    ], { namespace });
    try {
      await process.waitForOutput("listening on", 10_000);
    } catch (error) {
      await process.kill();
      throw error;
    }
    return new Capture(path, process);
  }

  /**
   * Lets tcpdump take in what the wire carried so far, then ends it.
   *
   * @returns Frames that the kernel dropped because tcpdump was too slow: a judgement on a capture
   * with drops is worth little.
   * @throws {Error} If tcpdump does not end within 10 s.
   */
  async stop(): Promise<number> {
    await new Promise((resolve) => setTimeout(resolve, 200));
    this.#process.signal("SIGINT");
    await this.#process.waitForExit(10_000);
    const dropped = /(\d+) packets? dropped by kernel/.exec(this.#process.output());
    return dropped === null ? 0 : Number(dropped[1]);
  }
}

/**
 * Walks a capture file.
 *
 * @param path A pcap file of either byte order, with micro- or nanosecond times.
 * @returns The frames in file order; a frame cut short at the end of the file ends the walk.
 * @throws {Error} If the file is no pcap file or its link type is neither Ethernet nor raw IP.
 */
export function* readFrames(path: string): Generator<Frame> {
  using file = Deno.openSync(path);
  const reader = new ChunkReader(file);
  if (!reader.fill(24)) throw new Error(`Cannot read ${path}: shorter than a pcap header`);
  const { littleEndian, ticksPerMs } = readMagic(reader.view.getUint32(reader.offset, true), path);
  const linkType = reader.view.getUint32(reader.offset + 20, littleEndian) & 0xffff;
  if (linkType !== LINKTYPE_ETHERNET && linkType !== LINKTYPE_RAW) {
    throw new Error(`Cannot read ${path}: link type is ${linkType}, 1 (Ethernet) or 101 is read`);
  }
  reader.offset += 24;
  const frame: Frame = { timeMs: 0, linkType, wireLength: 0, octets: new Uint8Array() };
  while (reader.fill(16)) {
    const seconds = reader.view.getUint32(reader.offset, littleEndian);
    const ticks = reader.view.getUint32(reader.offset + 4, littleEndian);
    const length = reader.view.getUint32(reader.offset + 8, littleEndian);
    frame.wireLength = reader.view.getUint32(reader.offset + 12, littleEndian);
    if (length > FRAME_LENGTH_MAX) {
      throw new Error(
        `Cannot read ${path}: a frame claims ${length} octets, the limit is ${FRAME_LENGTH_MAX}`,
      );
    }
    reader.offset += 16;
    if (!reader.fill(length)) return;
    frame.timeMs = seconds * 1000 + ticks / ticksPerMs;
    frame.octets = reader.octets.subarray(reader.offset, reader.offset + length);
    reader.offset += length;
    yield frame;
  }
}

/**
 * Finds the TCP segment in a frame.
 *
 * @param frame A frame; only its headers need to be there.
 * @returns The segment, or undefined when the frame holds none or too little of it.
 */
export function parseSegment(frame: Frame): Segment | undefined {
  const packet = locatePacket(frame);
  if (packet === undefined || packet.protocol !== PROTOCOL_TCP) return undefined;
  const { view, transport, end } = packet;
  if (view.byteLength < transport + 20) return undefined;
  const headerLength = (view.getUint8(transport + 12) >> 4) * 4;
  if (headerLength < 20 || transport + headerLength > end) return undefined;
  return {
    timeMs: frame.timeMs,
    source: packet.source,
    sourcePort: view.getUint16(transport),
    destination: packet.destination,
    destinationPort: view.getUint16(transport + 2),
    seq: view.getUint32(transport + 4),
    ack: view.getUint32(transport + 8),
    flags: view.getUint8(transport + 13),
    window: view.getUint16(transport + 14),
    payloadLength: end - transport - headerLength,
    options: parseOptions(view, transport + 20, transport + headerLength),
  };
}

/**
 * Folds a capture into one record per connection of a service.
 *
 * @param path The capture file.
 * @param serverAddress The service address, in the text form that `ip addr` prints.
 * @returns The records.
 * @throws {Error} If the file cannot be read.
 * @throws {RangeError} If it holds more connections or holes than the limits in this file.
 */
export function traceTcp(path: string, serverAddress: string): TcpTrace {
  const tracers: ConnectionTracer[] = [];
  const current = new Map<string, ConnectionTracer>();
  const server = parseAddress(serverAddress).text;
  let segments = 0;
  for (const frame of readFrames(path)) {
    const segment = parseSegment(frame);
    if (segment === undefined) continue;
    const fromServer = segment.source === server;
    if (!fromServer && segment.destination !== server) continue;
    segments++;
    const name = fromServer
      ? `${segment.destination}:${segment.destinationPort} > ${server}:${segment.sourcePort}`
      : `${segment.source}:${segment.sourcePort} > ${server}:${segment.destinationPort}`;
    let tracer = current.get(name);
    if (tracer === undefined || (!fromServer && tracer.isFollowedBy(segment))) {
      if (tracers.length >= CONNECTIONS_MAX) {
        throw new RangeError(`Cannot trace ${path}: more than ${CONNECTIONS_MAX} connections`);
      }
      tracer = new ConnectionTracer(name, segment.timeMs);
      tracers.push(tracer);
      current.set(name, tracer);
    }
    if (fromServer) tracer.takeFromServer(segment);
    else tracer.takeFromClient(segment);
  }
  return { connections: tracers.map((tracer) => tracer.finish()), segments };
}

/**
 * Lists who claimed an address on the captured link.
 *
 * @param path The capture file.
 * @param address The address in question.
 * @returns ARP replies, gratuitous ARP requests and neighbor advertisements for it, in file order.
 * @throws {Error} If the file cannot be read.
 */
export function addressClaims(path: string, address: string): AddressClaim[] {
  const wanted = parseAddress(address).text;
  const claims: AddressClaim[] = [];
  for (const frame of readFrames(path)) {
    const claimed = claimedAddress(frame);
    if (claimed !== wanted) continue;
    claims.push({ timeMs: frame.timeMs, address: wanted, mac: formatMac(frame.octets, 6) });
  }
  return claims;
}

/** Buffers a file so that any number of octets can be had in one piece. */
class ChunkReader {
  octets = new Uint8Array(CHUNK_LENGTH + FRAME_LENGTH_MAX);
  view = new DataView(this.octets.buffer);
  /** Next octet to hand out. */
  offset = 0;
  #end = 0;
  #file: Deno.FsFile;

  constructor(file: Deno.FsFile) {
    this.#file = file;
  }

  /** Makes `length` octets available at `offset`; false when the file has fewer left. */
  fill(length: number): boolean {
    if (this.#end - this.offset >= length) return true;
    this.octets.copyWithin(0, this.offset, this.#end);
    this.#end -= this.offset;
    this.offset = 0;
    while (this.#end < length) {
      const count = this.#file.readSync(this.octets.subarray(this.#end));
      if (count === null) return false;
      this.#end += count;
    }
    return true;
  }
}

/** Folds the segments of one connection. */
class ConnectionTracer {
  #trace: ConnectionTrace;
  #clientIsns = new Set<number>();
  #serverIsns = new Set<number>();
  #lastServerMs = NaN;
  #serverNext?: number;
  #serverAck?: number;
  #rightEdge?: number;
  #serverTsval?: number;
  /** SEG.ACK that acknowledges the server's FIN. */
  #serverEnd?: number;
  /** SEG.ACK that acknowledges the client's FIN. */
  #clientEnd?: number;
  #isOver = false;
  /** Holes as [start, end) in sequence numbers, oldest first. */
  #holes: [number, number][] = [];

  constructor(name: string, firstMs: number) {
    this.#trace = {
      name,
      clientSyns: 0,
      clientIsns: 0,
      clientSynsAfterSynAck: 0,
      serverSynAcks: 0,
      serverIsns: 0,
      clientRsts: 0,
      clientRstsAfterEnd: 0,
      serverRsts: 0,
      serverRstsAfterEnd: 0,
      serverRstMs: NaN,
      clientFins: 0,
      serverFins: 0,
      clientOptions: {},
      serverOptions: {},
      firstMs,
      synAckMs: NaN,
      lastMs: firstMs,
      largestServerGapMs: 0,
      largestServerGapAtMs: NaN,
      serverOctets: 0,
      serverRepeatedOctets: 0,
      clientOctetsSent: 0,
      holesOpened: 0,
      octetsMissing: 0,
      ackRegressions: [],
      rightEdgeRegressions: [],
      tsvalRegressions: [],
      timestampsMissing: 0,
      serverZeroWindows: 0,
      clientZeroWindows: 0,
    };
  }

  /** Whether a client's segment begins another connection with the same ports. */
  isFollowedBy(segment: Segment): boolean {
    return this.#isOver && (segment.flags & SYN) !== 0 && !this.#clientIsns.has(segment.seq);
  }

  takeFromClient(segment: Segment): void {
    const trace = this.#trace;
    trace.lastMs = segment.timeMs;
    if ((segment.flags & SYN) !== 0) {
      if (trace.clientSyns === 0) trace.clientOptions = segment.options;
      trace.clientSyns++;
      this.#clientIsns.add(segment.seq);
      if (trace.serverSynAcks > 0) trace.clientSynsAfterSynAck++;
    } else if ((segment.flags & RST) === 0 && segment.window === 0) trace.clientZeroWindows++;
    if ((segment.flags & RST) !== 0) {
      trace.clientRsts++;
      const isAcknowledged = this.#isOver && this.#serverAck === this.#clientEnd;
      if (isAcknowledged && trace.clientFins > 1) trace.clientRstsAfterEnd++;
    }
    if ((segment.flags & FIN) !== 0) {
      trace.clientFins++;
      this.#clientEnd = (segment.seq + segment.payloadLength + 1) >>> 0;
    }
    if (trace.clientFins > 0 && segment.ack === this.#serverEnd) this.#isOver = true;
    trace.clientOctetsSent += segment.payloadLength;
  }

  takeFromServer(segment: Segment): void {
    const trace = this.#trace;
    trace.lastMs = segment.timeMs;
    const gapMs = segment.timeMs - this.#lastServerMs;
    if (gapMs > trace.largestServerGapMs) {
      trace.largestServerGapMs = gapMs;
      trace.largestServerGapAtMs = this.#lastServerMs;
    }
    this.#lastServerMs = segment.timeMs;
    if ((segment.flags & RST) !== 0) {
      if (trace.serverRsts === 0) trace.serverRstMs = segment.timeMs;
      trace.serverRsts++;
      if (this.#isOver) trace.serverRstsAfterEnd++;
      return; // a RST carries numbers that promise nothing
    }
    if ((segment.flags & FIN) !== 0) {
      trace.serverFins++;
      this.#serverEnd = (segment.seq + segment.payloadLength + 1) >>> 0;
    }
    if ((segment.flags & SYN) !== 0) {
      if (trace.serverSynAcks === 0) {
        trace.serverOptions = segment.options;
        trace.synAckMs = segment.timeMs;
        this.#serverNext = (segment.seq + 1) >>> 0;
      }
      trace.serverSynAcks++;
      this.#serverIsns.add(segment.seq);
    } else {
      this.#takeServerPayload(segment);
      if (segment.window === 0) trace.serverZeroWindows++;
    }
    this.#takeServerTimestamp(segment);
    if ((segment.flags & ACK) !== 0) this.#takeServerWindow(segment);
  }

  finish(): ConnectionTrace {
    const trace = this.#trace;
    trace.clientIsns = this.#clientIsns.size;
    trace.serverIsns = this.#serverIsns.size;
    trace.octetsMissing = 0;
    for (const [start, end] of this.#holes) trace.octetsMissing += (end - start) >>> 0;
    return trace;
  }

  #takeServerPayload(segment: Segment): void {
    const { seq, payloadLength } = segment;
    if (payloadLength === 0) return;
    const end = (seq + payloadLength) >>> 0;
    const next = this.#serverNext ?? seq;
    let fresh = 0;
    if (isAfter(seq, next)) {
      if (this.#holes.length >= HOLES_MAX) {
        throw new RangeError(`Cannot trace ${this.#trace.name}: more than ${HOLES_MAX} holes`);
      }
      this.#trace.holesOpened++;
      this.#holes.push([next, seq]);
      fresh = payloadLength;
    } else {
      if (isAfter(end, next)) fresh = (end - next) >>> 0;
      fresh += this.#fillHoles(seq, end);
    }
    this.#trace.serverOctets += fresh;
    this.#trace.serverRepeatedOctets += payloadLength - fresh;
    this.#serverNext = isAfter(end, next) ? end : next;
  }

  /** Takes [seq, end) out of the holes; returns how many octets it filled. */
  #fillHoles(seq: number, end: number): number {
    let filled = 0;
    const left: [number, number][] = [];
    for (const [holeStart, holeEnd] of this.#holes) {
      const start = isAfter(seq, holeStart) ? seq : holeStart;
      const stop = isAfter(holeEnd, end) ? end : holeEnd;
      if (!isAfter(stop, start)) {
        left.push([holeStart, holeEnd]);
        continue;
      }
      filled += (stop - start) >>> 0;
      if (start !== holeStart) left.push([holeStart, start]);
      if (stop !== holeEnd) left.push([stop, holeEnd]);
    }
    this.#holes = left;
    return filled;
  }

  #takeServerTimestamp(segment: Segment): void {
    const { timestamps } = segment.options;
    const trace = this.#trace;
    if (timestamps === undefined) {
      const agreed = trace.clientOptions.timestamps && trace.serverOptions.timestamps;
      if (agreed && (segment.flags & SYN) === 0) trace.timestampsMissing++;
      return;
    }
    const before = this.#serverTsval;
    if (before !== undefined && isAfter(before, timestamps.value)) {
      trace.tsvalRegressions.push({ timeMs: segment.timeMs, before, after: timestamps.value });
      return;
    }
    this.#serverTsval = timestamps.value;
  }

  #takeServerWindow(segment: Segment): void {
    const trace = this.#trace;
    const { timeMs, ack } = segment;
    if (this.#serverAck !== undefined && isAfter(this.#serverAck, ack)) {
      trace.ackRegressions.push({ timeMs, before: this.#serverAck, after: ack });
    } else this.#serverAck = ack;
    const isSyn = (segment.flags & SYN) !== 0; // RFC 7323 2.2: a SYN's window is not scaled
    if (isSyn && this.#rightEdge !== undefined) return; // a repeated SYN-ACK opens no window
    const bothScale = trace.clientOptions.windowScale !== undefined &&
      trace.serverOptions.windowScale !== undefined;
    const shift = isSyn || !bothScale ? 0 : trace.serverOptions.windowScale ?? 0;
    const edge = (ack + segment.window * 2 ** shift) >>> 0;
    if (this.#rightEdge !== undefined && isAfter(this.#rightEdge, edge)) {
      trace.rightEdgeRegressions.push({ timeMs, before: this.#rightEdge, after: edge });
    } else this.#rightEdge = edge;
  }
}

/** Where the upper-layer header of an IP packet is. */
interface LocatedPacket {
  view: DataView;
  source: string;
  destination: string;
  protocol: number;
  /** Offset of the upper-layer header in `view`. */
  transport: number;
  /** Offset of the packet's end, which may lie beyond `view`. */
  end: number;
}

/** Byte order and tick length that a file's first four octets stand for. */
function readMagic(magic: number, path: string): { littleEndian: boolean; ticksPerMs: number } {
  const swapped = ((magic & 0xff) << 24 | (magic & 0xff00) << 8 | (magic >>> 8) & 0xff00 |
    magic >>> 24) >>> 0;
  if (magic === MAGIC_MICROSECONDS) return { littleEndian: true, ticksPerMs: 1e3 };
  if (magic === MAGIC_NANOSECONDS) return { littleEndian: true, ticksPerMs: 1e6 };
  if (swapped === MAGIC_MICROSECONDS) return { littleEndian: false, ticksPerMs: 1e3 };
  if (swapped === MAGIC_NANOSECONDS) return { littleEndian: false, ticksPerMs: 1e6 };
  throw new Error(`Cannot read ${path}: magic number is ${magic.toString(16)}, not pcap's`);
}

/** True when `a` follows `b` modulo 2^32. */
function isAfter(a: number, b: number): boolean {
  return ((a - b) | 0) > 0;
}

/** View of a frame's octets and the offset and type of its network header. */
function locateNetwork(frame: Frame): { view: DataView; offset: number; type: number } {
  const { octets } = frame;
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength);
  if (frame.linkType === LINKTYPE_ETHERNET) {
    return { view, offset: 14, type: octets.length < 14 ? 0 : view.getUint16(12) };
  }
  const version = octets.length === 0 ? 0 : octets[0] >> 4;
  return { view, offset: 0, type: { 4: ETHERTYPE_IPV4, 6: ETHERTYPE_IPV6 }[version] ?? 0 };
}

function locatePacket(frame: Frame): LocatedPacket | undefined {
  const { view, offset, type } = locateNetwork(frame);
  if (type === ETHERTYPE_IPV4) return locateIpv4(frame, view, offset);
  if (type === ETHERTYPE_IPV6) return locateIpv6(frame, view, offset);
  return undefined;
}

function locateIpv4(frame: Frame, view: DataView, offset: number): LocatedPacket | undefined {
  if (view.byteLength < offset + 20) return undefined;
  if ((view.getUint16(offset + 6) & 0x1fff) !== 0) return undefined;
  const totalLength = view.getUint16(offset + 2);
  return {
    view,
    source: formatAddress(view, offset + 12, 4),
    destination: formatAddress(view, offset + 16, 4),
    protocol: view.getUint8(offset + 9),
    transport: offset + (view.getUint8(offset) & 0x0f) * 4,
    end: totalLength === 0 ? frame.wireLength : offset + totalLength,
  };
}

function locateIpv6(frame: Frame, view: DataView, offset: number): LocatedPacket | undefined {
  if (view.byteLength < offset + 40) return undefined;
  const payloadLength = view.getUint16(offset + 4);
  let protocol = view.getUint8(offset + 6);
  let transport = offset + 40;
  while (
    protocol === IPV6_HOP_BY_HOP || protocol === IPV6_ROUTING || protocol === IPV6_DESTINATION ||
    protocol === IPV6_FRAGMENT
  ) {
    if (view.byteLength < transport + 8) return undefined;
    const isFragment = protocol === IPV6_FRAGMENT;
    if (isFragment && (view.getUint16(transport + 2) & 0xfff8) !== 0) return undefined;
    protocol = view.getUint8(transport);
    transport += isFragment ? 8 : (view.getUint8(transport + 1) + 1) * 8;
  }
  return {
    view,
    source: formatAddress(view, offset + 8, 16),
    destination: formatAddress(view, offset + 24, 16),
    protocol,
    transport,
    end: payloadLength === 0 ? frame.wireLength : offset + 40 + payloadLength,
  };
}

/** Walks TCP options; a malformed one ends the walk. */
function parseOptions(view: DataView, start: number, headerEnd: number): SegmentOptions {
  const options: SegmentOptions = {};
  const end = Math.min(headerEnd, view.byteLength);
  let at = start;
  while (at < end) {
    const kind = view.getUint8(at);
    if (kind === 0) break;
    if (kind === 1) {
      at++;
      continue;
    }
    if (at + 1 >= end) break;
    const length = view.getUint8(at + 1);
    if (length < 2 || at + length > end) break;
    if (kind === 2 && length === 4) options.mss = view.getUint16(at + 2);
    if (kind === 3 && length === 3) options.windowScale = view.getUint8(at + 2);
    if (kind === 4 && length === 2) options.sackPermitted = true;
    if (kind === 5) options.sackBlocks = (length - 2) / 8;
    if (kind === 8 && length === 10) {
      options.timestamps = { value: view.getUint32(at + 2), echo: view.getUint32(at + 6) };
    }
    at += length;
  }
  return options;
}

/** The address that an ARP frame or neighbor advertisement says its sender has. */
function claimedAddress(frame: Frame): string | undefined {
  const { view, offset, type } = locateNetwork(frame);
  if (type === ETHERTYPE_ARP && view.byteLength >= offset + 28) {
    const sender = formatAddress(view, offset + 14, 4);
    const isGratuitous = sender === formatAddress(view, offset + 24, 4);
    return view.getUint16(offset + 6) === ARP_REPLY || isGratuitous ? sender : undefined;
  }
  const packet = locatePacket(frame);
  if (packet === undefined || packet.protocol !== PROTOCOL_ICMPV6) return undefined;
  if (view.byteLength < packet.transport + 24) return undefined;
  if (view.getUint8(packet.transport) !== ICMPV6_NEIGHBOR_ADVERTISEMENT) return undefined;
  return formatAddress(view, packet.transport + 8, 16);
}

function formatAddress(view: DataView, offset: number, length: number): string {
  return addressOfBytes(new Uint8Array(view.buffer, view.byteOffset + offset, length)).text;
}

function formatMac(octets: Uint8Array, offset: number): string {
  const mac = [...octets.subarray(offset, offset + 6)];
  return mac.map((octet) => octet.toString(16).padStart(2, "0")).join(":");
}
