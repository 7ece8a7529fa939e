/**
 * core_scene.ts - instances of the core in the states that are measured
 *
 * Theory of operation
 * Each scene drives a real instance to a state through packets and messages (test/unit/core_driver.ts),
 * and then offers one operation that can be repeated for as long as one likes, because it ends in the state
 * it began in. Before anything is measured the scene proves that the operation does what it is named for:
 * translated segments are compared octet by octet with what the plain twin makes of them.
 *
 *   Continued   a primary after a takeover: a connection whose numbers are translated, and no standby
 *   Follower    a standby with one connection: input log, reassembly, feeder
 *   Hot         a primary with hot connections, and its standby: messages about them
 */

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { type Core, loadCore, RecordFlag } from "../runtime/core.ts";
import {
  CLIENT_V4,
  CLIENT_V6,
  Driver,
  encodeData,
  encodeOpen,
  encodeProgress,
  encodeReport,
  fromClient,
  fromServer,
  joined,
  LOG_LIMIT,
  on,
  openOf,
  PORT,
  SERVICE_V4,
} from "../test/unit/core_driver.ts";
import {
  buildOptions,
  buildPacket,
  type ChecksumMode,
  type Packet,
  parsePacket,
  type Shift,
  TcpFlag,
  translate,
} from "../test/unit/twin.ts";

/** First numbers of the connection: the client's, what it was shown, our server's. */
const [IRS, ISS, SERVER_ISS] = [1000, 500_000, 0x9000_0000];
/** Timestamps of both handshakes. */
const [CLIENT_STAMP, SHOWN_STAMP, SERVER_STAMP] = [70_000, 3_000_000, 9_000_000];
const CLIENT_PORT = 40_000;
const MSS = 1448;
/** Octets of a segment that stands for many. */
const SUPER_OCTETS = 61_440;

/** Which segment is translated. */
export interface Mix {
  /** What people call it. */
  name: string;
  /** Address family. */
  family: 4 | 6;
  /** Who sends it. */
  from: "client" | "server";
  /** Carries timestamps. */
  stamps: boolean;
  /** SACK blocks it carries. */
  sackBlocks: number;
  /** Octets it carries. */
  octets: number;
  /** Who sums it up: with "partial" a rewrite touches no checksum, with "full" it is repaired. */
  checksum: ChecksumMode;
}

/** Who sums a segment up: whoever has no help sums all of it, so it must be repaired. */
const CHECKSUMS: readonly ChecksumMode[] = ["partial", "full"];

/** The mixes that are measured: ACKs of a client, then segments of a server, one or many (GSO). */
export const MIXES: readonly Mix[] = ([4, 6] as const).flatMap((family) => [
  ...[false, true].flatMap((stamps) =>
    [0, 3].flatMap((sackBlocks) =>
      CHECKSUMS.map((checksum) => mix({ family, stamps, sackBlocks, checksum }))
    )
  ),
  ...[false, true].flatMap((stamps) => [
    ...CHECKSUMS.map((checksum) => mix({ family, from: "server", stamps, octets: MSS, checksum })),
    // A super-segment is always summed up by who sends it on.
    mix({ family, from: "server", stamps, octets: SUPER_OCTETS }),
  ]),
]);

function mix(fields: Partial<Mix>): Mix {
  const { family = 4, from = "client", stamps = false } = fields;
  const { sackBlocks = 0, octets = 0, checksum = "partial" } = fields;
  const kind = octets === 0 ? "ACK" : octets > MSS ? `super-segment ${octets}` : `${octets} octets`;
  const options = [
    ...(stamps ? ["timestamps"] : []),
    ...(sackBlocks > 0 ? [`${sackBlocks} SACK blocks`] : []),
  ];
  const words = [
    `${family === 6 ? "IPv6 " : ""}${kind}`,
    ...(options.length === 0 ? ["no options"] : options),
    ...(checksum === "full" ? ["checksum repaired"] : []),
  ];
  return { name: words.join(", "), family, from, stamps, sackBlocks, octets, checksum };
}

/** A primary that has taken one connection over. */
export class Continued {
  /** The segment before it is translated. */
  readonly packet: Uint8Array;
  /** The segment afterwards. */
  readonly translated: Uint8Array;
  /** What the translation adds. */
  readonly shift: Shift;
  /** Segments that one call of {@linkcode pass} translates. */
  readonly count: number;
  readonly #core: Core;
  readonly #slots: number;
  readonly #isClients: boolean;
  /** Places in a slot, and the packet's 16-bit words there, that a translation changes. */
  readonly #places: number[] = [];
  readonly #words: number[] = [];
  readonly #halves: Uint16Array;

  /** Makes it and proves that the segment is translated. */
  constructor(mix: Mix) {
    const { family, stamps, from } = mix;
    const driver = takenOver(mix);
    this.#core = driver.core;
    const { wasm } = this.#core;
    this.packet = segmentOf(mix);
    const side = from === "client" ? "app" : "net";
    const input = from === "client" ? { net: [this.packet] } : { app: [this.packet] };
    const outputs = on(side, driver.pass(input));
    strictEqual(outputs.length, 1, `${mix.name}: the segment does not leave as one`);
    this.translated = outputs[0];
    const delta = (ISS - SERVER_ISS) >>> 0;
    const back = (SERVER_ISS - ISS) >>> 0;
    const tsDelta = stamps ? driver.field(0, "tsDelta") : 0;
    this.shift = from === "client"
      ? { ack: back, tsEcr: -tsDelta >>> 0 }
      : { seq: delta, tsVal: tsDelta, window: parsePacket(this.translated).window };
    deepStrictEqual(this.translated, translate(this.packet, this.shift), mix.name);
    this.#isClients = from === "client";
    this.#slots = this.#isClients ? wasm.netSlots() : wasm.appSlots();
    this.count = wasm.batch();
    this.#halves = new Uint16Array(wasm.memory.buffer);
    this.#loadSlots();
    strictEqual(family === 4, this.packet[10] >> 4 === 4);
    strictEqual(this.pass(), this.count, `${mix.name}: not all of a batch leaves`);
  }

  /** Translates a full batch, and puts the segments back. Returns how many were translated. */
  pass(): number {
    const { wasm } = this.#core;
    wasm.begin(1100);
    const outputs = this.#isClients ? wasm.run(this.count, 0) : wasm.run(0, this.count);
    this.restore();
    return outputs;
  }

  /** Only puts the segments back: what `pass()` spends on the measurement itself. */
  restore(): void {
    const places = this.#places;
    const words = this.#words;
    const halves = this.#halves;
    for (let i = 0; i < places.length; i++) halves[places[i]] = words[i];
  }

  #loadSlots(): void {
    const { wasm, bytes, view } = this.#core;
    const lengths = this.#isClients ? wasm.netLengths() : wasm.appLengths();
    const original = new DataView(this.packet.buffer);
    const changed = new DataView(this.translated.buffer);
    for (let slot = 0; slot < this.count; slot++) {
      const at = this.#slots + slot * wasm.slotSize();
      bytes.set(this.packet, at);
      view.setUint32(lengths + slot * 4, this.packet.length, true);
      for (let offset = 0; offset + 2 <= this.packet.length; offset += 2) {
        const word = original.getUint16(offset, true);
        if (word === changed.getUint16(offset, true)) continue;
        this.#places.push((at + offset) / 2);
        this.#words.push(word);
      }
    }
  }
}

/** A standby's connection, then its takeover, until segments pass directly. */
function takenOver({ family, stamps }: Mix): Driver {
  const driver = follow(family, stamps);
  driver.takeOver();
  // The client's answer shows that both sides are even: from here on its segments pass directly.
  const options = stamps ? buildOptions({ stamps: [CLIENT_STAMP + 1, SHOWN_STAMP] }) : undefined;
  const ack = fromClient({ seq: IRS + 1, ack: ISS + 1, window: 500, options }, family);
  driver.pass({ net: [buildPacket({ ...ack, options: ack.options ?? new Uint8Array(0) })] });
  driver.drain();
  strictEqual(driver.field(0, "flags") & RecordFlag.fed, 0, "the connection is still fed");
  return driver;
}

/** A standby with one open connection whose server has answered. */
function follow(family: 4 | 6, stamps: boolean): Driver {
  const driver = new Driver({ family });
  driver.core.wasm.setRole(1);
  const open = openOf({
    client: family === 4 ? CLIENT_V4 : CLIENT_V6,
    clientPort: CLIENT_PORT,
    irs: IRS,
    iss: ISS,
    stamps: stamps ? [CLIENT_STAMP, SHOWN_STAMP] : null,
  });
  driver.pass({ bodies: [encodeOpen(0, open)] });
  const synAck = fromServer({
    seq: SERVER_ISS,
    ack: IRS + 1,
    flags: TcpFlag.syn | TcpFlag.ack,
    options: buildOptions({
      mss: 1460,
      sackPermitted: true,
      scale: 7,
      stamps: stamps ? [SERVER_STAMP, CLIENT_STAMP] : undefined,
    }),
  }, family);
  const progress = encodeProgress(0, {
    cliAck: ISS + 1,
    cliTs: CLIENT_STAMP,
    tsShown: SHOWN_STAMP,
    ackShown: IRS + 1,
    edgeShown: IRS + 60_000,
    sndShown: ISS + 1,
  });
  driver.pass({ app: [buildPacket(synAck)], bodies: [progress] });
  driver.drain();
  driver.takeBody();
  return driver;
}

function segmentOf(mix: Mix): Uint8Array {
  const { family, from, stamps, sackBlocks, octets, checksum } = mix;
  const sack = Array.from({ length: sackBlocks * 2 }, (_, i) => ISS + 2000 + i * MSS);
  const options = buildOptions({
    shift: stamps ? 2 : 0,
    stamps: !stamps
      ? undefined
      : from === "client"
      ? [CLIENT_STAMP + 1, SHOWN_STAMP]
      : [SERVER_STAMP + 100, CLIENT_STAMP + 1],
    sack: sackBlocks > 0 ? sack : undefined,
  });
  const common: Partial<Packet> = {
    options,
    checksum,
    payload: new Uint8Array(octets).map((_, i) => i * 31),
    gsoSize: octets > MSS ? MSS : 0,
  };
  return buildPacket(
    from === "client"
      ? fromClient({ ...common, seq: IRS + 1, ack: ISS + 1, window: 500 }, family)
      : fromServer({ ...common, seq: SERVER_ISS + 1, ack: IRS + 1, window: 400 }, family),
  );
}

/** Octets after which the primary tells how far the client is. */
const UNTOLD_MAX = 2 ** 29;
/** Messages of 32 full segments that a log, and a server's window, have room for. */
export const STEP_MESSAGES = 16;

/** A standby that stores what the client says and feeds it to a server that takes all of it. */
export class Follower {
  /** Octets of each segment. */
  readonly length: number;
  /** Segments that one call of {@linkcode round} stores, feeds and forgets. */
  readonly count: number;
  readonly #driver: Driver;
  readonly #core: Core;
  readonly #inbox: number;
  readonly #body: Uint8Array;
  readonly #recordSize: number;
  readonly #order: number[];
  readonly #slot: number;
  /** What our server says: an acknowledgement. */
  readonly #said: Uint8Array;
  /** Where the acknowledgement of our server's segment stands in its slot. */
  readonly #ackAt: number;
  #next = IRS + 1;
  /** Octets since the primary told last how far the client is. */
  #untold = 0;
  #told = 0;
  #nowMs = 2000;

  /**
   * Makes it and proves that a round ends as it began.
   *
   * @param count Segments of a message.
   * @param options `reversed`: the last octets come first, so that all must wait for the first.
   */
  constructor(count: number, options: { length: number; reversed: boolean }) {
    this.count = count;
    this.length = options.length;
    const driver = follow(4, false);
    this.#driver = driver;
    this.#core = driver.core;
    const { wasm, bytes, view } = this.#core;
    const octets = new Uint8Array(this.length).map((_, i) => i * 7);
    const records = Array.from({ length: count }, () => encodeData(0, 0, octets));
    this.#recordSize = records[0].length;
    this.#order = records.map((_, i) => options.reversed ? count - 1 - i : i);
    this.#body = joined(...records);
    this.#inbox = wasm.inbox();
    bytes.set(this.#body, this.#inbox);
    const said = fromServer({ seq: SERVER_ISS + 1, window: 65535, checksum: "partial" });
    this.#said = buildPacket(said);
    this.#slot = wasm.appSlots();
    this.#ackAt = this.#slot + 10 + 20 + 8;
    bytes.set(this.#said, this.#slot);
    view.setUint32(wasm.appLengths(), this.#said.length, true);
    for (let i = 0; i < 100; i++) {
      this.round();
      this.#check();
    }
    this.steps(STEP_MESSAGES);
    this.#check();
  }

  /** One message of segments: into the log, to the server, acknowledged, forgotten. */
  round(): void {
    const { wasm } = this.#core;
    if (this.#untold > UNTOLD_MAX) this.#tell();
    this.#append();
    wasm.run(0, 0);
    this.#acknowledge();
  }

  /** So many messages as in {@linkcode round}, but step by step: milliseconds of each step for all. */
  steps(messages: number): { append: number; feed: number; forget: number } {
    const { wasm } = this.#core;
    if (this.#untold > UNTOLD_MAX) this.#tell();
    const startMs = performance.now();
    for (let i = 0; i < messages; i++) this.#append();
    const appendedMs = performance.now();
    do wasm.run(0, 0); while (wasm.more() !== 0);
    const fedMs = performance.now();
    this.#acknowledge();
    const forgottenMs = performance.now();
    return {
      append: appendedMs - startMs,
      feed: fedMs - appendedMs,
      forget: forgottenMs - fedMs,
    };
  }

  /** How often it was made sure that the server has all of it, since the first rounds. */
  get told(): number {
    return this.#told;
  }

  #check(): void {
    strictEqual(this.#driver.field(0, "legAck"), this.#next, "the server has not all of it");
  }

  /**
   * The primary tells how far the client is, as it does in each message; here before numbers that it has not
   * told are half the circle away, when a standby would store nothing more.
   */
  #tell(): void {
    this.#check();
    this.#told++;
    this.#untold = 0;
    const progress = encodeProgress(0, {
      cliAck: ISS + 1,
      ackShown: this.#next,
      edgeShown: (this.#next + 60_000) >>> 0,
      sndShown: ISS + 1,
    });
    this.#driver.pass({ bodies: [progress] });
    this.#driver.drain();
    this.#core.bytes.set(this.#body, this.#inbox);
    this.#core.bytes.set(this.#said, this.#slot);
    this.#core.view.setUint32(this.#core.wasm.appLengths(), this.#said.length, true);
  }

  /** A message's segments into the log. */
  #append(): void {
    const { wasm, view } = this.#core;
    this.#untold += this.count * this.length;
    wasm.begin(this.#nowMs++ >>> 0);
    for (let i = 0; i < this.count; i++) {
      const seq = (this.#next + this.#order[i] * this.length) >>> 0;
      view.setUint32(this.#inbox + i * this.#recordSize + 8, seq, true);
    }
    wasm.apply(this.#inbox, this.#body.length);
    this.#next = (this.#next + this.count * this.length) >>> 0;
  }

  /** The server has all of it. */
  #acknowledge(): void {
    const { wasm, view } = this.#core;
    view.setUint32(this.#ackAt, this.#next);
    wasm.begin(this.#nowMs >>> 0);
    wasm.run(0, 1);
    if (wasm.bodyLength() > 0) wasm.sealed();
  }
}

/** A primary with hot connections, and a standby that follows them. */
export class Hot {
  /** Connections, and so records of one message. */
  readonly count: number;
  /** A message with the progress of each. */
  readonly message: Uint8Array;
  readonly #primary: Driver;
  readonly #standby: Driver;
  readonly #inbox: number;

  /** Opens the connections on both. */
  constructor(count: number) {
    this.count = count;
    this.#primary = new Driver({ capacity: count });
    this.#standby = new Driver({ capacity: count });
    const { wasm } = this.#primary.core;
    wasm.promote(0);
    this.#standby.core.wasm.setRole(1);
    wasm.setPeerLogLimit(LOG_LIMIT);
    wasm.standbyJoined(LOG_LIMIT);
    for (let i = 0; i < count; i++) this.#open(10_000 + i, i);
    this.message = this.#progress();
    this.#inbox = this.#standby.core.wasm.inbox();
    this.#standby.core.bytes.set(this.message, this.#inbox);
    strictEqual(this.apply(), 0, "the standby refuses the message");
  }

  /** The primary writes the progress of all connections; the octets stay where they are. */
  write(): number {
    const { wasm } = this.#primary.core;
    wasm.begin(5000);
    wasm.markAll();
    wasm.settle();
    const length = wasm.bodyLength();
    wasm.sealed();
    return length;
  }

  /** The standby takes the message. */
  apply(): number {
    return this.#standby.core.wasm.apply(this.#inbox, this.message.length);
  }

  #open(clientPort: number, index: number): void {
    const primary = this.#primary;
    const syn = TcpFlag.syn;
    const options = buildOptions({ mss: 1460, sackPermitted: true, scale: 7 });
    const sent = fromClient({ sourcePort: clientPort, seq: IRS, flags: syn, options });
    primary.pass({ net: [buildPacket(sent)] });
    const answer = fromServer({
      destinationPort: clientPort,
      seq: SERVER_ISS,
      ack: IRS + 1,
      flags: syn | TcpFlag.ack,
      options,
    });
    primary.pass({ app: [buildPacket(answer)] });
    const opened = primary.takeBody();
    ok(opened !== null, "the primary announces no connection");
    this.#standby.pass({ bodies: [opened.body] });
    this.#standby.takeBody();
    primary.core.wasm.committed(opened.seq);
    primary.pass({ bodies: [encodeReport(index, IRS + 1, IRS + LOG_LIMIT)] });
    const ack = fromClient({ sourcePort: clientPort, seq: IRS + 1, ack: SERVER_ISS + 1 });
    primary.pass({ net: [buildPacket(ack)] });
    const told = primary.takeBody();
    if (told !== null) primary.core.wasm.committed(told.seq);
  }

  #progress(): Uint8Array {
    const { wasm, bytes } = this.#primary.core;
    const length = this.write();
    ok(length >= this.count * 40, `${length} octets of progress for ${this.count} connections`);
    return bytes.slice(wasm.body(), wasm.body() + length);
  }
}

/** Many idle connections of a standby. */
export interface Population {
  /** The instance. */
  core: Core;
  /** Keys for `find()`: client addresses as words in memory order, and ports. */
  keys: { address: Uint32Array; ports: Uint32Array };
  /** All memory of the instance, octets. */
  memoryOctets: number;
  /** Octets for records and tables, and those of blocks that the connections hold. */
  usedOctets: number;
}

/** What each connection of a population has said: a request, kept for a standby that comes later. */
const SAID = new Uint8Array(200);

/** Opens `count` connections that have said a little and fall silent. */
export function populate(count: number): Population {
  // Blocks are kept while half of them are free.
  const memoryMiB = 48 + Math.ceil(count * 1.2 / 1024);
  const make = (capacity: number) => {
    return loadCore({
      memoryMiB,
      capacity,
      address: SERVICE_V4,
      ports: [PORT],
      commit: "strict",
      divergence: "reset",
      logLimit: LOG_LIMIT,
      refuseUnprotectable: false,
    });
  };
  const blocksOfOne = make(1).wasm.blockOctetsFree();
  const core = make(count);
  const { wasm, bytes, view } = core;
  wasm.setRole(1);
  wasm.setKeep(64 << 10);
  const said = encodeData(0, IRS + 1, SAID);
  const open = joined(encodeOpen(0, openOf({ irs: IRS, iss: ISS })), said);
  const saidAt = open.length - said.length;
  const inbox = wasm.inbox();
  const keys = { address: new Uint32Array(count), ports: new Uint32Array(count) };
  const together = Math.floor(wasm.inboxSize() / 2 / open.length);
  for (let done = 0; done < count;) {
    const some = Math.min(together, count - done);
    for (let i = 0; i < some; i++, done++) {
      const at = inbox + i * open.length;
      const port = 1024 + done % 60_000;
      bytes.set(open, at);
      view.setUint32(at + 4, done, true);
      view.setUint32(at + saidAt + 4, done, true);
      view.setUint32(at + 8, 10 + (Math.floor(done / 60_000) + 1) * 65536, true);
      view.setUint32(at + 24, port | PORT << 16, true);
      keys.address[done] = view.getUint32(at + 8, true);
      keys.ports[done] = view.getUint32(at + 24, true);
    }
    wasm.begin(1000);
    strictEqual(wasm.apply(inbox, some * open.length), 0, "an OPEN or what was said is refused");
    do {
      wasm.begin(1000);
      wasm.run(0, 0);
      if (wasm.bodyLength() > 0) wasm.sealed();
    } while (wasm.more() !== 0);
  }
  strictEqual(wasm.recordsUsed(), count, "not all connections are there");
  return {
    core,
    keys,
    memoryOctets: memoryMiB * 2 ** 20,
    usedOctets: blocksOfOne - wasm.blockOctetsFree(),
  };
}
