/**
 * client.ts - the client that sees what is measured
 *
 * Theory of operation
 * One run makes one measurement and prints one JSON document on standard output. It knows nothing
 * of Holdfast; anything unusual on a connection is an error and exit status 1. Arrival times are taken
 * right after recv(2) returns (send(2) for uploads) by the clock that every process here shares.
 *
 *   download OCTETS   from the source                         -> Transfer
 *   paced OCTETS      from the paced source; says on standard error how far it is      -> Transfer
 *   upload OCTETS     to the sink; the end is its answer      -> Transfer
 *   pingpong COUNT    PING_OCTETS to the echo server and back, one at a time   -> PingPong
 *   connects COUNT    opens so many connections to the echo server, one at a time; each carries an octet
 *                     there and back                            -> Connects
 *   exchanges COUNT OCTETS  a request and an answer of OCTETS, so many times on one connection  -> Exchanges
 *   logged OCTETS     uploads so many octets; after a line on standard input one more, and waits for the
 *                     answer to all of it                       -> Logged
 *   crowd COUNT EXCHANGES   opens so many connections, if they are few again and again; then each carries
 *                     EXCHANGE_OCTETS there and back, EXCHANGES times in all     -> Crowd
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
  EXCHANGE_OCTETS,
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
/** Connections of a crowd that are opened at least, so that their CPU is more than a clock tick. */
const OPENS_LEAST = 1000;
/** How long a held connection may take to answer, milliseconds. */
const HELD_TIMEOUT_MS = 60_000;
/** Between two lines about how far a paced stream is, milliseconds. */
const TELL_MS = 20;
/** Clock ticks of a second in /proc/stat; proc_stat(5). */
const TICKS = 100;

/** What a transfer saw. */
export interface Transfer {
  /** Octets moved, all of those asked for. */
  octets: number;
  /** From the request to the last octet (download) or to the server's answer (upload). */
  seconds: number;
  /** CPU that the whole machine used meanwhile, seconds. */
  cpuSeconds: number;
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

/** What many connections saw; CPU is that of the whole machine, of client and server too. */
export interface Crowd {
  /** Connections opened, each used once. */
  opens: number;
  /** For all of them. */
  openSeconds: number;
  /** CPU for all of them, seconds. */
  openCpuSeconds: number;
  /** Exchanges made. */
  exchanges: number;
  /** For all of them. */
  exchangeSeconds: number;
  /** CPU for all of them, seconds. */
  exchangeCpuSeconds: number;
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
  const cpuBefore = machineCpuSeconds();
  sendLength(fd, octets);
  console.error(STARTED);
  for (;;) {
    const length = receive(fd, memory);
    recorder.note(length);
    if (length === 0) break;
  }
  closeAll(fd);
  return transferOf(recorder, { expected: octets, cpuBefore });
}

function paced(octets: number, address: string): Transfer {
  const fd = dial(address, PORTS.pace);
  const memory = new Memory(PIECE_LENGTH);
  const recorder = new Recorder();
  const cpuBefore = machineCpuSeconds();
  sendLength(fd, octets);
  console.error(STARTED);
  let toldMs = 0;
  // Its end is the last octet: servers that are not even agree on the FIN only when both have come to it.
  while (recorder.octets < octets) {
    const length = receive(fd, memory);
    if (length === 0) break;
    recorder.note(length);
    if (performance.now() - toldMs < TELL_MS) continue;
    toldMs = performance.now();
    console.error(`octets ${recorder.octets}`);
  }
  closeAll(fd);
  return transferOf(recorder, { expected: octets, cpuBefore });
}

function upload(octets: number, address: string): Transfer {
  const fd = dial(address, PORTS.sink);
  const memory = new Memory(UPLOAD_PIECE_LENGTH);
  const recorder = new Recorder();
  const cpuBefore = machineCpuSeconds();
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
  return transferOf(recorder, { expected: octets, cpuBefore });
}

function transferOf(
  recorder: Recorder,
  { expected, cpuBefore }: { expected: number; cpuBefore: number },
): Transfer {
  const cpuSeconds = machineCpuSeconds() - cpuBefore;
  const { octets, startMs, endMs, gaps } = recorder.recording();
  if (octets !== expected) throw new Error(`${octets} octets moved in place of ${expected}`);
  return { octets, seconds: (endMs - startMs) / 1000, cpuSeconds, gaps };
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

async function crowd(count: number, address: string, total: number): Promise<Crowd> {
  let connections: Deno.TcpConn[] = [];
  const close = () => {
    for (const connection of connections) connection.close();
    connections = [];
  };
  const open = async () => {
    const connection = await Deno.connect({ hostname: address, port: PORTS.idle });
    connection.setNoDelay(true);
    await prove(connection);
    connections.push(connection);
  };
  const times = Math.ceil(OPENS_LEAST / count);
  const opened = await timed(async () => {
    for (let time = 0; time < times; time++) {
      close();
      await inGroups(count, open);
    }
  });
  console.error(STARTED);
  const exchanges = Math.max(count, total);
  const lanes = Math.min(TOGETHER, count);
  const payload = new Uint8Array(EXCHANGE_OCTETS);
  const exchanged = await timed(() =>
    inLanes(lanes, async (lane) => {
      const answer = new Uint8Array(EXCHANGE_OCTETS);
      for (let number = lane; number < exchanges; number += lanes) {
        // Each lane has connections of its own: `count` may be no multiple of `lanes`.
        const mine = Math.floor((count - lane - 1) / lanes) + 1;
        await exchange(connections[lane + (Math.floor(number / lanes) % mine) * lanes], {
          payload,
          answer,
        });
      }
    })
  );
  close();
  return {
    opens: count * times,
    openSeconds: opened.seconds,
    openCpuSeconds: opened.cpuSeconds,
    exchanges,
    exchangeSeconds: exchanged.seconds,
    exchangeCpuSeconds: exchanged.cpuSeconds,
  };
}

async function exchange(
  connection: Deno.TcpConn,
  { payload, answer }: { payload: Uint8Array; answer: Uint8Array },
): Promise<void> {
  await inTime(async () => {
    for (let sent = 0; sent < payload.length;) {
      sent += await connection.write(payload.subarray(sent));
    }
    for (let got = 0; got < payload.length;) {
      const length = await connection.read(answer);
      if (length === null) throw new Error("A connection has ended early");
      got += length;
    }
  });
}

/** Time and the machine's CPU that something takes. */
async function timed(
  act: () => Promise<void>,
): Promise<{ seconds: number; cpuSeconds: number }> {
  const [startMs, before] = [performance.now(), machineCpuSeconds()];
  await act();
  return {
    seconds: (performance.now() - startMs) / 1000,
    cpuSeconds: machineCpuSeconds() - before,
  };
}

/** CPU that everything on this machine has used so far, seconds. */
function machineCpuSeconds(): number {
  const [user, nice, system, , , irq, softirq] = Deno.readTextFileSync("/proc/stat")
    .split("\n")[0].trim().split(/\s+/).slice(1).map(Number);
  return (user + nice + system + irq + softirq) / TICKS;
}

/** Sends an octet and waits for it to come back. */
async function prove(connection: Deno.TcpConn): Promise<void> {
  await inTime(async () => {
    const octet = new Uint8Array([Math.floor(Math.random() * 256)]);
    await connection.write(octet);
    const answer = new Uint8Array(2);
    const length = await connection.read(answer);
    if (length !== 1 || answer[0] !== octet[0]) {
      throw new Error(`${length} octets, not the one sent`);
    }
  });
}

/** Rejects what takes longer than HELD_TIMEOUT_MS. */
async function inTime(act: () => Promise<void>): Promise<void> {
  const { promise, reject } = Promise.withResolvers<never>();
  const late = new Error(`No answer within ${HELD_TIMEOUT_MS} ms`);
  const timer = setTimeout(() => reject(late), HELD_TIMEOUT_MS);
  try {
    await Promise.race([act(), promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function inGroups(count: number, act: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  await inLanes(TOGETHER, async () => {
    while (next < count) await act(next++);
  });
}

async function inLanes(count: number, act: (lane: number) => Promise<void>): Promise<void> {
  await Promise.all(Array.from({ length: count }, (_, lane) => act(lane)));
}

const MEASUREMENTS = {
  download,
  paced,
  upload,
  pingpong,
  connects,
  exchanges,
  logged,
  crowd,
  hold,
};
/** What the client can measure. */
export type Measurement = keyof typeof MEASUREMENTS;

if (import.meta.main) {
  const [measurement, address, ...numbers] = Deno.args;
  const measure = MEASUREMENTS[measurement as Measurement];
  const [number, more] = numbers.map(Number);
  console.log(JSON.stringify(await measure(number, address, more)));
}
