/**
 * hostile.ts - packets that a test damages, and a pair of instances that must not notice
 *
 * Theory of operation
 * `packetsFor()` builds what can be said about one connection at one moment: every option, wrapping and
 * kind of packet the core looks into. `Pair` runs two instances through the same passes. The memory
 * behind each packet in its slot is filled with other octets in each of them, so
 *
 *   a write past the packet     changes the filling: seen at once
 *   a read past it              lets the two instances differ, in an output, a message or a counter
 *
 * The room before the message body, the inbox and the first KiB of memory (where null pointers would
 * point) are watched in the same way.
 */
import { Buffer } from "node:buffer";
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { readCounters } from "../../runtime/core.ts";
import type { Random } from "../net/random.ts";
import {
  Driver,
  type DriverOptions,
  fromClient,
  fromServer,
  type Input,
  type Output,
  PORT,
} from "./core_driver.ts";
import { pick, randomOctets } from "./seeded.ts";
import {
  buildIcmpError,
  buildOptions,
  buildPacket,
  fragment,
  type Packet,
  TcpFlag,
  VNET_LENGTH,
} from "./twin.ts";

/** Octets of filling after a packet, and at the end of its slot. */
const MARGIN = 96;
/** Octets of filling in the inbox, which starts with the body that is applied. */
const INBOX_FILLED = 1 << 20;

/** Where a connection stands, as its two ends would say it. */
export interface Moment {
  /** Address family. */
  family: 4 | 6;
  /** The client's port. */
  port: number;
  /** The client's SND.NXT and RCV.NXT. */
  client: [seq: number, ack: number];
  /** The local server's SND.NXT and RCV.NXT. */
  server: [seq: number, ack: number];
}

/** An option of a kind, with octets that mean nothing. */
function odd(kind: number, length: number): Uint8Array {
  return Uint8Array.from([kind, length, ...new Array(length - 2).fill(0xf9)]);
}

const OPTIONS: Uint8Array[] = [
  buildOptions({}),
  buildOptions({ shift: 2, stamps: [1000, 1000] }),
  buildOptions({ shift: 3, stamps: [1000, 1000] }),
  buildOptions({ sack: [1, 2] }),
  buildOptions({ shift: 1, sack: [1, 2, 3, 4, 5, 6, 7, 8] }),
  buildOptions({ stamps: [1000, 1000], sack: [1, 2, 3, 4, 5, 6] }),
  buildOptions({ mss: 1460, sackPermitted: true, stamps: [1000, 0], scale: 7 }),
  ...[[19, 18], [29, 16], [30, 12], [34, 10], [254, 6], [200, 3]].map(([kind, length]) =>
    buildOptions({ mss: 1460, extra: odd(kind, length) })
  ),
  Uint8Array.from([254, 4, 0xf9, 0x89, 0, 0, 0, 0]),
  Uint8Array.from([0, 5, 255, 255]),
];

/** Packets of both sides that are well formed. */
export function packetsFor(moment: Moment): { net: Uint8Array[]; app: Uint8Array[] } {
  const { family, port, client, server } = moment;
  const net: Uint8Array[] = [];
  const app: Uint8Array[] = [];
  const say = (fields: Partial<Packet>) => {
    const common = { payload: new Uint8Array(5).fill(0x55), ...fields };
    const [seq, ack] = client;
    net.push(buildPacket(fromClient({ seq, ack, sourcePort: port, ...common }, family)));
    const [serverSeq, serverAck] = server;
    app.push(buildPacket(fromServer({
      seq: serverSeq,
      ack: serverAck,
      destinationPort: port,
      ...common,
    }, family)));
  };
  for (const options of OPTIONS) {
    say({ options });
    say({ options, flags: TcpFlag.syn, payload: new Uint8Array(0) });
    say({ options, flags: TcpFlag.syn | TcpFlag.ack, payload: new Uint8Array(0) });
  }
  for (const flags of [0x01, 0x04, 0x11, 0x14, 0x29, 0xff, 0]) say({ flags });
  say({ payload: new Uint8Array(0) });
  say({ payload: new Uint8Array(120), checksum: "partial", gsoSize: 50 });
  say({ checksum: "valid", urgent: 3, flags: 0x38 });
  const wrapped: Partial<Packet> = family === 4 ? { ipOptions: new Uint8Array(40).fill(1) } : {
    extensions: [0, 43, 60, 44].map((protocol) => ({ protocol, octets: new Uint8Array(8) })),
  };
  say(wrapped);
  const whole: Partial<Packet> = { ...wrapped, extensions: [], payload: new Uint8Array(60) };
  const [seq, ack] = client;
  const long = buildPacket(fromClient({ seq, ack, sourcePort: port, ...whole }, family));
  const pieces = fragment(long, { id: 77, cuts: [24, 48] });
  net.push(...pieces);
  const quoted = buildPacket(fromServer({ seq, ack, destinationPort: port, ...whole }, family));
  const source = new Uint8Array(family === 4 ? 4 : 16).fill(9);
  net.push(buildIcmpError(quoted, { source, octets: 80 }));
  const datagram = long.slice();
  datagram[VNET_LENGTH + (family === 4 ? 9 : 6)] = 17;
  net.push(datagram);
  return { net, app };
}

/** A packet damaged in a few places; the kernel then often vouches for its checksum. */
export function damaged(random: Random, packet: Uint8Array): Uint8Array {
  let octets = packet.slice();
  for (let i = random.integer(4); i > 0; i--) {
    const most = random.next() < 0.8 ? Math.min(110, octets.length) : octets.length;
    const at = random.integer(most);
    const dice = random.next();
    if (dice < 0.4) octets[at] ^= 1 << random.integer(8);
    else if (dice < 0.7) octets[at] = pick(random, [0, 1, 2, 5, 8, 0x7f, 0x80, 0xfe, 0xff]);
    else if (dice < 0.8) octets = octets.slice(0, at);
    else if (dice < 0.9) octets.set(randomOctets(random, Math.min(4, octets.length - at)), at);
    else octets = Uint8Array.from([...octets, ...randomOctets(random, random.integer(40))]);
    if (octets.length === 0) return octets;
  }
  if (random.next() < 0.7) octets[0] |= 2;
  return octets;
}

/** The packet with its IP header saying that it ends after `length` octets. */
export function shortened(packet: Uint8Array, length: number): Uint8Array {
  const cut = packet.slice(0, length);
  const v4 = packet[VNET_LENGTH] >> 4 === 4;
  if (length >= VNET_LENGTH + (v4 ? 4 : 6)) {
    const view = new DataView(cut.buffer);
    if (v4) view.setUint16(VNET_LENGTH + 2, length - VNET_LENGTH);
    else view.setUint16(VNET_LENGTH + 4, Math.max(0, length - VNET_LENGTH - 40));
  }
  cut[0] |= 2;
  return cut;
}

/** Two instances that are told the same. */
export class Pair {
  /** The instances. */
  readonly drivers: readonly [Driver, Driver];
  /** Octets for logs and parked flights when nothing is held. */
  readonly free: number;
  readonly #memory: number;
  readonly #fillings = [0xa5, 0x00] as const;

  /** Makes both; they are silent. */
  constructor(options: DriverOptions) {
    this.drivers = [new Driver(options), new Driver(options)];
    const { core } = this.drivers[0];
    this.free = core.wasm.blockOctetsFree();
    this.#memory = core.bytes.length;
    for (const [which, { core: { wasm, bytes } }] of this.drivers.entries()) {
      const filling = this.#fillings[which];
      bytes.fill(filling, wasm.inbox(), wasm.inbox() + INBOX_FILLED);
      bytes.fill(filling, wasm.body() - wasm.bodyHeadroom(), wasm.body());
    }
  }

  /** The first of both. */
  get first(): Driver {
    return this.drivers[0];
  }

  /** The same to both. */
  each(act: (driver: Driver) => void): void {
    for (const driver of this.drivers) act(driver);
  }

  /** Packets that a side takes in one pass. */
  get batch(): number {
    return this.first.core.wasm.batch();
  }

  /** Milliseconds pass. */
  wait(ms: number): void {
    this.each((driver) => driver.nowMs += ms);
  }

  /** A usual pass of both. */
  pass(input: Input): Output[] {
    const [outputs, others] = this.drivers.map((driver, which) => {
      const passed = driver.pass(input);
      const { wasm, bytes } = driver.core;
      bytes.fill(this.#fillings[which], wasm.inbox(), wasm.inbox() + INBOX_FILLED);
      return passed;
    });
    checkSame(outputs, others);
    this.takeBody();
    return outputs;
  }

  /** A pass of both with filled slots, at most a batch of packets a side. */
  feed(net: readonly Uint8Array[], app: readonly Uint8Array[]): Output[] {
    const runs = this.drivers.map((driver, which) => {
      const { wasm } = driver.core;
      wasm.begin(driver.nowMs >>> 0);
      const slots = [
        ...this.#load(which, net, wasm.netSlots(), wasm.netLengths()),
        ...this.#load(which, app, wasm.appSlots(), wasm.appLengths()),
      ];
      const outputs = driver.outputs(wasm.run(net.length, app.length));
      this.#checkFillings(which, slots);
      for (const { address, packet } of outputs) {
        const slot = slots.find(({ at }) => address >= at && address < at + wasm.slotSize());
        ok(!slot || address + packet.length <= slot.at + slot.length, "longer than it came");
        ok(packet.length >= VNET_LENGTH + 20, `an output of ${packet.length} octets`);
      }
      return outputs;
    });
    checkSame(runs[0], runs[1]);
    deepStrictEqual(readCounters(this.drivers[1].core), readCounters(this.first.core));
    this.takeBody();
    return runs[0];
  }

  /** Both apply a body, with the inbox filled around it; what `apply()` says. */
  apply(body: Uint8Array): number {
    const results = this.drivers.map((driver, which) => {
      const { wasm, bytes } = driver.core;
      const result = driver.apply(body);
      const at = wasm.inbox();
      bytes.fill(this.#fillings[which], at, at + body.length);
      return result;
    });
    strictEqual(results[1], results[0]);
    return results[0];
  }

  /** Takes the message of both; it is committed at once. */
  takeBody(): Uint8Array | null {
    const [body, other] = this.drivers.map((driver) => driver.takeBody());
    deepStrictEqual(other, body);
    if (body !== null) this.each((driver) => driver.core.wasm.committed(body.seq));
    return body?.body ?? null;
  }

  /** Nothing outside of its places has changed, and nothing grew. */
  check(): void {
    for (const [which, { core: { wasm, bytes } }] of this.drivers.entries()) {
      strictEqual(wasm.memory.buffer.byteLength, this.#memory, "memory has grown");
      const filling = this.#fillings[which];
      const inbox = new BigUint64Array(bytes.buffer, wasm.inbox(), INBOX_FILLED / 8);
      const eight = BigInt.asUintN(64, BigInt(filling) * 0x0101010101010101n);
      ok(inbox.every((octets) => octets === eight), "the inbox was written to");
      const headroom = bytes.subarray(wasm.body() - wasm.bodyHeadroom(), wasm.body());
      ok(headroom.every((octet) => octet === filling), "the headroom was written to");
      ok(bytes.subarray(0, 1024).every((octet) => octet === 0), "a null pointer was written to");
    }
  }

  /** Forgets everything; every block comes back. */
  forget(): void {
    this.check();
    for (const { core: { wasm } } of this.drivers) {
      wasm.forgetAll(0);
      strictEqual(wasm.recordsUsed(), 0);
      strictEqual(wasm.blockOctetsFree(), this.free, "blocks are lost");
    }
  }

  /** Where a connection stands now; `last` when it is gone. */
  moment(client: Uint8Array, port: number, last: Moment): Moment {
    const { core } = this.first;
    const words = new DataView(Uint8Array.from([...client, ...new Array(12).fill(0)]).buffer);
    const [a, b, c, d] = [0, 4, 8, 12].map((at) => words.getUint32(at, true));
    const found = core.wasm.find(a, b, c, d, port | PORT << 16);
    if (found === 0) return last;
    const field = (name: Parameters<Driver["field"]>[1]) => this.first.field(found - 1, name);
    const [seq, ack] = [field("rcvNxt"), field("sndNxt")];
    return { ...last, client: [seq, ack], server: [(ack - field("issDelta")) >>> 0, seq] };
  }

  #load(which: number, packets: readonly Uint8Array[], slots: number, lengths: number): Slot[] {
    const { bytes, view, wasm } = this.drivers[which].core;
    return packets.map((packet, index) => {
      const at = slots + index * wasm.slotSize();
      bytes.set(packet, at);
      view.setUint32(lengths + index * 4, packet.length, true);
      const slot = { at, length: packet.length };
      for (const part of marginsOf(bytes, slot, wasm.slotSize())) part.fill(this.#fillings[which]);
      return slot;
    });
  }

  #checkFillings(which: number, slots: readonly Slot[]): void {
    const { bytes, wasm } = this.drivers[which].core;
    for (const slot of slots) {
      for (const part of marginsOf(bytes, slot, wasm.slotSize())) {
        const wrong = part.findIndex((octet) => octet !== this.#fillings[which]);
        strictEqual(wrong, -1, `octet ${wrong} beyond a packet of ${slot.length} was written to`);
      }
    }
  }
}

/** As `deepStrictEqual()`, but quick where they are the same. */
function checkSame(outputs: readonly Output[], others: readonly Output[]): void {
  const isSame = outputs.length === others.length &&
    outputs.every(({ address, packet, side }, index) => {
      const other = others[index];
      return address === other.address && side === other.side &&
        Buffer.compare(packet, other.packet) === 0;
    });
  if (!isSame) deepStrictEqual(others, outputs);
}

/** A packet in its slot. */
interface Slot {
  at: number;
  length: number;
}

/** What lies behind a packet, and at the end of its slot. */
function marginsOf(bytes: Uint8Array, { at, length }: Slot, size: number): Uint8Array[] {
  const end = at + size;
  const behind = Math.min(end, at + length + MARGIN);
  return [bytes.subarray(at + length, behind), bytes.subarray(Math.max(behind, end - MARGIN), end)];
}
