/**
 * core_driver.ts - one instance of the packet core, driven pass by pass from a test
 *
 * Theory of operation
 * `Driver` does what the daemon's loop does, with arrays in the place of devices: packets and message
 * bodies go in, packets and a message body come out as copies. Time is a number the test sets.
 * Nothing is simulated: it calls the entry points the loop calls, in the order core/mod.ts asks for.
 *
 *   net, app, bodies ──> pass() ──> Output[]          takeBody() ──> octets for the peer's pass()
 *
 * The record bodies of core/records.ts are written and read here a second time, from that file's
 * description, so that tests can play a peer that never existed, or a hostile one.
 */
import {
  type Core,
  type CoreOptions,
  type Field,
  loadCore,
  readCounters,
  Staying,
} from "../../runtime/core.ts";
import { type CoreFinding, FINDINGS } from "../../runtime/protocol/judge.ts";
import { parseAddress } from "../../runtime/io/address.ts";
import { type Packet, packetOf } from "./twin.ts";

/** Service address of IPv4 tests. */
export const SERVICE_V4: Uint8Array = octetsOf("10.0.0.100");
/** Client address of IPv4 tests. */
export const CLIENT_V4: Uint8Array = octetsOf("10.9.8.7");
/** Service address of IPv6 tests. */
export const SERVICE_V6: Uint8Array = octetsOf("fd01::100");
/** Client address of IPv6 tests. */
export const CLIENT_V6: Uint8Array = octetsOf("fd02::9:8:7");
/** The served port. */
export const PORT = 80;
/** Octets of input each instance keeps for a connection, unless a test says otherwise. */
export const LOG_LIMIT = 1 << 20;

/** Types of records, `RecordType` in core/records.ts. */
export const RecordType = {
  open: 1,
  data: 2,
  progress: 3,
  close: 4,
  report: 5,
  fail: 6,
  raw: 7,
  mark: 8,
  cut: 9,
} as const;

/** How a record went, `CloseHow` in core/records.ts. */
export const CloseHow = { normal: 0, clientReset: 1, serverReset: 2, dropped: 3 } as const;

/** Phases of a record, `Phase` in core/flow/connection.ts. */
export const Phase = { free: 0, syn: 1, half: 2, open: 3, closing: 4, closed: 5 } as const;

/** Legs of a record, `Leg` in core/flow/connection.ts. */
export const Leg = { none: 0, synSent: 1, synAck: 2, open: 3, dead: 4, hung: 5 } as const;

/** Reasons, `Reason` in core/flow/connection.ts. */
export const Reason = {
  none: 0,
  noStandby: 1,
  standbyLost: 2,
  md5: 3,
  authOption: 4,
  standbyRefused: 5,
  standbyReset: 6,
  standbyDiffers: 7,
  standbyTableFull: 8,
  logMemory: 9,
  tooManyRanges: 10,
  legStalled: 11,
  pending: 12,
  standbySilent: 13,
  standbyEnded: 14,
  serverEnded: 15,
  diverged: 16,
  logFull: 17,
  replayDiffers: 18,
  standbyHangs: 19,
  storeLost: 20,
  joining: 21,
  notKept: 22,
} as const;

/** A packet that left. */
export interface Output {
  /** "net" towards clients, "app" towards the server. */
  side: "net" | "app";
  /** A copy of its octets, virtio_net_hdr first. */
  packet: Uint8Array;
  /** Where it lay in the core's memory. */
  address: number;
}

/** A finding of core/judgement.ts; without the client's port. */
type Found = Omit<CoreFinding, "clientPort">;

/** What goes into a pass; all of it optional. */
export interface Input {
  /** Packets from clients. */
  net?: readonly Uint8Array[];
  /** Packets from the server. */
  app?: readonly Uint8Array[];
  /** Message bodies from the peer. */
  bodies?: readonly Uint8Array[];
  /** Runs between the bodies and the packets: changes of role. */
  between?: () => void;
}

/** How an instance is made; what is missing gets the values above. */
export interface DriverOptions extends Partial<CoreOptions> {
  /** Address family. */
  family?: 4 | 6;
}

/** One instance and the pass around it. */
export class Driver {
  /** The instance. */
  readonly core: Core;
  /** The clock of the next pass, in milliseconds. */
  nowMs = 1000;
  readonly #batch: number;

  /** Makes an instance; it is silent. */
  constructor(options: DriverOptions = {}) {
    const { family = 4, ...rest } = options;
    this.core = loadCore({
      memoryMiB: 48,
      capacity: 64,
      address: family === 4 ? SERVICE_V4 : SERVICE_V6,
      ports: [PORT],
      commit: "strict",
      divergence: "reset",
      logLimit: LOG_LIMIT,
      refuseUnprotectable: false,
      ...rest,
    });
    this.#batch = this.core.wasm.batch();
  }

  /**
   * One pass of the loop, or as many as the packets need.
   *
   * @throws {Error} When a body is refused.
   */
  pass(input: Input = {}): Output[] {
    const { wasm } = this.core;
    const { net = [], app = [], bodies = [], between } = input;
    const outputs: Output[] = [];
    let done = 0;
    do {
      wasm.begin(this.nowMs >>> 0);
      if (done === 0) {
        for (const body of bodies) {
          const trouble = this.apply(body);
          if (trouble !== 0) throw new Error(`Cannot apply a body: its octet ${trouble - 1}`);
        }
        between?.();
      }
      const nets = this.#load(net.slice(done, done + this.#batch), "net");
      const apps = this.#load(app.slice(done, done + this.#batch), "app");
      const count = wasm.run(nets, apps);
      outputs.push(...this.outputs(count));
      done += this.#batch;
    } while (done < net.length || done < app.length);
    return outputs;
  }

  /** Passes without input until nothing is due any more, at most `limit` of them. */
  drain(limit = 1000): Output[] {
    const outputs: Output[] = [];
    for (let i = 0; i < limit; i++) {
      outputs.push(...this.pass());
      if (this.core.wasm.more() === 0) return outputs;
    }
    throw new Error(`Cannot come to rest within ${limit} passes`);
  }

  /** Applies a body from the inbox and returns what `apply()` says. */
  apply(body: Uint8Array): number {
    const at = this.core.wasm.inbox();
    this.core.bytes.set(body, at);
    return this.core.wasm.apply(at, body.length);
  }

  /**
   * Applies what the next replica of a chain says.
   *
   * @throws {Error} When it is refused.
   */
  applyNext(body: Uint8Array): void {
    const at = this.core.wasm.inbox(1);
    this.core.bytes.set(body, at);
    const trouble = this.core.wasm.applyNext(at, body.length);
    if (trouble !== 0) throw new Error(`Cannot apply a body: its octet ${trouble - 1}`);
  }

  /** The first `count` entries of the output list. */
  outputs(count: number): Output[] {
    const { wasm, view, bytes } = this.core;
    return Array.from({ length: count }, (_, index) => {
      const entry = wasm.outList() + index * wasm.outEntry();
      const address = view.getUint32(entry + 20, true);
      const length = view.getUint32(entry + 8, true);
      return {
        side: view.getUint32(entry + 16, true) === 0 ? "net" as const : "app" as const,
        packet: bytes.slice(address, address + length),
        address,
      };
    });
  }

  /** Takes the message that waits to be sent: its number and body, or null. */
  takeBody(): { seq: number; body: Uint8Array } | null {
    const { wasm, bytes } = this.core;
    const length = wasm.bodyLength();
    if (length === 0) return null;
    const taken = { seq: wasm.messageSeq(), body: bytes.slice(wasm.body(), wasm.body() + length) };
    wasm.sealed();
    return taken;
  }

  /** What was found about connections since the last call. */
  takeFindings(): Found[] {
    const { wasm, view } = this.core;
    const count = wasm.takeFindings();
    return Array.from({ length: count }, (_, index) => {
      const at = wasm.findings() + index * wasm.findingSize();
      return {
        kind: FINDINGS[view.getUint32(at, true)],
        ours: view.getUint32(at + 12, true),
        theirs: view.getUint32(at + 16, true),
        waitedMs: view.getUint32(at + 20, true),
      };
    });
  }

  /** From standby to primary, with nobody staying unless told otherwise, and the first words. */
  takeOver(staying: keyof typeof Staying = "nobody"): Output[] {
    const { wasm } = this.core;
    wasm.begin(this.nowMs >>> 0);
    wasm.promote(Staying[staying]);
    const outputs: Output[] = [];
    let more: boolean;
    do {
      wasm.begin(this.nowMs >>> 0);
      more = wasm.speak() !== 0;
      outputs.push(...this.outputs(wasm.settle()));
    } while (more);
    return [...outputs, ...this.drain()];
  }

  /** A field of the record at `index`, as an unsigned 32-bit number. */
  field(index: number, field: Field): number {
    const at = this.core.wasm.recordAt(index);
    if (at === 0) throw new Error(`Cannot read ${field}: record ${index} is free`);
    return this.core.view.getUint32(at + this.core.offsets[field], true);
  }

  /** A counter. */
  counter(name: string): number {
    return readCounters(this.core)[name];
  }

  #load(packets: readonly Uint8Array[], side: "net" | "app"): number {
    const { wasm, view, bytes } = this.core;
    const slots = side === "net" ? wasm.netSlots() : wasm.appSlots();
    const lengths = side === "net" ? wasm.netLengths() : wasm.appLengths();
    for (const [index, packet] of packets.entries()) {
      bytes.set(packet, slots + index * wasm.slotSize());
      view.setUint32(lengths + index * 4, packet.length, true);
    }
    return packets.length;
  }
}

/** The packets of one side. */
export function on(side: "net" | "app", outputs: readonly Output[]): Uint8Array[] {
  return outputs.filter((output) => output.side === side).map((output) => output.packet);
}

/** What an OPEN record says. */
export interface Open {
  /** Client's address: 4 or 16 octets. */
  client: Uint8Array;
  /** Client's port. */
  clientPort: number;
  /** ISS of the client. */
  irs: number;
  /** ISS.client: what the client was shown. */
  iss: number;
  /** MSS of both sides. */
  mss: [client: number, server: number];
  /** Window scales of both sides; null when they were not negotiated. */
  scale: [client: number, server: number] | null;
  /** Timestamps of SYN and SYN-ACK; null when they were not negotiated. */
  stamps: [client: number, server: number] | null;
  /** SACK was permitted. */
  sack: boolean;
  /** Windows of SYN and SYN-ACK. */
  window: [client: number, server: number];
}

/** An OPEN with the usual values where `fields` has none. */
export function openOf(fields: Partial<Open> = {}): Open {
  return {
    client: CLIENT_V4,
    clientPort: 40000,
    irs: 1000,
    iss: 500000,
    mss: [1460, 1460],
    scale: [7, 7],
    stamps: null,
    sack: true,
    window: [64240, 65160],
    ...fields,
  };
}

function record(
  type: number,
  size: number,
  head: { flags?: number; generation?: number; index: number },
): DataView<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer((size + 3) & ~3));
  view.setUint8(0, type);
  view.setUint8(1, head.flags ?? 0);
  view.setUint16(2, head.generation ?? 1, true);
  view.setUint32(4, head.index, true);
  return view;
}

/** An OPEN record. */
export function encodeOpen(index: number, open: Open, generation = 1): Uint8Array {
  const view = record(RecordType.open, 64, { index, generation });
  new Uint8Array(view.buffer).set(open.client, 8);
  view.setUint32(24, open.clientPort | PORT << 16, true);
  view.setUint32(28, open.irs, true);
  view.setUint32(32, open.iss, true);
  view.setUint16(36, open.mss[0], true);
  view.setUint16(38, open.mss[1], true);
  view.setUint8(40, open.scale?.[0] ?? 0);
  view.setUint8(41, open.scale?.[1] ?? 0);
  view.setUint8(43, (open.sack ? 1 : 0) | (open.stamps ? 2 : 0) | (open.scale ? 4 : 0));
  view.setUint32(44, open.stamps?.[0] ?? 0, true);
  view.setUint32(48, open.stamps?.[1] ?? 0, true);
  view.setUint32(52, open.window[0], true);
  view.setUint32(56, open.window[1], true);
  return new Uint8Array(view.buffer);
}

/** A DATA record; with a FIN, `finAck` is what the client had acknowledged when it said it. */
export function encodeData(
  index: number,
  seq: number,
  octets: Uint8Array,
  fin = false,
  generation = 1,
  finAck = 0,
): Uint8Array {
  const head = fin ? 20 : 16;
  const view = record(RecordType.data, head + octets.length, {
    index,
    generation,
    flags: fin ? 1 : 0,
  });
  view.setUint32(8, seq, true);
  view.setUint32(12, octets.length, true);
  if (fin) view.setUint32(16, finAck, true);
  new Uint8Array(view.buffer).set(octets, head);
  return new Uint8Array(view.buffer);
}

/** What a PROGRESS record says. */
export interface Progress {
  /** The client has acknowledged the SYN-ACK. */
  open?: boolean;
  /** What the client has acknowledged. */
  cliAck: number;
  /** The client's window field. */
  cliWnd?: number;
  /** The client's newest TSval. */
  cliTs?: number;
  /** Newest TSval shown to the client, by the moment of the record. */
  tsShown?: number;
  /** Highest ACK shown to it. */
  ackShown: number;
  /** Highest right edge shown to it. */
  edgeShown: number;
  /** Highest octet sent to it. */
  sndShown: number;
  /** Next octet its server will write; `sndShown` if not given. */
  outputEnd?: number;
  /** Its server has said FIN there. */
  fin?: boolean;
  /** Digest of all its server has written. */
  digest?: bigint;
  /** About where its server has read to; `ackShown` if not given. */
  read?: number;
}

/** A PROGRESS record. */
export function encodeProgress(index: number, progress: Progress, generation = 1): Uint8Array {
  const view = record(RecordType.progress, 56, {
    index,
    generation,
    flags: (progress.open === false ? 0 : 1) | (progress.fin ? 2 : 0) |
      (progress.digest === undefined ? 0 : 8),
  });
  view.setUint32(8, progress.cliAck, true);
  view.setUint32(12, progress.cliWnd ?? 502, true);
  view.setUint32(16, progress.cliTs ?? 0, true);
  view.setUint32(20, progress.tsShown ?? 0, true);
  view.setUint32(24, progress.ackShown, true);
  view.setUint32(28, progress.edgeShown, true);
  view.setUint32(32, progress.sndShown, true);
  view.setUint32(40, progress.outputEnd ?? progress.sndShown, true);
  view.setBigUint64(44, progress.digest ?? 0n, true);
  view.setUint32(52, progress.read ?? progress.ackShown, true);
  return new Uint8Array(view.buffer);
}

/** A CLOSE record. */
export function encodeClose(index: number, how: number, generation = 1): Uint8Array {
  return new Uint8Array(
    record(RecordType.close, 12, { index, generation, flags: how }).buffer,
  );
}

/**
 * A REPORT record; `output` is the next octet its server will write, `fin` that it ends there,
 * `accepted` that it has the connection, `same` up to where it is what the primary has written, `read`
 * about where it has read to.
 */
export function encodeReport(
  index: number,
  rcvNxt: number,
  edge: number,
  more: {
    output?: number;
    fin?: boolean;
    accepted?: boolean;
    same?: number;
    generation?: number;
    read?: number;
  } = {},
): Uint8Array {
  const { output = 0, fin = false, accepted = false, same = output, generation = 1 } = more;
  const { read = rcvNxt } = more;
  const flags = (fin ? 1 : 0) | (accepted ? 4 : 0);
  const view = record(RecordType.report, 28, { index, generation, flags });
  view.setUint32(8, rcvNxt, true);
  view.setUint32(12, edge, true);
  view.setUint32(16, output, true);
  view.setUint32(20, same, true);
  view.setUint32(24, read, true);
  return new Uint8Array(view.buffer);
}

/** A FAIL record. */
export function encodeFail(index: number, reason: number, generation = 1): Uint8Array {
  return new Uint8Array(
    record(RecordType.fail, 20, { index, generation, flags: reason }).buffer,
  );
}

/** A MARK record: an answer ends before `output`, its request before `input`, and `digest` of the output up to there. */
export function encodeMark(
  index: number,
  [input, output]: [number, number],
  digest: bigint,
  generation = 1,
): Uint8Array {
  const view = record(RecordType.mark, 24, { index, generation });
  view.setUint32(8, input, true);
  view.setUint32(12, output, true);
  view.setBigUint64(16, digest, true);
  return new Uint8Array(view.buffer);
}

/** A CUT record: the log is cut there; `shown` is the highest octet sent to the client. */
export function encodeCut(
  index: number,
  [input, output]: [number, number],
  shown: number,
  generation = 1,
): Uint8Array {
  const view = record(RecordType.cut, 20, { index, generation });
  view.setUint32(8, input, true);
  view.setUint32(12, output, true);
  view.setUint32(16, shown, true);
  return new Uint8Array(view.buffer);
}

/** A record taken apart. */
export interface DecodedRecord {
  /** `RecordType`. */
  type: number;
  /** Its flags. */
  flags: number;
  /** Which incarnation. */
  generation: number;
  /** Which record. */
  index: number;
  /** Words from octet 8 on, as many as the type has. */
  words: number[];
  /** Octets of a DATA record. */
  octets: Uint8Array;
}

/** The records of a body. */
export function decodeRecords(body: Uint8Array): DecodedRecord[] {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const sizes: Record<number, number> = {
    1: 64,
    2: 16,
    3: 56,
    4: 12,
    5: 28,
    6: 20,
    7: 12,
    8: 24,
    9: 20,
  };
  const records: DecodedRecord[] = [];
  for (let at = 0; at < body.length;) {
    const type = body[at];
    const isAgain = type === RecordType.open && (body[at + 1] & 2) !== 0;
    const isLast = type === RecordType.data && (body[at + 1] & 1) !== 0;
    const head = isAgain ? 92 : isLast ? 20 : sizes[type];
    if (head === undefined) throw new Error(`Cannot decode a record: its type is ${type}`);
    const length = type === RecordType.data
      ? view.getUint32(at + 12, true)
      : type === RecordType.raw
      ? view.getUint32(at + 8, true)
      : 0;
    records.push({
      type,
      flags: body[at + 1],
      generation: view.getUint16(at + 2, true),
      index: view.getUint32(at + 4, true),
      words: Array.from({ length: head / 4 - 2 }, (_, i) => view.getUint32(at + 8 + i * 4, true)),
      octets: body.slice(at + head, at + head + length),
    });
    at += (head + length + 3) & ~3;
  }
  return records;
}

/** Several bodies in one. */
export function joined(...bodies: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(bodies.reduce((sum, body) => sum + body.length, 0));
  let at = 0;
  for (const body of bodies) {
    all.set(body, at);
    at += body.length;
  }
  return all;
}

/** A segment of the client's, with the addresses filled in. */
export function fromClient(fields: Partial<Packet>, family: 4 | 6 = 4): Packet {
  return packetOf({
    source: family === 4 ? CLIENT_V4 : CLIENT_V6,
    destination: family === 4 ? SERVICE_V4 : SERVICE_V6,
    ...fields,
  });
}

/** A segment of the server's, with the addresses filled in. */
export function fromServer(fields: Partial<Packet>, family: 4 | 6 = 4): Packet {
  return packetOf({
    source: family === 4 ? SERVICE_V4 : SERVICE_V6,
    destination: family === 4 ? CLIENT_V4 : CLIENT_V6,
    sourcePort: PORT,
    destinationPort: 40000,
    ...fields,
  });
}

/** `a` after `b`, mod 2^32 (RFC 9293 section 3.4). */
export function isAfter(a: number, b: number): boolean {
  return ((a - b) | 0) > 0;
}

function octetsOf(text: string): Uint8Array {
  return parseAddress(text).bytes;
}
