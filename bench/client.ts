/**
 * client.ts - the client that sees what is measured
 *
 * Theory of operation
 * One run makes one measurement and prints one JSON document on standard output. It knows nothing
 * of Holdfast; anything unusual on a connection is an error and exit status 1. Arrival times are taken
 * right after recv(2) returns (send(2) for uploads) by the clock that every process here shares.
 *
 *   download OCTETS   from the source                         -> Transfer
 *   upload OCTETS     to the sink; the end is its answer      -> Transfer
 *   pingpong COUNT    PING_OCTETS to the echo server and back, one at a time   -> PingPong
 *   connects COUNT    opens so many connections to the echo server, one at a time; each carries an octet
 *                     there and back                            -> Connects
 *   exchanges COUNT OCTETS  a request and an answer of OCTETS, so many times on one connection  -> Exchanges
 *   logged OCTETS     uploads so many octets; after a line on standard input one more, and waits for the
 *                     answer to all of it                       -> Logged
 *   hold COUNT        opens so many connections and proves each with an octet; after a line on standard
 *                     input proves each again                                  -> Held
 *
 * When a transfer has begun, all connections are held, or all but the last octet was sent, it says STARTED on standard error.
 *
 * Run it: deno run -A bench/client.ts MEASUREMENT ADDRESS NUMBER ...
 */

import { closeAll, Memory } from "../runtime/io/libc.ts";
import { type Gap, Recorder } from "../runtime/lab/recorder.ts";
import { percentile } from "./statistics.ts";
import {
  dial,
  PIECE_LENGTH,
  PORTS,
  receive,
  receiveExactly,
  receiveLength,
  REQUEST_LENGTH,
  sendAll,
  sendLength,
  unacknowledged,
} from "./wire.ts";

/** Says on standard error that the measurement has begun. */
export const STARTED = "started";
/** Payload of a ping. */
const PING_OCTETS = 64;
/** Pings that are not counted. */
const WARM_UP = 500;
/** An upload is given to the kernel in pieces of this many octets, so that stalls are seen soon. */
const UPLOAD_PIECE_LENGTH = 64 * 1024;
/** Connections that are opened, or proved, at the same time. */
const TOGETHER = 64;
/** How long a held connection may take to answer, milliseconds. */
const HELD_TIMEOUT_MS = 30_000;

/** What a transfer saw. */
export interface Transfer {
  /** Octets moved, all of those asked for. */
  octets: number;
  /** From the request to the last octet (download) or to the server's answer (upload). */
  seconds: number;
  /** Longest times in which nothing moved, longest first. */
  gaps: Gap[];
}

/** What a ping-pong saw; times are microseconds. */
export interface PingPong {
  /** Median round trip. */
  p50Us: number;
  /** Round trip that 1 % exceed. */
  p99Us: number;
}

/** What opening connections saw. */
export interface Connects {
  /** Connections opened, used and closed. */
  count: number;
  /** For all of them. */
  seconds: number;
}

/** What exchanges saw. */
export interface Exchanges {
  /** From the first request to the last octet of the last answer. */
  seconds: number;
}

/** What a client saw whose server died after an upload. */
export interface Logged {
  /** From the last octet, sent right after the death, until the answer. */
  answerMs: number;
}

/** What holding connections saw. */
export interface Held {
  /** Connections that answered before. */
  opened: number;
  /** Those of them that did not answer afterwards. */
  lost: number;
  /** What the first that failed said; null when none did. */
  firstError: string | null;
  /** From the line on standard input until all had answered, milliseconds. */
  exchangeMs: number;
}

function download(octets: number, address: string): Transfer {
  const fd = dial(address, PORTS.source);
  const memory = new Memory(PIECE_LENGTH);
  const recorder = new Recorder();
  sendLength(fd, octets);
  console.error(STARTED);
  for (;;) {
    const length = receive(fd, memory);
    recorder.note(length);
    if (length === 0) break;
  }
  closeAll(fd);
  return transferOf(recorder, octets);
}

function upload(octets: number, address: string): Transfer {
  const fd = dial(address, PORTS.sink);
  const memory = new Memory(UPLOAD_PIECE_LENGTH);
  const recorder = new Recorder();
  sendLength(fd, octets);
  console.error(STARTED);
  for (let left = octets; left > 0;) {
    const length = Math.min(left, memory.bytes.length);
    sendAll(fd, memory.address, length);
    recorder.note(length);
    left -= length;
  }
  const confirmed = receiveLength(fd);
  recorder.note(0);
  if (confirmed !== octets) throw new Error(`The sink confirmed ${confirmed} octets of ${octets}`);
  closeAll(fd);
  return transferOf(recorder, octets);
}

function transferOf(recorder: Recorder, expected: number): Transfer {
  const { octets, startMs, endMs, gaps } = recorder.recording();
  if (octets !== expected) throw new Error(`${octets} octets moved in place of ${expected}`);
  return { octets, seconds: (endMs - startMs) / 1000, gaps };
}

function pingpong(count: number, address: string): PingPong {
  const fd = dial(address, PORTS.echo);
  const memory = new Memory(PING_OCTETS);
  const timesUs: number[] = [];
  for (let number = -WARM_UP; number < count; number++) {
    const startMs = performance.now();
    sendAll(fd, memory.address, PING_OCTETS);
    const length = receiveExactly(fd, memory, PING_OCTETS);
    if (length !== PING_OCTETS) throw new Error(`Ping ${number} brought ${length} octets back`);
    if (number >= 0) timesUs.push((performance.now() - startMs) * 1000);
  }
  closeAll(fd);
  return { p50Us: percentile(timesUs, 50), p99Us: percentile(timesUs, 99) };
}

function connects(count: number, address: string): Connects {
  const memory = new Memory(1);
  const startMs = performance.now();
  for (let number = 0; number < count; number++) {
    const fd = dial(address, PORTS.echo);
    sendAll(fd, memory.address, 1);
    if (receiveExactly(fd, memory, 1) !== 1) {
      throw new Error(`Connection ${number} has ended early`);
    }
    closeAll(fd);
  }
  return { count, seconds: (performance.now() - startMs) / 1000 };
}

function exchanges(count: number, address: string, octets: number): Exchanges {
  const fd = dial(address, PORTS.answer);
  const memory = new Memory(PIECE_LENGTH);
  sendLength(fd, octets);
  const startMs = performance.now();
  for (let number = 0; number < count; number++) {
    sendAll(fd, memory.address, REQUEST_LENGTH);
    for (let left = octets; left > 0;) {
      const length = receive(fd, memory);
      if (length === 0 || length > left) throw new Error(`Answer ${number} has another length`);
      left -= length;
    }
  }
  const seconds = (performance.now() - startMs) / 1000;
  closeAll(fd);
  return { seconds };
}

async function logged(octets: number, address: string): Promise<Logged> {
  const fd = dial(address, PORTS.sink);
  const memory = new Memory(UPLOAD_PIECE_LENGTH);
  sendLength(fd, octets + 1);
  for (let left = octets; left > 0;) {
    const length = Math.min(left, memory.bytes.length);
    sendAll(fd, memory.address, length);
    left -= length;
  }
  while (unacknowledged(fd) > 0) await new Promise((resolve) => setTimeout(resolve, 1));
  console.error(STARTED);
  await Deno.stdin.read(new Uint8Array(16));
  const startMs = performance.now();
  sendAll(fd, memory.address, 1);
  const confirmed = receiveLength(fd);
  if (confirmed !== octets + 1) throw new Error(`The sink confirmed ${confirmed}, not all octets`);
  const answerMs = performance.now() - startMs;
  closeAll(fd);
  return { answerMs };
}

async function hold(count: number, address: string): Promise<Held> {
  const connections: Deno.TcpConn[] = [];
  await inGroups(count, async () => {
    const connection = await Deno.connect({ hostname: address, port: PORTS.idle });
    await prove(connection);
    connections.push(connection);
  });
  console.error(STARTED);
  await Deno.stdin.read(new Uint8Array(16));
  const startMs = performance.now();
  let lost = 0;
  let firstError: string | null = null;
  await inGroups(count, async (index) => {
    try {
      await prove(connections[index]);
    } catch (error) {
      lost++;
      firstError ??= String(error);
    }
  });
  const exchangeMs = performance.now() - startMs;
  for (const connection of connections) connection.close();
  return { opened: count, lost, firstError, exchangeMs };
}

/** Sends an octet and waits for it to come back. */
async function prove(connection: Deno.TcpConn): Promise<void> {
  const { promise, reject } = Promise.withResolvers<never>();
  const late = new Error(`No answer within ${HELD_TIMEOUT_MS} ms`);
  const timer = setTimeout(() => reject(late), HELD_TIMEOUT_MS);
  try {
    const octet = new Uint8Array([Math.floor(Math.random() * 256)]);
    await connection.write(octet);
    const answer = new Uint8Array(2);
    const length = await Promise.race([connection.read(answer), promise]);
    if (length !== 1 || answer[0] !== octet[0]) {
      throw new Error(`${length} octets, not the one sent`);
    }
  } finally {
    clearTimeout(timer);
  }
}

async function inGroups(count: number, act: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async () => {
    while (next < count) await act(next++);
  };
  await Promise.all(Array.from({ length: TOGETHER }, lane));
}

const MEASUREMENTS = { download, upload, pingpong, connects, exchanges, logged, hold };
/** What the client can measure. */
export type Measurement = keyof typeof MEASUREMENTS;

if (import.meta.main) {
  const [measurement, address, ...numbers] = Deno.args;
  const measure = MEASUREMENTS[measurement as Measurement];
  const [number, more] = numbers.map(Number);
  console.log(JSON.stringify(await measure(number, address, more)));
}
