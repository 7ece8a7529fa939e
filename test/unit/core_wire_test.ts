/**
 * core_wire_test.ts - checksums and translated segments, compared with the plain twin
 *
 * Sums of every length and alignment; then a connection that the instance has taken over, so that
 * the old server's numbers and its own server's differ by random amounts: each segment that passes
 * is built anew by the twin with the numbers it should have, and every octet must agree.
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { coreModule } from "../../runtime/core.ts";
import type { Random } from "../net/random.ts";
import {
  CLIENT_V4,
  CLIENT_V6,
  Driver,
  encodeOpen,
  encodeProgress,
  fromClient,
  fromServer,
  isAfter,
  joined,
  on,
  type Open,
  openOf,
  PORT,
} from "./core_driver.ts";
import { pick, randomOctets, rounds, seededTest } from "./seeded.ts";
import {
  buildIcmpError,
  buildOptions,
  buildPacket,
  type ChecksumMode,
  type Extension,
  fragment,
  icmpChecksum,
  type OptionMix,
  type Packet,
  parsePacket,
  sumOf,
  TcpFlag,
  translate,
  VNET_LENGTH,
} from "./twin.ts";

/** A service of one family that has been taken over, with connections of every kind. */
interface Taken {
  driver: Driver;
  family: 4 | 6;
  legs: TakenLeg[];
}

/** One connection of it. */
interface TakenLeg {
  index: number;
  open: Open;
  /** ISS and TSval of the local server's own SYN-ACK, and its window scale. */
  serverIss: number;
  serverTs: number;
  serverScale: number;
  /** Offset of the server's next octet, and of the client's. */
  sent: number;
  received: number;
  /** Right edge and TSval that the client was shown last. */
  edge: number;
  shownTs: number;
}

function u32(random: Random): number {
  // Now and then next to the wrap, where mistakes are made.
  return random.next() < 0.3 ? (random.integer(40) - 20) >>> 0 : random.seed();
}

/** Lets an instance follow `count` connections as a standby and take them over. */
function takeOver(random: Random, family: 4 | 6, count: number): Taken {
  const driver = new Driver({ family, capacity: count });
  driver.core.wasm.setRole(1);
  const legs: TakenLeg[] = [];
  for (let index = 0; index < count; index++) {
    const scaled = random.next() < 0.8;
    const open = openOf({
      client: family === 4 ? CLIENT_V4 : CLIENT_V6,
      clientPort: 10000 + index,
      irs: u32(random),
      iss: u32(random),
      scale: scaled ? [random.integer(15), random.integer(15)] : null,
      stamps: random.next() < 0.6 ? [u32(random), u32(random)] : null,
      sack: random.next() < 0.8,
    });
    const leg: TakenLeg = {
      index,
      open,
      serverIss: u32(random),
      serverTs: u32(random),
      serverScale: scaled ? random.integer(15) : 0,
      sent: 0,
      received: 0,
      edge: 0,
      shownTs: 0,
    };
    const [syn] = on("app", driver.pass({ bodies: [encodeOpen(index, open)] }));
    checkSyn(syn, open, family);
    driver.pass({
      app: [buildPacket(fromServer({
        destinationPort: open.clientPort,
        seq: leg.serverIss,
        ack: open.irs + 1,
        flags: TcpFlag.syn | TcpFlag.ack,
        window: 65160,
        options: buildOptions({
          mss: 1460,
          sackPermitted: open.sack,
          stamps: open.stamps ? [leg.serverTs, open.stamps[0]] : undefined,
          scale: scaled ? leg.serverScale : undefined,
        }),
      }, family))],
    });
    const [ack] = on(
      "app",
      driver.pass({
        bodies: [encodeProgress(index, {
          cliAck: open.iss + 1,
          cliTs: open.stamps?.[0],
          tsShown: open.stamps?.[1],
          ackShown: open.irs + 1,
          edgeShown: open.irs + 1 + open.window[1],
          sndShown: open.iss + 1,
        })],
      }),
    );
    const answer = parsePacket(ack);
    strictEqual(answer.flags, TcpFlag.ack);
    strictEqual(answer.seq, (open.irs + 1) >>> 0);
    strictEqual(answer.ack, (leg.serverIss + 1) >>> 0);
    legs.push(leg);
  }
  for (const packet of on("net", driver.takeOver())) noteShown(legs, parsePacket(packet));
  for (const leg of legs) {
    strictEqual(driver.field(leg.index, "issDelta"), (leg.open.iss - leg.serverIss) >>> 0);
  }
  return { driver, family, legs };
}

/** The feeder's SYN is the client's own. */
function checkSyn(packet: Uint8Array, open: Open, family: 4 | 6): void {
  const syn = parsePacket(packet);
  deepStrictEqual(syn.source, open.client);
  strictEqual(syn.sourcePort, open.clientPort);
  strictEqual(syn.destinationPort, PORT);
  strictEqual(syn.seq, open.irs >>> 0);
  strictEqual(syn.flags, TcpFlag.syn);
  strictEqual(syn.window, open.window[0]);
  strictEqual(syn.source.length, family === 4 ? 4 : 16);
}

/** The right edge and the timestamps a client sees never move back. */
function noteShown(legs: TakenLeg[], shown: Packet): void {
  const leg = legs.find((candidate) => candidate.open.clientPort === shown.destinationPort);
  if (leg === undefined) return;
  const edge = (shown.ack + (shown.window << (leg.open.scale?.[1] ?? 0))) >>> 0;
  if (leg.edge !== 0 || leg.shownTs !== 0) {
    ok(!isAfter(leg.edge, edge), `right edge moved back by ${leg.edge - edge}`);
  }
  leg.edge = edge;
  if (leg.open.stamps === null) return;
  const value = stampsOf(shown)[0];
  ok(leg.shownTs === 0 || !isAfter(leg.shownTs, value), `TSval moved back to ${value}`);
  leg.shownTs = value;
}

function stampsOf(packet: Packet): [number, number] {
  const view = new DataView(packet.options.buffer, packet.options.byteOffset);
  for (let at = 0; at < packet.options.length;) {
    if (packet.options[at] === 8) return [view.getUint32(at + 2), view.getUint32(at + 6)];
    at += packet.options[at] === 1 ? 1 : packet.options[at + 1];
  }
  throw new Error("Cannot find timestamps in a segment that should carry them");
}

/** Everything around the TCP header that must pass as it is. */
function randomWrapping(random: Random, family: 4 | 6): Partial<Packet> {
  const length = pick(random, [0, 0, 1, 2, 3, 7, 100, 1448]);
  const checksum = pick<ChecksumMode>(random, ["full", "partial", "valid"]);
  const wrapping: Partial<Packet> = {
    payload: randomOctets(random, length),
    checksum,
    urgent: random.integer(65536),
    hops: 1 + random.integer(255),
    id: random.integer(65536),
  };
  if (checksum === "partial" && random.next() < 0.3) {
    wrapping.payload = randomOctets(random, 1449 + random.integer(20000));
    wrapping.gsoSize = 1448;
  }
  if (random.next() < 0.3) {
    if (family === 4) {
      wrapping.ipOptions = new Uint8Array(4 * (1 + random.integer(10))).fill(1);
    } else wrapping.extensions = randomExtensions(random);
  }
  return wrapping;
}

function randomExtensions(random: Random): Extension[] {
  return Array.from({ length: 1 + random.integer(3) }, () => {
    const protocol = pick(random, [0, 43, 60, 44]);
    const octets = randomOctets(random, protocol === 44 ? 8 : 8 * (1 + random.integer(3)));
    octets[1] = protocol === 44 ? 0 : octets.length / 8 - 1;
    if (protocol === 44) octets.fill(0, 2, 4);
    return { protocol, octets };
  });
}

seededTest(
  "checksum() equals the twin's for every length to 2100 and every alignment",
  (random) => {
    const { core } = new Driver();
    const at = core.wasm.inbox();
    core.bytes.set(randomOctets(random, 4096), at);
    for (let length = 0; length <= 2100; length++) {
      for (const offset of length < 300 ? [0, 1, 2, 3, 4, 5, 6, 7, 9, 15] : [length & 15]) {
        const octets = core.bytes.subarray(at + offset, at + offset + length);
        const sum = core.wasm.checksum(at + offset, length, 0);
        strictEqual(
          ((sum & 255) << 8) | (sum >> 8),
          sumOf(octets),
          `${length} octets at ${offset}`,
        );
      }
    }
  },
);

Deno.test("checksum() loses no carry over 65535 octets of 0xff, nor over any initial sum", () => {
  const { core } = new Driver();
  const at = core.wasm.inbox();
  core.bytes.fill(0xff, at, at + 65536);
  strictEqual(core.wasm.checksum(at, 65536, 0), 0xffff);
  strictEqual(core.wasm.checksum(at, 65535, 0), 0x00ff);
  strictEqual(core.wasm.checksum(at, 65536, 0xffffffff), 0xffff);
  core.bytes.fill(0, at, at + 65536);
  for (let initial = 1; initial < 0x100000000; initial = initial * 3 + 1) {
    const folded = initial % 0xffff || 0xffff;
    strictEqual(core.wasm.checksum(at, 100, initial), folded);
  }
});

Deno.test("the core imports nothing", () => {
  deepStrictEqual(WebAssembly.Module.imports(coreModule()), []);
});

Deno.test("init() refuses what does not fit and a second call", () => {
  const { core } = new Driver();
  strictEqual(core.wasm.init(64, 100, 4), 0);
  for (
    const [memoryMiB, capacity, family] of [[47, 1, 4], [4096, 1, 4], [48, 0, 4], [48, 1, 5], [
      48,
      100000,
      4,
    ], [64, (1 << 22) + 1, 4]]
  ) {
    const instance = new WebAssembly.Instance(coreModule(), {});
    const init = instance.exports.init as (m: number, c: number, f: number) => number;
    strictEqual(init(memoryMiB, capacity, family), 0, `${memoryMiB} MiB, ${capacity}, ${family}`);
  }
});

for (const family of [4, 6] as const) {
  seededTest(
    `IPv${family}: what the server says reaches the client as the twin builds it`,
    (random) => {
      const taken = takeOver(random, family, 24);
      const { driver } = taken;
      const size = driver.core.bytes.length;
      for (let i = 0; i < rounds(3000); i++) serverSays(random, taken, pick(random, taken.legs));
      strictEqual(driver.core.wasm.memory.buffer.byteLength, size);
    },
  );

  seededTest(
    `IPv${family}: what the client says reaches the server as the twin builds it`,
    (random) => {
      const taken = takeOver(random, family, 24);
      for (let i = 0; i < rounds(3000); i++) clientSays(random, taken, pick(random, taken.legs));
    },
  );

  seededTest(`IPv${family}: an ICMP error quotes what the server sent`, (random) => {
    const taken = takeOver(random, family, 24);
    for (let i = 0; i < rounds(300); i++) icmpAbout(random, taken, pick(random, taken.legs));
  });

  seededTest(`IPv${family}: fragments in any order pass as one segment`, (random) => {
    const taken = takeOver(random, family, 8);
    for (let i = 0; i < rounds(200); i++) clientFragments(random, taken, pick(random, taken.legs));
  });
}

/** One segment from the server to its client. */
function serverSays(random: Random, { driver, family, legs }: Taken, leg: TakenLeg): void {
  const { open, index } = leg;
  if (random.next() < 0.2) driver.nowMs += random.integer(50);
  // Its clock runs with ours, and a pass may find it a little behind.
  leg.serverTs = (leg.serverTs + random.integer(20)) >>> 0;
  const mix: OptionMix = { shift: random.integer(4) };
  if (open.stamps) mix.stamps = [leg.serverTs, u32(random)];
  if (open.sack && random.next() < 0.3) {
    mix.sack = Array.from({ length: open.stamps ? 4 : 6 }, () => u32(random));
  }
  const wrapping = randomWrapping(random, family);
  const before = driver.field(index, "ackShown");
  const edgeBefore = driver.field(index, "edgeShown");
  const tsBefore = driver.field(index, "tsShown");
  const window = random.integer(65536);
  const packet = buildPacket(fromServer({
    destinationPort: open.clientPort,
    seq: (leg.serverIss + 1 + leg.sent) >>> 0,
    ack: (open.irs + 1 + leg.received) >>> 0,
    flags: TcpFlag.ack | (random.next() < 0.3 ? TcpFlag.psh : 0),
    window,
    options: buildOptions(mix),
    ...wrapping,
  }, family));
  const outputs = driver.pass({ app: [packet] });
  strictEqual(outputs.length, 1);
  leg.sent += wrapping.payload?.length ?? 0;
  const said = parsePacket(packet);
  const ack = isAfter(before, said.ack) ? before : said.ack;
  const own = (said.ack + window * 2 ** leg.serverScale) >>> 0;
  const known = driver.field(index, "legEdge");
  ok(!isAfter(own, known));
  const edge = isAfter(edgeBefore, known) ? edgeBefore : known;
  const scale = 2 ** (open.scale?.[1] ?? 0);
  const same = leg.serverScale === (open.scale?.[1] ?? 0) && edge === own && ack === said.ack;
  const room = (edge - ack) >>> 0;
  const value = open.stamps ? (stampsOf(said)[0] + driver.field(index, "tsDelta")) >>> 0 : 0;
  const shown = isAfter(tsBefore, value) ? tsBefore : value;
  const expected = translate(packet, {
    seq: open.iss - leg.serverIss,
    tsVal: open.stamps ? shown - stampsOf(said)[0] : 0,
    window: same ? window : Math.min(65535, Math.ceil(room / scale)),
  });
  deepStrictEqual(outputs[0].packet, expected);
  strictEqual(outputs[0].side, "net");
  noteShown(legs, parsePacket(expected));
}

/** One segment from the client to its server. */
function clientSays(random: Random, { driver, family }: Taken, leg: TakenLeg): void {
  const { open, index } = leg;
  const mix: OptionMix = { shift: random.integer(4) };
  const iss = (leg.serverIss + 1) >>> 0;
  if (open.stamps) mix.stamps = [(open.stamps[0] + random.integer(3)) >>> 0, u32(random)];
  if (open.sack && random.next() < 0.6) {
    // A D-SACK block lies below SEG.ACK (RFC 2883); to the translator it is like any other.
    const most = open.stamps ? 3 : 4;
    mix.shift = random.integer(most === 4 ? 4 : 3);
    mix.sack = Array.from({ length: 2 * (1 + random.integer(most)) }, () => u32(random));
    const length = 2 + 4 * mix.sack.length + (open.stamps ? 10 : 0) + (mix.shift ?? 0);
    if (length > 40) mix.sack.length -= 2;
  }
  const wrapping = randomWrapping(random, family);
  // Only what the window shown takes: a fed or protected connection would judge octets.
  const packet = buildPacket(fromClient({
    sourcePort: open.clientPort,
    seq: (open.irs + 1 + leg.received) >>> 0,
    ack: (open.iss + 1 + leg.sent) >>> 0,
    flags: TcpFlag.ack,
    window: random.integer(65536),
    options: buildOptions(mix),
    ...wrapping,
  }, family));
  const outputs = driver.pass({ net: [packet] });
  leg.received += wrapping.payload?.length ?? 0;
  const said = parsePacket(packet);
  const expected = translate(packet, {
    ack: leg.serverIss - open.iss,
    tsEcr: open.stamps ? -driver.field(index, "tsDelta") : 0,
  });
  deepStrictEqual(on("app", outputs), [expected]);
  strictEqual(parsePacket(expected).ack, (iss + leg.sent) >>> 0);
  strictEqual(said.payload.length, wrapping.payload?.length);
  // The server takes it, so that the window goes on.
  const answer = buildPacket(fromServer({
    destinationPort: open.clientPort,
    seq: (leg.serverIss + 1 + leg.sent) >>> 0,
    ack: (open.irs + 1 + leg.received) >>> 0,
    window: 65535,
    options: buildOptions(open.stamps ? { stamps: [leg.serverTs, 0] } : {}),
  }, family));
  strictEqual(on("net", driver.pass({ app: [answer] })).length, 1);
}

/** A router far away complains about a segment in client space. */
function icmpAbout(random: Random, { driver, family }: Taken, leg: TakenLeg): void {
  const sent = buildPacket(fromServer({
    destinationPort: leg.open.clientPort,
    seq: u32(random),
    payload: randomOctets(random, random.integer(200)),
    ipOptions: family === 4 ? new Uint8Array(4 * random.integer(3)).fill(1) : new Uint8Array(0),
  }, family));
  const headers = (family === 4 ? (sent[VNET_LENGTH] & 15) * 4 : 40) + 8;
  const octets = Math.min(sent.length - VNET_LENGTH, headers + random.integer(100));
  const source = randomOctets(random, family === 4 ? 4 : 16);
  const error = buildIcmpError(sent, { source, octets });
  const [output] = driver.pass({ net: [error] });
  strictEqual(output.side, "app");
  const expected = error.slice();
  const view = new DataView(expected.buffer);
  const icmp = VNET_LENGTH + (family === 4 ? 20 : 40);
  // Too little of the segment to know whose it is passes as it came (IPv4 counts its header's length).
  const least = family === 4 ? Math.max(28, headers) : 48;
  if (octets >= least) {
    const at = icmp + 8 + headers - 8 + 4;
    view.setUint32(at, view.getUint32(at) - (leg.open.iss - leg.serverIss));
    view.setUint16(icmp + 2, icmpChecksum(expected));
  }
  deepStrictEqual(output.packet, expected);
}

/** A segment in pieces. */
function clientFragments(random: Random, { driver, family }: Taken, leg: TakenLeg): void {
  const { open, index } = leg;
  const packet = buildPacket(fromClient({
    sourcePort: open.clientPort,
    seq: (open.irs + 1) >>> 0,
    ack: (open.iss + 1) >>> 0,
    options: buildOptions(open.stamps ? { stamps: [open.stamps[0], u32(random)] } : {}),
    payload: randomOctets(random, 40 + random.integer(1400)),
    ipOptions: family === 4 ? new Uint8Array(4 * random.integer(4)).fill(1) : new Uint8Array(0),
  }, family));
  const header = family === 4 ? (packet[VNET_LENGTH] & 15) * 4 : 40;
  const upper = packet.length - VNET_LENGTH - header;
  const cuts = [
    ...new Set(Array.from({ length: 1 + random.integer(4) }, () => 8 * (1 + random.integer(4)))),
  ].filter((cut) => cut < upper).sort((a, b) => a - b);
  const pieces = fragment(packet, { id: random.integer(65536), cuts });
  const shuffled = pieces.map((piece) => ({ piece, key: random.next() }))
    .sort((a, b) => a.key - b.key).map(({ piece }) => piece);
  const outputs = shuffled.map((piece) => driver.pass({ net: [piece] }));
  deepStrictEqual(outputs.slice(0, -1).map((o) => o.length), cuts.map(() => 0));
  const whole = parsePacket(packet);
  whole.id = 0;
  const [joinedUp] = on("app", outputs[outputs.length - 1]);
  const got = parsePacket(joinedUp);
  const expected = parsePacket(translate(buildPacket(whole), {
    ack: leg.serverIss - open.iss,
    tsEcr: open.stamps ? -driver.field(index, "tsDelta") : 0,
  }));
  got.id = 0;
  deepStrictEqual(got, expected);
}

seededTest("fragments that overlap, or leave a gap before the end, make no segment", (random) => {
  const taken = takeOver(random, 4, 1);
  const { driver } = taken;
  const [leg] = taken.legs;
  const packet = buildPacket(fromClient({
    sourcePort: leg.open.clientPort,
    seq: (leg.open.irs + 1) >>> 0,
    ack: (leg.open.iss + 1) >>> 0,
    payload: new Uint8Array(76),
  }));
  const [first, , third] = fragment(packet, { id: 7, cuts: [32, 64] });
  const [, again] = fragment(packet, { id: 7, cuts: [24, 64] });
  strictEqual(driver.pass({ net: [first, again, third] }).length, 0);
  // As many octets as the datagram has, but some of them beyond its end (RFC 8200 section 4.5).
  const longer = buildPacket({ ...parsePacket(packet), payload: new Uint8Array(76 + 32) });
  const [, , beyond] = fragment(longer, { id: 8, cuts: [64, 96] });
  beyond[VNET_LENGTH + 6] |= 0x20;
  const [head, , tail] = fragment(packet, { id: 8, cuts: [32, 64] });
  const malformed = driver.counter("malformed") + driver.counter("badChecksum");
  strictEqual(driver.pass({ net: [head, beyond, tail] }).length, 0);
  strictEqual(driver.counter("malformed") + driver.counter("badChecksum"), malformed);
});

Deno.test("a segment with a wrong checksum goes no further", () => {
  const driver = new Driver();
  driver.core.wasm.promote(0);
  const packet = buildPacket(fromClient({ flags: TcpFlag.syn }));
  packet[packet.length - 1] ^= 1;
  strictEqual(driver.pass({ net: [packet] }).length, 0);
  strictEqual(driver.counter("badChecksum"), 1);
  // What the kernel vouches for has no checksum that could be looked at.
  const valid = buildPacket(fromClient({ flags: TcpFlag.syn, checksum: "valid" }));
  valid[valid.length - 1] ^= 1;
  strictEqual(driver.pass({ net: [valid] }).length, 1);
});

Deno.test("a first replica passes segments octet for octet", () => {
  const driver = new Driver();
  driver.core.wasm.promote(0);
  const syn = buildPacket(fromClient({
    flags: TcpFlag.syn,
    seq: 77,
    options: buildOptions({ mss: 1460, sackPermitted: true, stamps: [5, 0], scale: 7 }),
  }));
  deepStrictEqual(on("app", driver.pass({ net: [syn] })), [syn]);
  const synAck = buildPacket(fromServer({
    flags: TcpFlag.syn | TcpFlag.ack,
    seq: 99,
    ack: 78,
    options: buildOptions({ mss: 1460, sackPermitted: true, stamps: [6, 5], scale: 7 }),
  }));
  deepStrictEqual(on("net", driver.pass({ app: [synAck] })), [synAck]);
  const other = joined(synAck);
  other[VNET_LENGTH + 9] = 17;
  deepStrictEqual(on("net", driver.pass({ app: [other] })), [other]);
});
