/**
 * core_takeover_test.ts - whole connections over two instances, through crashes and planned switches
 *
 * The claims are Holdfast's own (DESIGN section 1): every client reads exactly what one healthy server
 * would have sent, every server has read exactly what its client wrote (P1), nobody but the primary
 * speaks (P3), no end comes early (P4). Loss, duplication and reordering on the clients' wire,
 * differing window scales, numbers next to the wrap, and moments are random; the seed is printed.
 */
import { ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import type { Endpoint } from "./endpoint.ts";
import { Replicas, type ReplicasOptions } from "./replicas.ts";
import { pick, randomOctets, rounds, seededTest } from "./seeded.ts";

/** What one client asks for, by the first octet it writes. */
const KIND = { echo: 0, download: 1, upload: 2 } as const;

/** Answers as a function of the input only: echo, a download of a size, or a count of an upload. */
function program(server: Endpoint, port: number): void {
  let kind = -1;
  let count = 0;
  server.onOctets = (octets) => {
    if (kind < 0) kind = octets[0];
    count += octets.length;
    if (kind === KIND.echo) server.write(octets.map((octet) => octet ^ 0x5a));
    else if (kind === KIND.download && count === octets.length) {
      server.write(downloadOf(port));
      server.end();
    }
  };
  server.onEnd = () => {
    if (kind === KIND.upload) server.write(sumOfUpload(server.received));
    if (kind !== KIND.download) server.end();
  };
}

function downloadOf(port: number): Uint8Array {
  return Uint8Array.from({ length: 20000 + (port % 7) * 30000 }, (_, i) => (i * port) >>> 5);
}

function sumOfUpload(octets: Uint8Array): Uint8Array {
  let sum = octets.length;
  for (const octet of octets) sum = (Math.imul(sum, 31) + octet) >>> 0;
  return new TextEncoder().encode(sum.toString(16));
}

/** One client, what it writes and what it must read. */
interface Talk {
  client: Endpoint;
  port: number;
  request: Uint8Array;
  expected: Uint8Array;
}

function talk(random: Random, replicas: Replicas, port: number): Talk {
  const kind = pick(random, [KIND.echo, KIND.download, KIND.upload]);
  const request = randomOctets(random, 1 + random.integer(kind === KIND.download ? 200 : 60000));
  request[0] = kind;
  const client = replicas.connect(port, {
    stamps: random.next() < 0.7,
    sack: random.next() < 0.7,
    scale: pick(random, [null, 0, 7, 14]),
    window: pick(random, [2000, 20000, 65535]),
  });
  client.write(request);
  if (kind !== KIND.download) client.end();
  else client.onEnd = () => client.end();
  const expected = kind === KIND.echo
    ? request.map((octet) => octet ^ 0x5a)
    : kind === KIND.upload
    ? sumOfUpload(request)
    : downloadOf(port);
  return { client, port, request, expected };
}

function check(replicas: Replicas, talks: Talk[]): void {
  for (const { client, port, request, expected } of talks) {
    checkOctets(client.received, expected, `client ${port}`);
    const server = replicas.primary.servers.get(port);
    ok(server, `no server for ${port}`);
    checkOctets(server.received, request, `server of ${port}`);
    strictEqual(server.state, "open", `server of ${port}`);
  }
}

/** As `deepStrictEqual()`, but names the first difference instead of drawing all of them. */
function checkOctets(actual: Uint8Array, expected: Uint8Array, what: string): void {
  const wrong = expected.findIndex((octet, index) => octet !== actual[index]);
  strictEqual(wrong, -1, `${what}: octet ${wrong} of ${expected.length} is ${actual[wrong]}`);
  strictEqual(actual.length, expected.length, `${what}: length`);
}

function isDone({ client, expected }: Talk): boolean {
  return client.ended && client.isDrained && client.received.length === expected.length;
}

/** Every client has read all of it, and the servers know. */
function allDone(replicas: Replicas, talks: Talk[]): boolean {
  return talks.every(isDone) &&
    talks.every(({ port }) => replicas.primary.servers.get(port)?.isDrained);
}

function randomOptions(random: Random): ReplicasOptions {
  const lossy = random.next() < 0.5;
  return {
    program,
    family: pick(random, [4, 6] as const),
    commit: pick(random, ["strict", "ack"] as const),
    logLimit: pick(random, [16384, 1 << 16, 1 << 18]),
    number: () => random.next() < 0.3 ? (random.integer(60000) - 50000) >>> 0 : random.seed(),
    scale: [pick(random, [0, 3, 7]), pick(random, [0, 7, 9])],
    fate: lossy ? () => fateOf(random) : undefined,
  };
}

function fateOf(random: Random): number[] {
  const dice = random.next();
  if (dice < 0.03) return [];
  if (dice < 0.06) return [0, random.integer(5)];
  return [dice < 0.15 ? random.integer(4) : 0];
}

/** Records and blocks are gone once the lingering is over. */
function checkEmpty(replicas: Replicas): void {
  for (let i = 0; i < 20; i++) replicas.wait(1000);
  for (const host of [replicas.primary, replicas.standby]) {
    if (host === null) continue;
    strictEqual(host.driver.core.wasm.recordsUsed(), 0, `records left\n${replicas.describe()}`);
    strictEqual(host.driver.core.wasm.heldCount(), 0);
  }
}

seededTest("without a fault every connection is served and every record goes", (random) => {
  for (let round = 0; round < rounds(6); round++) {
    const replicas = new Replicas(randomOptions(random));
    const free = replicas.primary.driver.core.wasm.blockOctetsFree();
    const talks = Array.from({ length: 6 }, (_, i) => talk(random, replicas, 10000 + i));
    replicas.run(() => allDone(replicas, talks));
    check(replicas, talks);
    checkEmpty(replicas);
    for (const host of [replicas.primary, replicas.standby]) {
      strictEqual(host?.driver.core.wasm.blockOctetsFree(), free);
    }
  }
});

seededTest("a crash at any moment: no octet lost, repeated or changed, and no reset", (random) => {
  for (let round = 0; round < rounds(25); round++) {
    const replicas = new Replicas(randomOptions(random));
    const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
    const moment = random.integer(120);
    let steps = 0;
    replicas.run(() => talks.every(isDone) || steps++ >= moment);
    if (replicas.standby !== null) replicas.standby.lag = random.integer(4);
    replicas.crash(random.integer(3));
    replicas.run(() => allDone(replicas, talks));
    check(replicas, talks);
    checkEmpty(replicas);
  }
});

seededTest("the clock that clients see never goes back: pauses, stalls, switches", (random) => {
  for (let round = 0; round < rounds(60); round++) {
    const replicas = new Replicas({ ...randomOptions(random), fate: undefined });
    const clients: Endpoint[] = [];
    let written = 1;
    const allEven = () => clients.every(({ received }) => received.length === written);
    for (let change = 0; change < 3; change++) {
      for (let pause = 0; pause < 3; pause++) {
        replicas.wait(random.integer(400));
        if (replicas.standby !== null) replicas.standby.lag = random.integer(100);
        if (clients.length === 0) clients.push(replicas.connect(10000), replicas.connect(10001));
        else written++;
        for (const client of clients) client.write(Uint8Array.of(KIND.echo));
        let steps = random.integer(8);
        replicas.run(() => steps-- <= 0);
        if (random.next() < 0.7) replicas.run(allEven);
      }
      if (change < 2 && random.next() < 0.5) replicas.switchOver();
    }
    replicas.crash(random.integer(4));
    replicas.run(allEven);
    for (const { oldStamps } of clients) strictEqual(oldStamps, 0);
  }
});

seededTest(
  "planned switches to and fro, then a crash: no octet lost, repeated or changed",
  (random) => {
    for (let round = 0; round < rounds(15); round++) {
      const replicas = new Replicas(randomOptions(random));
      const talks = Array.from({ length: 5 }, (_, i) => talk(random, replicas, 10000 + i));
      for (let change = 0; change < 4; change++) {
        let steps = random.integer(40);
        replicas.run(() => talks.every(isDone) || steps-- <= 0);
        if (change === 3) replicas.crash();
        else replicas.switchOver();
      }
      replicas.run(() => allDone(replicas, talks));
      check(replicas, talks);
      checkEmpty(replicas);
    }
  },
);
