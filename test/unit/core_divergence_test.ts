/**
 * core_divergence_test.ts - servers that do not write the same: no client reads a mixture (P5)
 *
 * Two real cores, and servers whose answers hold octets that each host draws by itself, or do not. The
 * moment of the fault, the cuts, losses between server and core, and which server is ahead are random;
 * the seed is printed.
 */
import { deepStrictEqual, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { Random } from "../net/random.ts";
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
  Phase,
  Reason,
  RecordType,
} from "./core_driver.ts";
import type { Endpoint } from "./endpoint.ts";
import { type Host, Replicas, type ReplicasOptions } from "./replicas.ts";
import { pick, randomOctets, rounds, seededTest } from "./seeded.ts";
import { buildPacket, digestOf, type Packet, parsePacket, TcpFlag } from "./twin.ts";

/** Answers each octet it reads, with a token of its own in the answer. */
class TokenServers {
  /** What each server has written, by the client's port: one for each host. */
  readonly written = new Map<number, number[][]>();
  readonly #random: Random;
  readonly #sizes: number[];
  /** Which answers hold a token, from this one on. */
  readonly #from: number;

  constructor(random: Random, { sizes, from }: { sizes: number[]; from: number }) {
    this.#random = random;
    this.#sizes = sizes;
    this.#from = from;
  }

  program = (server: Endpoint, port: number): void => {
    const all: number[] = [];
    const known = this.written.get(port) ?? [];
    this.written.set(port, [...known, all]);
    let answers = 0;
    server.onOctets = (octets) => {
      for (const octet of octets) {
        const size = this.#sizes[octet % this.#sizes.length];
        const answer = new Uint8Array(size).map((_, i) => (i * 7 + octet) >>> 2);
        if (answers++ >= this.#from) {
          const at = this.#random.integer(Math.max(1, size - 16));
          answer.set(randomOctets(this.#random, Math.min(16, size)), at);
        }
        server.write(answer);
        for (const octet of answer) all.push(octet);
      }
    };
    server.onEnd = () => server.end();
  };

  /** True when some server wrote exactly these octets, and possibly more. */
  isOne(port: number, received: Uint8Array): boolean {
    return (this.written.get(port) ?? []).some((all) => received.every((o, i) => o === all[i]));
  }
}

function randomOptions(random: Random): Omit<ReplicasOptions, "program"> {
  const lossy = random.next() < 0.5;
  return {
    commit: pick(random, ["strict", "ack"] as const),
    number: () => random.next() < 0.3 ? (random.integer(60000) - 50000) >>> 0 : random.seed(),
    mss: [pick(random, [300, 1000, 1448]), pick(random, [300, 1000, 1448])],
    isDropped: random.next() < 0.4 ? () => random.next() < 0.05 : undefined,
    fate: lossy ? () => random.next() < 0.05 ? [] : [random.integer(3)] : undefined,
  };
}

/** Indexes of all records in use. */
function records({ driver: { core: { wasm } } }: Host): number[] {
  return Array.from({ length: wasm.highWater() }, (_, i) => i).filter((i) =>
    wasm.recordAt(i) !== 0
  );
}

function reasons(host: Host): number[] {
  return records(host).map((i) => host.driver.field(i, "reason"));
}

function isKnown(host: Host, clientPort: number): boolean {
  return records(host).some((i) => (host.driver.field(i, "ports") & 0xffff) === clientPort);
}

/** Clients ask, a fault happens, clients ask again; returns how many were reset. */
function askThroughFault(
  random: Random,
  servers: TokenServers,
  replicas: Replicas,
  { unprotects = false, loses = false } = {},
): { resets: number; mixtures: number } {
  const ports = [9000, 9001, 9002];
  const clients = ports.map((port) => replicas.connect(port, { stamps: random.next() < 0.7 }));
  const ask = () => {
    for (const client of clients) {
      if (client.state === "open") client.write(Uint8Array.of(random.integer(256)));
    }
    const lag = random.integer(4);
    if (replicas.standby !== null && random.next() < 0.3) replicas.standby.lag = lag;
    for (let steps = random.integer(25); steps > 0; steps--) replicas.step();
  };
  replicas.run(() => clients.every(({ state }) => state === "open"));
  for (let i = random.integer(4); i >= 0; i--) ask();
  if (random.next() < 0.3) replicas.switchOver();
  else replicas.crash();
  for (let i = 0; i < 3; i++) ask();
  for (const client of clients) if (client.state === "open") client.end();
  // Without a record nobody tells a client that has nothing more to say; and a kernel that knows it not
  // would reset it, which ours do not.
  const isOver = (client: Endpoint, index: number) =>
    client.state === "reset" || client.ended || (unprotects && client.isDrained) ||
    (loses && !isKnown(replicas.primary, ports[index]));
  replicas.run(() => clients.every(isOver));
  return {
    resets: clients.filter(({ state }) => state === "reset").length,
    mixtures: clients.filter(({ received }, i) => !servers.isOne(ports[i], received)).length,
  };
}

seededTest("reset: no client reads what no single server wrote, at whatever moment", (random) => {
  let resets = 0;
  for (let round = 0; round < rounds(60); round++) {
    const sizes = [pick(random, [1, 20, 300]), pick(random, [1000, 5000, 20000])];
    const servers = new TokenServers(random, { sizes, from: random.integer(3) });
    const replicas = new Replicas({
      ...randomOptions(random),
      program: servers.program,
      divergence: "reset",
      mayReset: true,
    });
    const outcome = askThroughFault(random, servers, replicas);
    strictEqual(outcome.mixtures, 0, `round ${round}`);
    resets += outcome.resets;
  }
  ok(resets > 0, "nobody was reset");
});

seededTest("unprotect: the same, and the standby keeps nothing of it", (random) => {
  for (let round = 0; round < rounds(20); round++) {
    const servers = new TokenServers(random, { sizes: [200, 3000], from: random.integer(2) });
    const replicas = new Replicas({
      ...randomOptions(random),
      program: servers.program,
      divergence: "unprotect",
      mayReset: true,
    });
    const { mixtures } = askThroughFault(random, servers, replicas, { unprotects: true });
    strictEqual(mixtures, 0, `round ${round}`);
  }
});

seededTest(
  "ignore: mixtures reach the clients, so the checks above could have failed",
  (random) => {
    let mixtures = 0;
    for (let round = 0; round < rounds(20) + 10; round++) {
      const servers = new TokenServers(random, { sizes: [200, 3000], from: 0 });
      const replicas = new Replicas({
        ...randomOptions(random),
        program: servers.program,
        divergence: "ignore",
        mayReset: true,
      });
      mixtures += askThroughFault(random, servers, replicas).mixtures;
      for (const host of [replicas.primary, replicas.standby]) {
        strictEqual(host?.driver.counter("diverged") ?? 0, 0);
      }
    }
    ok(mixtures > 0);
  },
);

seededTest(
  "servers that write the same are never told apart, nor their clients reset",
  (random) => {
    for (let round = 0; round < rounds(60); round++) {
      const servers = new TokenServers(random, { sizes: [1, 700, 9000, 60000], from: Infinity });
      const replicas = new Replicas({ ...randomOptions(random), program: servers.program });
      const hosts = [replicas.primary, replicas.standby];
      const outcome = askThroughFault(random, servers, replicas);
      deepStrictEqual(outcome, { resets: 0, mixtures: 0 });
      for (const host of hosts) {
        strictEqual(host?.driver.counter("diverged"), 0);
        ok(!reasons(host).includes(Reason.diverged));
      }
    }
  },
);

seededTest(
  "with no memory to park in, servers that write the same are not told apart",
  (random) => {
    let overflows = 0;
    // Records take nearly all of the memory.
    const capacity = capacityLeaving(18);
    for (let round = 0; round < rounds(6); round++) {
      const servers = new TokenServers(random, { sizes: [30000, 60000], from: Infinity });
      const replicas = new Replicas({
        ...randomOptions(random),
        program: servers.program,
        capacity,
        mayReset: true,
        // One that waits for an ACK of what could not be parked would be given up.
        slowStart: false,
      });
      const { standby } = replicas;
      ok(standby !== null);
      // Some lose their protection, as their input finds no place either; none is called different.
      strictEqual(askThroughFault(random, servers, replicas, { loses: true }).mixtures, 0);
      strictEqual(standby.driver.counter("diverged"), 0);
      overflows += standby.driver.counter("parkedOverflow");
    }
    ok(overflows > 0, "there was memory enough");
  },
);

/** The most records that leave so many blocks of 256 octets. */
function capacityLeaving(blocks: number): number {
  let [low, high] = [64, 65536];
  while (high - low > 1) {
    const capacity = (low + high) >> 1;
    if (isEnough(capacity, blocks)) low = capacity;
    else high = capacity;
  }
  return low;
}

function isEnough(capacity: number, blocks: number): boolean {
  try {
    return new Driver({ capacity }).core.wasm.blockOctetsFree() >= blocks * 256;
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}

Deno.test("reset: the connection goes on at the primary, says why, and ends everywhere", () => {
  const random = new Random(1);
  const servers = new TokenServers(random, { sizes: [500], from: 1 });
  const replicas = new Replicas({ program: servers.program });
  const client = replicas.connect(9000);
  const steps = (n: number) => {
    for (let i = 0; i < n; i++) replicas.step();
  };
  replicas.run(() => client.state === "open");
  client.write(Uint8Array.of(1));
  steps(10);
  deepStrictEqual(reasons(replicas.primary), [Reason.none]);
  client.write(Uint8Array.of(2, 3));
  steps(10);
  deepStrictEqual(reasons(replicas.primary), [Reason.diverged]);
  strictEqual(replicas.primary.driver.counter("diverged"), 1);
  const { standby } = replicas;
  ok(standby !== null);
  strictEqual(standby.driver.field(0, "leg"), Leg.dead);
  client.write(Uint8Array.of(4));
  client.end();
  replicas.run(() => client.ended && client.isDrained);
  strictEqual(client.received.length, 2000);
  ok(servers.isOne(9000, client.received));
  // The standby hears of its end, and would reset nobody who comes later.
  for (let i = 0; i < 8; i++) replicas.wait(1000);
  strictEqual(standby.driver.core.wasm.recordsUsed(), 0);
});

Deno.test("a client that is reset believes it, wherever it stands", () => {
  for (const lost of [false, true]) {
    const servers = new TokenServers(new Random(2), { sizes: [5000], from: 0 });
    let isLost = false;
    const replicas = new Replicas({
      program: servers.program,
      mayReset: true,
      fate: () => isLost ? [] : [0],
    });
    const client = replicas.connect(9000);
    replicas.run(() => client.state === "open");
    client.write(Uint8Array.of(1));
    for (let i = 0; i < 3; i++) replicas.step();
    // What the primary says now never arrives: the client stands before what it was shown.
    isLost = lost;
    for (let i = 0; i < 10; i++) replicas.step();
    isLost = false;
    replicas.crash();
    replicas.run(() => client.state === "reset", 200);
  }
});

/** A standby with one connection whose server has answered the SYN. */
class Follower {
  readonly driver = new Driver();
  readonly #iss = 500000;
  readonly #serverIss = 7000;

  /** With `other`, another connection of the service has been found to differ. */
  constructor(other = false) {
    this.driver.core.wasm.setRole(1);
    if (other) this.#diverge();
    this.driver.pass({ bodies: [encodeOpen(0, openOf({ iss: this.#iss }))] });
    const flags = TcpFlag.syn | TcpFlag.ack;
    this.say({ seq: this.#serverIss, flags, options: SYN_OPTIONS });
    this.driver.pass({ bodies: [encodeData(0, 1001, Uint8Array.of(1)), this.told(0)] });
    this.driver.takeBody();
  }

  #diverge(): void {
    this.driver.pass({ bodies: [encodeOpen(1, openOf({ iss: this.#iss, clientPort: 40001 }))] });
    const seq = this.#serverIss;
    const flags = TcpFlag.syn | TcpFlag.ack;
    const said = { destinationPort: 40001, ack: 1001 };
    const wrong = Uint8Array.of(9);
    const app = [
      fromServer({ ...said, seq, flags, options: SYN_OPTIONS }),
      fromServer({ ...said, seq: seq + 1, payload: wrong }),
    ];
    this.driver.pass({ app: app.map(buildPacket) });
    const body = this.told(1, Uint8Array.of(8));
    body[4] = 1; // its index
    this.driver.pass({ bodies: [body] });
    strictEqual(this.driver.counter("diverged"), 1);
  }

  /** Our server says something. */
  say(fields: Partial<Packet>): void {
    this.driver.pass({ app: [buildPacket(fromServer({ ack: 1001, ...fields }))] });
  }

  /** Our server writes octets [at, end) of a stream. */
  write(stream: Uint8Array, at: number, end: number): void {
    this.say({ seq: this.#serverIss + 1 + at, payload: stream.slice(at, end) });
  }

  /** The primary's server has written so many octets; the client has acknowledged some. */
  told(length: number, stream = new Uint8Array(0), acked = 0): Uint8Array {
    const end = this.#iss + 1 + length;
    return encodeProgress(0, {
      cliAck: this.#iss + 1 + acked,
      cliWnd: 65535,
      ackShown: 1001,
      edgeShown: 61001,
      sndShown: end,
      digest: digestOf(stream.subarray(0, length)),
    });
  }

  /** Where the standby has said that outputs differ, and up to where they are the same. */
  found(): [number, number] | null {
    const { body } = this.driver.takeBody() ?? { body: new Uint8Array(0) };
    const fail = decodeRecords(body).find(({ type }) => type === RecordType.fail);
    if (fail === undefined) return null;
    strictEqual(fail.flags, Reason.diverged);
    return [fail.words[0] - this.#iss - 1, fail.words[1] - this.#iss - 1];
  }
}

const SYN_OPTIONS = Uint8Array.of(2, 4, 5, 180, 4, 2, 1, 1, 1, 3, 3, 7);

seededTest(
  "digests told in any order with what is written, in any cuts, twice or not",
  (random) => {
    for (let round = 0; round < rounds(60); round++) {
      const follower = new Follower();
      const { driver } = follower;
      const ours = randomOctets(random, 1 + random.integer(30000));
      const theirs = ours.slice();
      const wrong = random.next() < 0.6 ? random.integer(ours.length) : null;
      if (wrong !== null) theirs[wrong] ^= 1 + random.integer(255);
      let [written, told, acked] = [0, 0, 0];
      let found: [number, number] | null = null;
      while (found === null && (written < ours.length || told < theirs.length)) {
        if (random.next() < 0.5) {
          // New octets, some of them again, and now and then with something lost before them.
          const back = random.next() < 0.7 ? 0 : random.integer(3000);
          const gap = random.next() < 0.05 ? 1 + random.integer(100) : 0;
          const at = Math.max(0, written - back) + gap;
          const end = Math.min(ours.length, at + random.integer(4000));
          if (at > end) continue;
          follower.write(ours, at, end);
          if (gap === 0) written = Math.max(written, end);
        } else {
          told = Math.min(theirs.length, told + random.integer(5000));
          acked = Math.min(told, acked + random.integer(5000));
          const bodies = [follower.told(told, theirs, acked)];
          if (random.next() < 0.2) bodies.push(follower.told(told, theirs, acked));
          driver.pass({ bodies });
        }
        found = follower.found();
        if (found === null) {
          const both = Math.min(written, told);
          // Whatever was told and written is compared; a mark that a newer one replaced is not.
          if (wrong !== null && wrong < both && written >= told) {
            ok(
              false,
              `octet ${wrong} is missed`,
            );
          }
        }
      }
      if (wrong === null) strictEqual(found, null);
      else {
        ok(found !== null);
        ok(found[0] > wrong && found[1] <= wrong, `octet ${wrong} is not in ${found}`);
      }
    }
  },
);

Deno.test("after a takeover nothing leaves that was told and not yet compared", () => {
  const stream = Uint8Array.from({ length: 6000 }, (_, i) => (i * i) >>> 3);
  for (const differs of [false, true]) {
    const follower = new Follower();
    const { driver } = follower;
    const theirs = stream.slice();
    if (differs) theirs[3500] ^= 1;
    follower.write(stream, 0, 2000);
    driver.pass({ bodies: [follower.told(1000, theirs), follower.told(4000, theirs)] });
    const sent = (outputs: Parameters<typeof on>[1]) =>
      on("net", outputs).map(parsePacket).filter(({ payload }) => payload.length > 0)
        .map(({ seq, payload }) => [seq - 500001, seq - 500001 + payload.length]);
    deepStrictEqual(sent(driver.takeOver()), [[0, 1000]]);
    const segment = (at: number, end: number) =>
      buildPacket(fromServer({ seq: 7001 + at, ack: 1002, payload: stream.slice(at, end) }));
    deepStrictEqual(sent(driver.pass({ app: [segment(2000, 3000)] })), []);
    const outputs = driver.pass({ app: [segment(3000, 5000), segment(5000, 6000)] });
    if (!differs) {
      deepStrictEqual(sent([...outputs, ...driver.drain()]), [[1000, 6000]]);
      notStrictEqual(driver.field(0, "phase"), Phase.closed);
      continue;
    }
    deepStrictEqual(sent(outputs), []);
    const flags = on("net", outputs).map((packet) => parsePacket(packet).flags);
    ok(flags.some((flag) => (flag & TcpFlag.rst) !== 0));
    strictEqual(driver.field(0, "reason"), Reason.diverged);
  }
});

Deno.test("after a takeover a server that ends early, or never comes there, resets its client", () => {
  const stream = new Uint8Array(3000).fill(5);
  for (const ends of [false, true]) {
    const follower = new Follower();
    const { driver } = follower;
    follower.write(stream, 0, 1000);
    driver.pass({ bodies: [follower.told(3000, stream)] });
    driver.takeOver();
    const fin = { seq: 8001, ack: 1002, flags: TcpFlag.fin | TcpFlag.ack };
    let resets = 0;
    for (let ms = 0; ms < 15_000 && resets === 0; ms += 100) {
      driver.nowMs += 100;
      const app = ends && ms === 500 ? [buildPacket(fromServer(fin))] : [];
      const outputs = on("net", [...driver.pass({ app }), ...driver.drain()]).map(parsePacket);
      strictEqual(outputs.filter(({ payload }) => payload.length > 0).length, 0);
      resets += outputs.filter(({ flags }) => (flags & TcpFlag.rst) !== 0).length;
      if (resets > 0) ok(ends ? ms === 500 : ms > 9000, `reset after ${ms} ms`);
    }
    strictEqual(resets, 1);
  }
});

Deno.test("octets that nobody told of are spliced only while no connection has ever diverged", () => {
  const stream = Uint8Array.from({ length: 3000 }, (_, i) => i % 250);
  for (const other of [false, true]) {
    for (const acked of [1000, 1500]) {
      const follower = new Follower(other);
      const { driver } = follower;
      follower.write(stream, 0, 3000);
      driver.pass({ bodies: [follower.told(1000, stream)] });
      const sent = (outputs: Parameters<typeof on>[1]) =>
        on("net", outputs).map(parsePacket).filter(({ destinationPort }) =>
          destinationPort === 40000
        );
      const length = sent(driver.takeOver()).reduce((sum, { payload }) => sum + payload.length, 0);
      // Who is asked first gets only what was compared.
      strictEqual(length, other ? 1000 : 3000);
      const ack = buildPacket(fromClient({ seq: 1002, ack: 500001 + acked }));
      const answer = sent([...driver.pass({ net: [ack] }), ...driver.drain()]);
      const isReset = answer.some(({ flags }) => (flags & TcpFlag.rst) !== 0);
      strictEqual(isReset, other && acked > 1000, `${acked} octets are acknowledged`);
      const rest = answer.reduce((sum, { payload }) => sum + payload.length, 0);
      strictEqual(rest, other && acked === 1000 ? 2000 : 0);
    }
  }
});
