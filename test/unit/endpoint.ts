/**
 * endpoint.ts - a small TCP in plain TypeScript: the kernel at the end of a wire, for tests
 *
 * Theory of operation
 * An endpoint speaks RFC 9293 over arrays of packets: handshake, sliding window with go-back-N, FIN and
 * RST, octets that arrive out of order, zero windows, timestamps with PAWS, slow start. There is
 * no timer: the test calls `timeout()` when nothing moves, after which one segment at a time goes out
 * until something is acknowledged (RFC 5681 section 3.1). Every packet it is handed is
 * parsed with all checksums looked at, so a core that writes a wrong one fails the test at once.
 * Like a kernel's, its answers depend only on the wire: it does not know what stands in between.
 *
 *   closed ──connect()──> synSent ──SYN-ACK──> open       listen() ──SYN──> synReceived ──ACK──> open
 *
 * Streams are at most STREAM_MAX octets, or as many as the options say; sequence numbers may start anywhere.
 *
 * Sources: RFC 9293 section 3.10, RFC 7323 sections 2 and 5, RFC 5961 section 3.2, RFC 6928.
 */
import { PORT } from "./core_driver.ts";
import {
  buildOptions,
  buildPacket,
  findOption,
  type Packet,
  packetOf,
  parsePacket,
  TcpFlag,
} from "./twin.ts";

/** Longest stream of one direction. */
const STREAM_MAX = 1 << 20;

/** Initial congestion window, segments; RFC 6928. */
const INITIAL_SEGMENTS = 10;

/** Ends and habits of an endpoint. */
export interface EndpointOptions {
  /** Own address. */
  local: Uint8Array;
  /** Own port. */
  localPort: number;
  /** The other side's address. */
  remote: Uint8Array;
  /** The other side's port. */
  remotePort: number;
  /** First sequence number. */
  iss: number;
  /** Own window scale, or null to offer none. */
  scale: number | null;
  /** Octets of the receive window. */
  window: number;
  /** Offers timestamps; its clock is `clock()` plus this. */
  stampOffset: number | null;
  /** Permits SACK (it never sends any). */
  sack: boolean;
  /** Octets of one segment. */
  mss: number;
  /** Has a congestion window; else all of the other side's window is filled. */
  slowStart: boolean;
  /** Milliseconds. */
  clock: () => number;
  /** Once its FIN that answers the other side's is acknowledged it knows nothing more (LAST-ACK). */
  forgets?: boolean;
  /** Longest stream of one direction, octets; STREAM_MAX if not given. */
  streamMax?: number;
}

/** Where an endpoint stands. */
export type EndpointState = "closed" | "listen" | "synSent" | "synReceived" | "open" | "reset";

/** One end of one connection. */
export class Endpoint {
  /** Where it stands. */
  state: EndpointState = "closed";
  /** Octets of the receive window; a test may close and open it. */
  window: number;
  /** Called with each new piece of the stream, in order. */
  onOctets: (octets: Uint8Array) => void = () => {};
  /** Called when the other side has ended its stream. */
  onEnd: () => void = () => {};
  /** The other side's stream has ended. */
  ended = false;
  /** Segments that PAWS dropped. */
  oldStamps = 0;
  /** Segments that came when it knew nothing of the connection any more, each answered with a RST. */
  strays = 0;
  readonly #options: EndpointOptions;
  readonly #in: Uint8Array;
  readonly #have: Uint8Array;
  readonly #out: Uint8Array;
  #outLength = 0;
  #closing = false;
  /** Offsets from ISS + 1 and IRS + 1, so that nothing wraps. */
  #una = 0;
  #nxt = 0;
  /** Highest number ever sent, which an honest ACK cannot pass. */
  #sentMost = 0;
  #edge = 0;
  /** Octets that may be on the way; RFC 5681. */
  #congestionWindow: number;
  /** Its FIN answered the other side's. */
  #endsLast = false;
  #irs = 0;
  #got = 0;
  #finAt: number | null = null;
  #shownEdge = 0;
  #peerScale = 0;
  #scaled = false;
  #stamped = false;
  #sackOk = false;
  #peerMss = 536;
  #recent = 0;
  #ackDue = false;
  #pending: Partial<Packet>[] = [];

  /** Makes a closed endpoint. */
  constructor(options: EndpointOptions) {
    this.#options = options;
    this.window = options.window;
    const { streamMax = STREAM_MAX } = options;
    this.#in = new Uint8Array(streamMax);
    this.#have = new Uint8Array(streamMax);
    this.#out = new Uint8Array(streamMax);
    this.#congestionWindow = options.slowStart ? INITIAL_SEGMENTS * options.mss : streamMax;
  }

  /** The stream received so far. */
  get received(): Uint8Array {
    return this.#in.subarray(0, Math.min(this.#got, this.#finAt ?? this.#got));
  }

  /** Everything written has been acknowledged, FIN included. */
  get isDrained(): boolean {
    return this.#una === this.#outLength + (this.#closing ? 1 : 0);
  }

  /** Everything written has been acknowledged, but for the FIN. */
  get lacksOnlyAck(): boolean {
    return this.#closing && this.#una >= this.#outLength;
  }

  /** The other side's first sequence number. */
  get irs(): number {
    return this.#irs;
  }

  /** RCV.NXT. */
  get rcvNxt(): number {
    return (this.#irs + 1 + this.#got) >>> 0;
  }

  /** SND.NXT. */
  get sndNxt(): number {
    return (this.#options.iss + 1 + this.#nxt) >>> 0;
  }

  /** Opens actively. */
  connect(): void {
    this.state = "synSent";
    this.#pending.push(this.#syn());
  }

  /** Waits for a SYN. */
  listen(): void {
    this.state = "listen";
  }

  /** Puts octets into the stream. */
  write(octets: Uint8Array): void {
    this.#out.set(octets, this.#outLength);
    this.#outLength += octets.length;
  }

  /** Ends the stream. */
  end(): void {
    this.#closing = true;
  }

  /** Tells the other side of a window that has changed. */
  announce(): void {
    this.#ackDue = true;
  }

  /** Goes back to what is not acknowledged, as a retransmission timer does. */
  timeout(): void {
    if (this.state === "synSent" || this.state === "synReceived") this.#pending.push(this.#syn());
    else if (this.state === "open") {
      const stuck = this.#una === this.#nxt && this.#nxt < this.#outLength;
      this.#nxt = this.#una;
      if (this.#options.slowStart) this.#congestionWindow = this.#options.mss;
      // A closed window is probed with an octet the other side has (RFC 9293 section 3.8.6.1).
      if (stuck) this.#pending.push({ seq: this.#seqOf(this.#una - 1), flags: TcpFlag.ack });
    }
  }

  /** A kernel has forgotten what was reset, and takes `packet`, a SYN, for a new connection. */
  isFollowedBy(packet: Uint8Array): boolean {
    return this.state === "reset" && (parsePacket(packet).flags & TcpFlag.syn) !== 0;
  }

  /** Takes one packet from the wire. */
  receive(bytes: Uint8Array): void {
    const packet = parsePacket(bytes);
    if (this.state === "closed") return;
    const isForgotten = this.#options.forgets === true && this.#endsLast && this.isDrained;
    if (isForgotten) this.strays++;
    if (this.state === "reset" || isForgotten) {
      // A kernel knows nothing of it any more (RFC 9293 section 3.10.7.1).
      if ((packet.flags & (TcpFlag.rst | TcpFlag.ack)) === TcpFlag.ack) {
        this.#pending.push({ seq: packet.ack, flags: TcpFlag.rst });
      }
      return;
    }
    if (this.state === "listen") {
      if (packet.flags & TcpFlag.syn) this.#agree(packet, "synReceived");
      else if ((packet.flags & TcpFlag.rst) === 0) {
        // Nobody knows this connection (RFC 9293 section 3.10.7.1).
        this.#pending.push({ seq: packet.ack, flags: TcpFlag.rst });
      }
      return;
    }
    if (this.state === "synSent") {
      const answer = TcpFlag.syn | TcpFlag.ack;
      if ((packet.flags & answer) !== answer || packet.ack !== this.#seqOf(0)) return;
      this.#agree(packet, "open");
      this.#ackDue = true;
      return;
    }
    this.#onSegment(packet);
  }

  /** Packets that are due; together they stand for all that was said since the last call. */
  take(): Uint8Array[] {
    const packets = this.#pending;
    this.#pending = [];
    if (this.state === "open") {
      const stop = Math.min(this.#outLength, this.#edge, this.#una + this.#congestionWindow);
      while (this.#nxt < stop) {
        const most = Math.min(this.#options.mss, this.#peerMss) - (this.#stamped ? 12 : 0);
        const length = Math.min(stop, this.#nxt + most) - this.#nxt;
        packets.push({
          seq: this.#seqOf(this.#nxt),
          payload: this.#out.slice(this.#nxt, this.#nxt + length),
        });
        this.#nxt += length;
      }
      if (this.#closing && this.#nxt === this.#outLength) {
        packets.push({ seq: this.#seqOf(this.#nxt), flags: TcpFlag.fin | TcpFlag.ack });
        this.#nxt++;
        if (this.#sentMost < this.#nxt) this.#endsLast = this.ended;
      }
      this.#sentMost = Math.max(this.#sentMost, this.#nxt);
      // Not the number of what is being repeated, which the other side may have: Linux and FreeBSD do so, too.
      if (this.#ackDue && packets.length === 0) packets.push({ seq: this.#seqOf(this.#sentMost) });
      this.#ackDue = false;
    }
    return packets.map((packet) => this.#build(packet));
  }

  #seqOf(offset: number): number {
    return (this.#options.iss + 1 + offset) >>> 0;
  }

  #stamp(): number {
    return (this.#options.clock() + (this.#options.stampOffset ?? 0)) >>> 0;
  }

  #syn(): Partial<Packet> {
    const { iss, scale, stampOffset, sack, mss } = this.#options;
    const answer = this.state === "synReceived";
    const stamped = answer ? this.#stamped : stampOffset !== null;
    return {
      seq: iss,
      flags: TcpFlag.syn | (answer ? TcpFlag.ack : 0),
      window: Math.min(65535, this.window),
      options: buildOptions({
        mss,
        sackPermitted: answer ? this.#sackOk : sack,
        stamps: stamped ? [this.#stamp(), answer ? this.#recent : 0] : undefined,
        scale: scale !== null && (!answer || this.#scaled) ? scale : undefined,
      }),
    };
  }

  /** Takes over what a SYN or SYN-ACK says. */
  #agree(packet: Packet, state: EndpointState): void {
    const { options } = packet;
    const scale = findOption(options, 3);
    const stamps = findOption(options, 8);
    const mss = findOption(options, 2);
    const { scale: ownScale, stampOffset, sack, window } = this.#options;
    this.#irs = packet.seq;
    this.#scaled = scale !== null && ownScale !== null;
    this.#peerScale = this.#scaled && scale !== null ? options[scale.at] : 0;
    this.#stamped = stamps !== null && stampOffset !== null;
    this.#sackOk = sack && findOption(options, 4) !== null;
    if (stamps !== null) this.#recent = word(options, stamps.at);
    if (mss !== null) this.#peerMss = options[mss.at] * 256 + options[mss.at + 1];
    this.#edge = packet.window;
    this.#shownEdge = Math.min(65535, window);
    this.state = state;
    if (state === "synReceived") this.#pending.push(this.#syn());
  }

  #onSegment(packet: Packet): void {
    const offset = (packet.seq - this.#irs - 1) | 0;
    const fin = (packet.flags & TcpFlag.fin) !== 0;
    const end = offset + packet.payload.length + (fin ? 1 : 0);
    if (packet.flags & TcpFlag.rst) {
      if (offset === this.#got) this.state = "reset";
      else if (offset > this.#got && offset <= this.#shownEdge) this.#ackDue = true;
      return;
    }
    if (packet.flags & TcpFlag.syn) {
      if (this.state === "synReceived" && packet.seq === this.#irs) this.#pending.push(this.#syn());
      else this.#ackDue = true;
      return;
    }
    const stamps = findOption(packet.options, 8);
    if (this.#stamped) {
      if (stamps === null) return;
      const value = word(packet.options, stamps.at);
      if (((value - this.#recent) | 0) < 0) {
        this.oldStamps++;
        this.#ackDue = true;
        return;
      }
      if (offset <= this.#got) this.#recent = value;
    }
    if (offset > this.#shownEdge || end < this.#got || (end === this.#got && offset < this.#got)) {
      this.#ackDue = true;
      // Linux takes an ACK of one that ends right where its window begins, and of none before.
      if (offset > this.#shownEdge || end < this.#got) return;
    }
    if ((packet.flags & TcpFlag.ack) === 0) return;
    const ack = (packet.ack - this.#options.iss - 1) | 0;
    if (ack > this.#sentMost) {
      this.#ackDue = true;
      return;
    }
    if (this.state === "synReceived" && ack >= 0) this.state = "open";
    if (ack > this.#una) {
      this.#congestionWindow += ack - this.#una;
      this.#una = ack;
    }
    if (this.#nxt < this.#una) this.#nxt = this.#una;
    if (ack === this.#una) {
      this.#edge = Math.max(this.#edge, ack + packet.window * 2 ** this.#peerScale);
    }
    this.#takeOctets(packet, offset, fin);
  }

  #takeOctets(packet: Packet, offset: number, fin: boolean): void {
    if (packet.payload.length === 0 && !fin) return;
    this.#ackDue = true;
    // As in Linux, a segment in order takes the place of octets that came early.
    const inOrder = offset <= this.#got;
    const { payload } = packet;
    for (let index = 0; index < payload.length; index++) {
      const at = offset + index;
      if (at < this.#got || at >= this.#shownEdge || (this.#have[at] && !inOrder)) continue;
      this.#have[at] = 1;
      this.#in[at] = payload[index];
    }
    if (fin) this.#finAt = offset + packet.payload.length;
    const from = this.#got;
    while (this.#have[this.#got]) this.#got++;
    if (this.#got > from) this.onOctets(this.#in.slice(from, this.#got));
    if (this.#finAt === this.#got && !this.ended) {
      this.#got++;
      this.ended = true;
      this.onEnd();
    }
  }

  #build(fields: Partial<Packet>): Uint8Array {
    const { local, localPort, remote, remotePort } = this.#options;
    const shift = this.#scaled ? (this.#options.scale ?? 0) : 0;
    // Rounded up, so that a right edge once shown stays.
    const room = Math.max(this.#shownEdge - this.#got, this.window, 0);
    const field = Math.min(65535, Math.ceil(room / 2 ** shift));
    if (fields.window === undefined) this.#shownEdge = this.#got + field * 2 ** shift;
    return buildPacket(packetOf({
      source: local,
      destination: remote,
      sourcePort: localPort,
      destinationPort: remotePort,
      flags: TcpFlag.ack,
      ack: this.state === "synSent" ? 0 : this.rcvNxt,
      window: field,
      options: buildOptions(
        this.#stamped ? { shift: 2, stamps: [this.#stamp(), this.#recent] } : {},
      ),
      ...fields,
    }));
  }
}

/** The port an endpoint's packets go to or come from, on the client's side. */
export function clientPortOf(bytes: Uint8Array): number {
  const packet = parsePacket(bytes);
  return packet.sourcePort === PORT ? packet.destinationPort : packet.sourcePort;
}

function word(octets: Uint8Array, at: number): number {
  return new DataView(octets.buffer, octets.byteOffset).getUint32(at);
}
