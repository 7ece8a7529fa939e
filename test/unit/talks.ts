/**
 * talks.ts - clients with something to say, servers that answer, and what both must have read
 *
 * A client writes its whole request at once; the first octet says what is wanted: an echo, a download
 * or a count of an upload. Answers are functions of the input and the client's port, so that any
 * server gives the same. For tests over replicas.ts.
 */
import { ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import type { Endpoint } from "./endpoint.ts";
import type { Replicas, ReplicasOptions } from "./replicas.ts";
import { pick, randomOctets } from "./seeded.ts";

/** In these, timers run out 80 times: 20 s. */
const EMPTY_STEPS = 400;

/** What one client asks for, by the first octet it writes. */
export const KIND = { echo: 0, download: 1, upload: 2 } as const;

/** Answers as a function of the input only: echo, a download of a size, or a count of an upload. */
export function program(server: Endpoint, port: number): void {
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
export interface Talk {
  /** The client. */
  client: Endpoint;
  /** Its port. */
  port: number;
  /** What it writes. */
  request: Uint8Array;
  /** What it must read. */
  expected: Uint8Array;
}

/** A client with a random request. */
export function talk(random: Random, replicas: Replicas, port: number): Talk {
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

/** Every client and every server has read what it must. */
export function check(replicas: Replicas, talks: Talk[]): void {
  for (const { client, port, request, expected } of talks) {
    checkOctets(client.received, expected, `client ${port}`);
    const server = replicas.primary.servers.get(port);
    ok(server, `no server for ${port}`);
    checkOctets(server.received, request, `server of ${port}`);
    strictEqual(server.state, "open", `server of ${port}`);
  }
}

/** As `deepStrictEqual()`, but names the first difference instead of drawing all of them. */
export function checkOctets(actual: Uint8Array, expected: Uint8Array, what: string): void {
  const wrong = expected.findIndex((octet, index) => octet !== actual[index]);
  strictEqual(wrong, -1, `${what}: octet ${wrong} of ${expected.length} is ${actual[wrong]}`);
  strictEqual(actual.length, expected.length, `${what}: length`);
}

/** Its client has read all of it, and its end is known, or it was reset while it waited for that. */
export function isDone({ client, expected }: Talk): boolean {
  const isLate = client.state === "reset" && client.lacksOnlyAck;
  return client.ended && (client.isDrained || isLate) && client.received.length === expected.length;
}

/** Every client has read all of it, and the servers know. */
export function allDone(replicas: Replicas, talks: Talk[]): boolean {
  return talks.every(isDone) &&
    talks.every(({ port }) => replicas.primary.servers.get(port)?.isDrained);
}

/** Steps until a random moment, or until all are done. */
export function runFor(replicas: Replicas, talks: Talk[], steps: number): void {
  let left = steps;
  replicas.run(() => talks.every(isDone) || left-- <= 0);
}

/** How fast a standby that comes later is told what it has missed, octets in a pass. */
export const PACES = [700, 5000, 1 << 17];

/**
 * Runs until each client is served or reset; of those that were lost, the clients' ports must not be among
 * `kept`, and what they have read must be right.
 *
 * @returns How many were lost.
 */
export function countLost(replicas: Replicas, talks: Talk[], kept: number[]): number {
  const isOver = (it: Talk) => isDone(it) || it.client.state === "reset";
  // Who waits for an answer alone never learns that nobody will give one.
  let left = 3000;
  replicas.run(() => talks.every(isOver) || left-- <= 0);
  let lost = 0;
  for (const { client, port, expected } of talks) {
    const { received } = client;
    checkOctets(received, expected.slice(0, received.length), `client ${port}`);
    if (received.length === expected.length) continue;
    lost++;
    strictEqual(kept.includes(port), false, `client ${port} was protected and is lost`);
  }
  return lost;
}

/** A service of a random kind, on a wire that may be bad. */
export function randomOptions(random: Random): ReplicasOptions {
  const lossy = random.next() < 0.5;
  return {
    program,
    family: pick(random, [4, 6] as const),
    commit: pick(random, ["strict", "ack"] as const),
    logLimit: pick(random, [16384, 1 << 16, 1 << 18]),
    keep: pick(random, [0, 3000, 1 << 20]),
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

/**
 * Records and blocks are gone once the lingering is over. A client's last ACK may have been lost: kernels
 * say their FINs again meanwhile.
 */
export function checkEmpty(replicas: Replicas): void {
  let steps = 0;
  replicas.run(() => steps++ >= EMPTY_STEPS);
  for (const host of [replicas.primary, replicas.standby]) {
    if (host === null) continue;
    strictEqual(host.driver.core.wasm.recordsUsed(), 0, `records left\n${replicas.describe()}`);
    strictEqual(host.driver.core.wasm.heldCount(), 0);
  }
}
