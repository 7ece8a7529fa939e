/**
 * core_stream_test.ts - input log, reassembly and parked flight, compared with plain arrays
 *
 * Everything goes in and out of a standby's core as packets and records, with sequence numbers that
 * begin just before 2^32 more often than not; octets.ts is the oracle. Schedules are random; the seed
 * is printed.
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import {
  decodeRecords,
  Driver,
  encodeData,
  encodeOpen,
  encodeProgress,
  fromClient,
  fromServer,
  Leg,
  on,
  openOf,
  Reason,
  RecordType,
} from "./core_driver.ts";
import { firstNumber, Octets } from "./octets.ts";
import type { Endpoint } from "./endpoint.ts";
import { Replicas } from "./replicas.ts";
import { randomOctets, rounds, seededTest } from "./seeded.ts";
import { buildOptions, buildPacket, type Packet, parsePacket, TcpFlag } from "./twin.ts";

/** Largest parked flight, PARKED_MAX in core/limits.ts. */
const PARKED_MAX = 4 << 20;
/** Ranges a connection may hold, RANGES_PER_CONNECTION in core/limits.ts. */
const RANGES_MAX = 1024;
/** What a log takes beyond what it promised. */
const LOG_SLACK = 131072;

/** A standby with one connection whose server has just answered. */
class Follower {
  readonly driver: Driver;
  readonly irs: number;
  readonly iss: number;
  readonly serverIss: number;
  readonly scale: number;
  readonly logLimit: number;

  constructor(random: Random, logLimit: number) {
    this.irs = firstNumber(random);
    this.iss = firstNumber(random);
    this.serverIss = firstNumber(random);
    this.scale = random.integer(15);
    this.logLimit = logLimit;
    this.driver = new Driver({ logLimit });
    this.driver.core.wasm.setRole(1);
    const open = openOf({ irs: this.irs, iss: this.iss, scale: [7, 3], mss: [1000, 1460] });
    this.driver.pass({ bodies: [encodeOpen(0, open)] });
    const flags = TcpFlag.syn | TcpFlag.ack;
    const options = buildOptions({ mss: 1460, sackPermitted: true, scale: this.scale });
    this.driver.pass({
      app: [this.said({ seq: this.serverIss, ack: this.irs + 1, window: 0, flags, options })],
      bodies: [this.progress(0)],
    });
    this.driver.takeBody();
  }

  /** A segment of the local server's. */
  said(fields: Partial<Packet>): Uint8Array {
    return buildPacket(fromServer(fields));
  }

  /** The client has acknowledged so many octets of output. */
  progress(acked: number, cliWnd = 65535): Uint8Array {
    const cliAck = (this.iss + 1 + acked) >>> 0;
    const shown = { ackShown: this.irs + 1, edgeShown: this.irs + 60000, sndShown: cliAck };
    return encodeProgress(0, { cliAck, cliWnd, ...shown });
  }

  data(at: number, octets: Uint8Array, fin = false): Uint8Array {
    return encodeData(0, (this.irs + 1 + at) >>> 0, octets, fin, 1, this.iss + 1);
  }
}

/** A local kernel that takes what the feeder sends, loses some, and opens its window as it likes. */
class Reader {
  got = 0;
  edge = 0;
  readonly #random: Random;
  readonly #follower: Follower;

  constructor(random: Random, follower: Follower) {
    this.#random = random;
    this.#follower = follower;
  }

  /** Checks each segment against the log, and answers. */
  take(packets: readonly Uint8Array[], log: Octets, total: number): Uint8Array[] {
    const { irs, serverIss, scale, said } = this.#follower;
    for (const { seq, payload, flags } of packets.map(parsePacket)) {
      const at = (seq - irs - 1) | 0;
      const end = at + payload.length;
      ok(end <= Math.max(this.edge, at), `octets to ${end} beyond the window's edge ${this.edge}`);
      ok(end <= log.next, `octets to ${end}, the log has ${log.next}`);
      const wrong = payload.findIndex((octet, i) => octet !== log.octets[at + i]);
      strictEqual(wrong, -1, `octet ${at + wrong} is not its first copy`);
      const fin = (flags & TcpFlag.fin) !== 0;
      if (fin) strictEqual(end, total);
      if (at > this.got || this.#random.next() < 0.1) continue;
      this.got = Math.max(this.got, end + (fin ? 1 : 0));
    }
    const window = this.#random.integer(Math.min(65536, 40000 >> scale) + 2);
    this.edge = Math.max(this.edge, this.got + window * 2 ** scale);
    const ack = (irs + 1 + this.got) >>> 0;
    return [said({ seq: serverIss + 1, ack, window })];
  }
}

seededTest("the log feeds the first copy of every octet, in order and in the window", (random) => {
  for (let round = 0; round < rounds(25); round++) {
    const follower = new Follower(random, 1 << 16);
    const { driver, irs } = follower;
    const free = driver.core.wasm.blockOctetsFree();
    const total = 1 + random.integer(60000);
    const log = new Octets(total);
    const reader = new Reader(random, follower);
    let edge = -1;
    let finSeen = false;
    let answers: Uint8Array[] = [];
    for (let step = 0; reader.got <= total; step++) {
      ok(step < 5000, `stuck at ${reader.got} of ${total}`);
      const bodies = Array.from({ length: random.integer(4) }, () => {
        const start = random.next() < 0.5 ? log.next - random.integer(300) : random.integer(total);
        const at = Math.max(0, Math.min(start, total));
        // A FIN may come long before the octets it follows, alone or with the last of them.
        const octets = randomOctets(random, Math.min(total - at, random.integer(4000)));
        const fin = at + octets.length === total && random.next() < 0.5;
        log.put(at, octets);
        finSeen ||= fin;
        return follower.data(at, octets, fin);
      });
      driver.nowMs += random.integer(30);
      const outputs = driver.pass({ bodies, app: answers });
      const arrived: number = log.next + (finSeen && log.next === total ? 1 : 0);
      strictEqual(driver.field(0, "rcvNxt"), (irs + 1 + arrived) >>> 0);
      for (const { type, words } of decodeRecords(driver.takeBody()?.body ?? new Uint8Array(0))) {
        strictEqual(type, RecordType.report);
        strictEqual(words[0], (irs + 1 + arrived) >>> 0);
        const promised = (words[1] - irs - 1) | 0;
        ok(promised >= edge, `the promised edge moved back to ${promised}`);
        strictEqual(promised, ((driver.field(0, "legAck") - irs - 1) | 0) + (1 << 16));
        edge = promised;
      }
      answers = reader.take(on("app", outputs), log, total);
    }
    driver.pass({ app: answers });
    strictEqual(driver.core.wasm.blockOctetsFree(), free, "blocks stay behind");
    strictEqual(driver.field(0, "rangeCount"), 0);
  }
});

seededTest("at each of its limits the log gives up one connection and all it held", (random) => {
  const cases: [why: number, logLimit: number, pieces: (f: Follower) => Uint8Array[]][] = [
    [Reason.logMemory, 1 << 16, (f) => [f.data((1 << 16) + LOG_SLACK, new Uint8Array(1))]],
    [Reason.logMemory, 1 << 30, (f) => [f.data(47 << 20, new Uint8Array(1))]],
    [
      Reason.tooManyRanges,
      1 << 16,
      (f) => Array.from({ length: RANGES_MAX + 1 }, (_, i) => f.data(2 + 2 * i, new Uint8Array(1))),
    ],
  ];
  for (const [why, logLimit, pieces] of cases) {
    const follower = new Follower(random, logLimit);
    const { driver } = follower;
    driver.takeBody();
    const free = driver.core.wasm.blockOctetsFree();
    const bodies = pieces(follower);
    driver.pass({ bodies: bodies.slice(0, -1) });
    strictEqual(driver.field(0, "leg"), Leg.open);
    driver.takeBody();
    driver.pass({ bodies: bodies.slice(-1) });
    strictEqual(driver.field(0, "leg"), Leg.dead);
    strictEqual(driver.core.wasm.blockOctetsFree(), free);
    const records = decodeRecords(driver.takeBody()?.body ?? new Uint8Array(0));
    ok(records.some(({ type, flags }) => type === RecordType.fail && flags === why), `${why}`);
  }
  // One octet less than the first, and as many ranges as there may be, are kept.
  const follower = new Follower(random, 1 << 16);
  follower.driver.pass({
    bodies: [follower.data((1 << 16) + LOG_SLACK - 1, new Uint8Array(1)), ...cases[2][2](follower)]
      .slice(0, RANGES_MAX),
  });
  strictEqual(follower.driver.field(0, "leg"), Leg.open);
  strictEqual(follower.driver.field(0, "rangeCount"), RANGES_MAX);
});

seededTest("the parked flight is what the client lacks of all that was said", (random) => {
  for (let round = 0; round < rounds(40); round++) {
    const follower = new Follower(random, 1 << 16);
    const { driver, iss, serverIss, irs } = follower;
    const total = 1 + random.integer(100000);
    const stream = randomOctets(random, total);
    const ends = random.next() < 0.5;
    let said = 0;
    let acked = 0;
    const say = (at: number, end: number) => {
      const fin = end === total && ends ? TcpFlag.fin : 0;
      const payload = stream.slice(at, end);
      const flags = TcpFlag.ack | fin;
      return follower.said({ seq: serverIss + 1 + at, ack: irs + 1, payload, flags });
    };
    while (said < total && random.next() < 0.97) {
      // New octets, or old ones in other cuts.
      const at = Math.max(0, said - (random.next() < 0.5 ? 0 : random.integer(5000)));
      const end = Math.min(total, at + random.integer(9000));
      const bodies = [];
      if (random.next() < 0.4) {
        // As the primary's server is ahead or behind, the client may have more than ours has said.
        acked = Math.min(total, acked + random.integer(6000));
        bodies.push(follower.progress(acked));
      }
      driver.pass({ app: [say(at, end)], bodies });
      said = Math.max(said, end);
      driver.takeBody();
    }
    const flight: number[] = [];
    let fin = false;
    for (const { seq, payload, flags, gsoSize } of on("net", driver.takeOver()).map(parsePacket)) {
      if (payload.length > 0) {
        strictEqual((seq - iss - 1) | 0, acked + flight.length);
        ok(payload.length <= 1000 || gsoSize === 1000, `${payload.length} octets of ${gsoSize}`);
      }
      for (const octet of payload) flight.push(octet);
      if (flags & TcpFlag.fin) fin = true;
    }
    const expected = stream.subarray(Math.min(acked, said), said);
    strictEqual(flight.length, expected.length, `${acked} of ${said} acknowledged`);
    ok(flight.every((octet, i) => octet === expected[i]));
    strictEqual(fin, ends && said === total);
  }
});

seededTest(
  "an idle client gets an ACK at a takeover, and a question only where it may tell",
  (random) => {
    // Octets that it has and our server does not; its last window, of 128 octets each.
    const cases = [
      { acked: 0, window: 65535, isAsked: false },
      { acked: 0, window: 0, isAsked: true },
      { acked: 0, window: 7, isAsked: true },
      { acked: 0, window: 8, isAsked: false },
      { acked: 5, window: 65535, isAsked: false },
    ];
    for (const { acked, window, isAsked } of cases) {
      const follower = new Follower(random, 1 << 16);
      const { driver, iss, irs } = follower;
      driver.pass({ bodies: [follower.progress(acked, window)] });
      const numbers = on("net", driver.takeOver()).map(parsePacket).map((
        { seq, ack },
      ) => [seq, ack]);
      const next = (iss + 1 + acked) >>> 0;
      const expected = [[next, (irs + 1) >>> 0]];
      if (isAsked) expected.push([(next - 1) >>> 0, (irs + 1) >>> 0]);
      deepStrictEqual(numbers, expected, `window ${window}, ${acked} octets ahead`);
    }
  },
);

seededTest("a parked flight ends at its bound, and goes on once the client has some", (random) => {
  const follower = new Follower(random, 1 << 16);
  const { driver, serverIss, irs } = follower;
  const payload = new Uint8Array(60000).fill(1);
  const parked = () => (driver.field(0, "parkEnd") - driver.field(0, "parkBase")) >>> 0;
  const say = (at: number) =>
    driver.pass({ app: [follower.said({ seq: serverIss + 1 + at, ack: irs + 1, payload })] });
  let at = 0;
  for (; at + payload.length <= PARKED_MAX; at += payload.length) say(at);
  strictEqual(parked(), at);
  say(at);
  strictEqual(parked(), at);
  strictEqual(driver.counter("parkedOverflow"), 1);
  driver.pass({ bodies: [follower.progress(payload.length)] });
  say(at);
  strictEqual(parked(), at);
});

/** Writes after it has read the end of the other stream, or ends its own first. */
function halfCloser(server: Endpoint, port: number): void {
  const answer = (octets: Uint8Array) => server.write(octets.map((octet) => octet ^ 0x5a));
  if (port % 2 === 0) {
    server.onEnd = () => {
      answer(server.received);
      server.end();
    };
  } else {
    server.write(new Uint8Array(5000).fill(port));
    server.end();
  }
}

seededTest("either side may end first, and the other go on, through a crash", (random) => {
  for (let round = 0; round < rounds(8); round++) {
    // Reordering on the clients' wire lets FINs overtake octets.
    const fate = () => [random.next() < 0.3 ? random.integer(6) : 0];
    const replicas = new Replicas({ program: halfCloser, fate, number: () => firstNumber(random) });
    const ports = [7000, 7001, 7002, 7003];
    const requests = ports.map(() => randomOctets(random, 1 + random.integer(30000)));
    const clients = ports.map((port, i) => {
      const client = replicas.connect(port);
      if (port % 2 === 0) {
        client.write(requests[i]);
        client.end();
      } else {
        client.onEnd = () => {
          client.write(requests[i]);
          client.end();
        };
      }
      return client;
    });
    const moment = random.integer(60);
    for (let step = 0; step < moment; step++) replicas.step();
    replicas.crash();
    replicas.run(() => clients.every((client) => client.ended && client.isDrained));
    for (const [i, port] of ports.entries()) {
      const expected = port % 2 === 0
        ? requests[i].map((octet) => octet ^ 0x5a)
        : new Uint8Array(5000).fill(port);
      deepStrictEqual(clients[i].received, expected, `client ${port}`);
      deepStrictEqual(replicas.primary.servers.get(port)?.received, requests[i], `server ${port}`);
    }
  }
});

seededTest(
  "SACK and D-SACK edges wrap with issDelta; what is no SACK option is left alone",
  (random) => {
    const follower = new Follower(random, 1 << 16);
    const { driver, iss, serverIss, irs } = follower;
    driver.takeOver();
    const payload = new Uint8Array(3000);
    driver.pass({ app: [follower.said({ seq: serverIss + 1, ack: irs + 1, payload })] });
    const sack = (delta: number) => [1, 500, 0xfffffff0, 16, 2000, 0].map((n) => (n + delta) >>> 0);
    const segment = (mix: Parameters<typeof buildOptions>[0], ack: number) =>
      buildPacket(fromClient({ seq: irs + 1, ack: ack + 1001, options: buildOptions(mix) }));
    for (const shift of [0, 1, 2, 3]) {
      const mixes = [{ shift, sack: sack(0) }, { shift, sack: sack(serverIss - iss) }];
      const outputs = driver.pass({ net: [segment(mixes[0], iss)] });
      deepStrictEqual(on("app", outputs), [segment(mixes[1], serverIss)]);
    }
    for (const length of [2, 3, 9, 12, 17]) {
      const extra = Uint8Array.from([5, length, ...new Array(length - 2).fill(3)]);
      const outputs = driver.pass({ net: [segment({ extra }, iss)] });
      deepStrictEqual(on("app", outputs), [segment({ extra }, serverIss)]);
    }
  },
);
