/**
 * digest_test.ts - the digest of an output stream, beside its plain twin
 *
 * Streams are random octets, and responses of HTTP/1.x servers, whole and broken; cuts are random; the
 * seed is printed. What the digest must tell apart by construction is tried case by case.
 */
import { deepStrictEqual, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import { Driver } from "./core_driver.ts";
import { pick, randomOctets, rounds, seededTest } from "./seeded.ts";
import { datesOf, digestOf } from "./twin.ts";

const BLOCK = 4096;

/** The core's digest, of streams given in pieces. */
class Digests {
  readonly #core = new Driver().core;
  readonly #digest = this.#core.wasm.body();
  #isNew = true;

  /** Begins a new stream. */
  start(): void {
    this.#isNew = true;
  }

  /** The digest with these octets too; they lie `offset` octets off an aligned place. */
  extend(octets: Uint8Array, offset = 0): bigint {
    const { wasm, bytes } = this.#core;
    const at = wasm.inbox() + offset;
    bytes.set(octets, at);
    // What follows the octets must not matter.
    bytes.fill(0xa5, at + octets.length, at + octets.length + 16);
    const value = wasm.digest(this.#digest, at, octets.length, this.#isNew ? 1 : 0);
    this.#isNew = false;
    return BigInt.asUintN(64, value);
  }

  /** The digest of a whole stream. */
  of(stream: Uint8Array): bigint {
    this.start();
    return this.extend(stream);
  }
}

function octetsOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Cuts a stream at random, short pieces included, and compares at every cut. */
function compareAtCuts(digests: Digests, stream: Uint8Array, random: Random): void {
  digests.start();
  for (let at = 0; at < stream.length;) {
    const most = pick(random, [1, 3, 20, 70, 500, 5000]);
    const end = Math.min(stream.length, at + random.integer(most + 1));
    const value = digests.extend(stream.subarray(at, end), random.integer(16));
    at = end;
    if (random.next() < 0.2 || at === stream.length) {
      strictEqual(value, digestOf(stream.subarray(0, at)), `${at} of ${stream.length} octets`);
    }
  }
}

Deno.test("the digest of every length to 100, and around a block's end, is the twin's", () => {
  const digests = new Digests();
  const stream = Uint8Array.from({ length: 2 * BLOCK + 33 }, (_, i) => (i * 2654435761) >>> 13);
  const lengths = Array.from({ length: 101 }, (_, i) => i);
  for (const edge of [BLOCK, 2 * BLOCK]) for (let d = -33; d <= 33; d++) lengths.push(edge + d);
  for (const length of lengths) {
    strictEqual(
      digests.of(stream.subarray(0, length)),
      digestOf(stream.subarray(0, length)),
      `${length} octets`,
    );
  }
});

seededTest("a digest does not depend on the cuts, whatever the octets", (random) => {
  const digests = new Digests();
  for (let round = 0; round < rounds(60); round++) {
    const length = random.integer(pick(random, [100, 3 * BLOCK]));
    const stream = pick(random, [
      () => randomOctets(random, length),
      () => new Uint8Array(length).fill(pick(random, [0, 0x7f, 0x80, 0xff])),
    ])();
    compareAtCuts(digests, stream, random);
  }
});

Deno.test("every single octet that changes is seen, and every two that are swapped", () => {
  const digests = new Digests();
  const zeros = new Uint8Array(BLOCK + 100);
  const seen = new Set([digests.of(zeros)]);
  for (let i = 0; i < zeros.length; i += 7) {
    for (const value of [1, 0x7f, 0x80, 0xff]) {
      const changed = zeros.slice();
      changed[i] = value;
      seen.add(digests.of(changed));
    }
  }
  strictEqual(seen.size, 1 + 4 * Math.ceil(zeros.length / 7));
  const stream = Uint8Array.from({ length: BLOCK }, (_, i) => i % 251);
  const value = digests.of(stream);
  for (let i = 0; i < BLOCK; i += 13) {
    for (const distance of [1, 2, 15, 16, 17, 32, 64, 256, 1024, 2048]) {
      const j = (i + distance) % BLOCK;
      const swapped = stream.slice();
      [swapped[i], swapped[j]] = [stream[j], stream[i]];
      if (stream[i] !== stream[j]) notStrictEqual(digests.of(swapped), value, `${i} and ${j}`);
    }
  }
});

Deno.test("blocks of one octet, of zeros, swapped and shifted blocks all differ", () => {
  const digests = new Digests();
  const constant = Array.from({ length: 256 }, (_, i) => digests.of(new Uint8Array(BLOCK).fill(i)));
  strictEqual(new Set(constant).size, 256);
  const zeros = Array.from({ length: 40 }, (_, i) => digests.of(new Uint8Array(i * BLOCK / 4)));
  strictEqual(new Set(zeros).size, 40);
  const blocks = Array.from(
    { length: 4 },
    (_, b) => Uint8Array.from({ length: BLOCK }, (_, i) => (i * (2 * b + 3)) >> b),
  );
  const seen = new Set<bigint>();
  let orders = 0;
  for (const a of blocks) {
    for (const b of blocks) {
      for (const c of blocks) {
        seen.add(digests.of(Uint8Array.from([...a, ...b, ...c])));
        orders++;
      }
    }
  }
  strictEqual(seen.size, orders);
  const shifts = new Set<bigint>();
  for (let shift = 0; shift < 200; shift++) {
    const shifted = new Uint8Array(2 * BLOCK);
    shifted.set(blocks[1], shift);
    shifts.add(digests.of(shifted));
  }
  strictEqual(shifts.size, 200);
});

seededTest("a difference stays seen, whatever equal octets follow it", (random) => {
  const digests = new Digests();
  for (let round = 0; round < rounds(20); round++) {
    const stream = randomOctets(random, 5 * BLOCK);
    const other = stream.slice();
    const at = random.integer(BLOCK);
    other[at] ^= 1 + random.integer(255);
    for (let end = at + 1; end <= stream.length; end += 1 + random.integer(3000)) {
      notStrictEqual(
        digests.of(stream.subarray(0, end)),
        digests.of(other.subarray(0, end)),
        `octet ${at} is another, ${end} octets`,
      );
    }
  }
});

const DAYS = ["Sun", "Mon", "Sat"];
const NAMES = ["Date", "date", "DATE", "Dat", "Dated", "Date ", "X-Date"];

/** A response, or what looks like one. */
function response(random: Random, seconds: number): string {
  const clock = `${seconds % 60}`.padStart(2, "0");
  const end = random.next() < 0.9 ? "\r\n" : "\n";
  const body = random.next() < 0.9
    ? "x".repeat(random.integer(300))
    : "HTTP/1.1 200 OK\r\nDate: no";
  const lines = [`HTTP/1.${random.integer(2)} ${pick(random, ["200 OK", "304 Not Modified"])}`];
  const headers = [
    `${pick(random, NAMES)}: ${pick(random, DAYS)}, 06 Nov 1994 08:49:${clock} GMT`,
    `Server: ${pick(random, ["nginx", "a\rb", ""])}`,
    `Date: ${pick(random, ["", "soon", "Sun, 06 Nov 1994 08:49:37 GMT and more"])}`,
  ];
  for (const header of headers) if (random.next() < 0.6) lines.push(header);
  const kind = pick(random, ["length", "length", "chunked", "wrong", "none", "head"] as const);
  const length = kind === "wrong" ? random.integer(400) : body.length;
  if (kind === "length" || kind === "wrong" || kind === "head") {
    lines.push(`${pick(random, ["Content-Length", "content-length"])}: ${length}`);
  }
  let whole = body;
  if (kind === "chunked") {
    lines.push("Transfer-Encoding: chunked");
    const cut = random.integer(body.length + 1);
    const chunks = [body.slice(0, cut), body.slice(cut)].filter((chunk) => chunk !== "");
    whole = chunks.map((chunk) => `${chunk.length.toString(16)};x=y${end}${chunk}\r\n`).join("") +
      `0${end}${random.next() < 0.3 ? `Date: trailer${end}` : ""}${end}`;
  }
  if (kind === "none" || kind === "head") whole = "";
  return [...lines, "", ""].join(end) + whole;
}

seededTest(
  "dates are found in heads of every framing, whole or broken, as the twin does",
  (random) => {
    const digests = new Digests();
    for (let round = 0; round < rounds(150); round++) {
      let text = random.next() < 0.05 ? "HTTP/2 " : "";
      for (let i = random.integer(6); i >= 0; i--) text += response(random, random.integer(60));
      const stream = octetsOf(text);
      // Now and then an octet is another, so that heads and sizes are broken.
      if (random.next() < 0.3) stream[random.integer(stream.length)] = random.integer(256);
      compareAtCuts(digests, stream, random);
    }
  },
);

Deno.test("a Date of another second counts as the same, and every other octet does not", () => {
  const digests = new Digests();
  const stream = (date: string, body: string) =>
    octetsOf(
      "HTTP/1.1 200 OK\r\nServer: nginx\r\n" +
        `Date: ${date}\r\nContent-Length: ${body.length}\r\n\r\n${body}` +
        `HTTP/1.1 304 Not Modified\r\nDate: ${date}\r\nETag: "1"\r\n\r\n` +
        `HTTP/1.1 200 OK\r\nDate: ${date}\r\nTransfer-Encoding: chunked\r\n\r\n` +
        `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n` +
        `HTTP/1.1 200 OK\r\nDate: ${date}\r\nContent-Length: 7\r\n\r\n` +
        `HTTP/1.1 200 OK\r\nDate: ${date}\r\nContent-Length: 0\r\n\r\n`,
    );
  const dates = ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"];
  const [one, two] = dates.map((date) => stream(date, "Date: Sun, 06 Nov 1994"));
  strictEqual(datesOf(one).length, 5);
  strictEqual(digests.of(one), digests.of(two));
  const masked = new Set(
    datesOf(one).flatMap(([a, b]) => Array.from({ length: b - a }, (_, i) => a + i)),
  );
  const value = digests.of(one);
  for (let i = 0; i < one.length; i++) {
    const changed = one.slice();
    changed[i] ^= 1;
    strictEqual(digests.of(changed) === value, masked.has(i), `octet ${i}`);
  }
  // Not in a stream of something else, and not in a body.
  const other = dates.map((date) => octetsOf(`SMTP\r\nDate: ${date}\r\n`));
  notStrictEqual(digests.of(other[0]), digests.of(other[1]));
  const bodies = dates.map((date) =>
    octetsOf(`HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n\r\nDate: ${date}\r\n`)
  );
  ok(bodies[0].length > 0);
  notStrictEqual(digests.of(bodies[0]), digests.of(bodies[1]));
  deepStrictEqual(datesOf(bodies[0]), []);
});
