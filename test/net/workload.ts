/**
 * workload.ts - many connections of different kinds at once, each checking every octet
 *
 * Theory of operation
 * The program prints "workload ready" and waits for a line on standard input: the moment that line
 * arrives is time 0. All connections but those of kind `handshake` open then, and are paced so that
 * they are in the middle of their work `momentMs` later, when the caller lets the fault strike; they
 * end at about `durationMs`. A paced connection moves its octets evenly over its time, a piece every
 * PACE_MS, so each kind meets the fault in its characteristic state:
 *
 *   download     octets arrive                           verified against the pattern
 *   upload       octets leave                            the server's SHA-256 of them is compared
 *   echo         both at once                            verified while sending goes on
 *   keepalive    one small request after the other       each answer verified
 *   stall        nothing is read, the window is zero     goes on `stallMs` after the moment
 *   client-fin   the client has ended its direction      the server's octets still arrive
 *   server-fin   the server has ended its direction      the client's octets still leave
 *   silent       nothing at all for `silentMs`           an exchange before, an exchange after
 *   handshake    SYNs spread across the moment           then an exchange
 *   think        the server rests for `silentMs`         an upload meanwhile, an answer after that
 *   bulk         `bulkOctets` arrive as fast as can be   verified; like `think` not part of the usual mix
 *
 * A connection fails on a reset, an early end, a wrong octet or a deadline; the message says which
 * connection, what it was doing and how far it had come. All run to their end whatever happens to
 * the others. The result is one JSON line (WorkloadResult); the exit status is 1 if any failed.
 *
 * Usage: deno run -A test/net/workload.ts --address A [--port 80] [--connections 200]
 *          [--mix KIND,KIND,...] [--seed N] [--duration-ms 8000] [--moment-ms 3000]
 *          [--silent-ms 6000] [--stall-ms 2500] [--rate OCTETS_PER_SECOND] [--bulk-octets N]
 */

import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { sleep } from "./conditions.ts";
import { Dialogue } from "./dialogue.ts";
import { findMismatch, patternAt } from "./pattern.ts";
import { Random } from "./random.ts";

/** Time between two pieces of a paced transfer, milliseconds. */
const PACE_MS = 20;
/** A paced transfer moves between this share of `rate` and all of it. */
const RATE_SHARE_MIN = 0.2;
/** A stalled reader asks for so much more than all buffers on the way can hold. */
const STALL_OCTETS = 24 << 20;
/** SYNs of kind `handshake` leave within so many milliseconds of the moment, before and after. */
const HANDSHAKE_SPREAD_MS = 60;
/** Octets for a server that rests: more than its kernel takes without it. */
const THINK_OCTETS = 4 << 20;
/** Octets of the exchange that proves a connection alive. */
const EXCHANGE_OCTETS = 20_000;
/** Connections open within so many milliseconds of time 0. */
const OPEN_SPREAD_MS = 500;

/** The kinds of the usual mix, in the order in which they take turns. */
export const MIX = [
  "download",
  "upload",
  "echo",
  "keepalive",
  "stall",
  "client-fin",
  "server-fin",
  "silent",
  "handshake",
] as const;

/** One of the kinds of connection. */
export type Kind = typeof MIX[number] | "think" | "bulk";

/** How one connection fared. */
export interface ConnectionResult {
  /** Its kind. */
  kind: Kind;
  /** Octets it received. */
  received: number;
  /** Octets it sent. */
  sent: number;
  /** Longest wait for octets from the server, milliseconds; without meaning for `silent`. */
  largestWaitMs: number;
  /** Why it failed; absent when it did not. */
  error?: string;
}

/** What the program prints. */
export interface WorkloadResult {
  /** Seed of its random choices. */
  seed: number;
  /** Connections per kind that did all they should. */
  passed: Record<string, number>;
  /** Messages of the others. */
  failures: string[];
  /** All of them. */
  connections: ConnectionResult[];
}

/** What every connection of a run knows. */
interface Plan {
  address: string;
  port: number;
  durationMs: number;
  momentMs: number;
  silentMs: number;
  /** How long after the moment a stalled reader still reads nothing. */
  stallMs: number;
  /** Octets per second of the fastest paced transfer. */
  rate: number;
  /** Octets of a `bulk` transfer. */
  bulkOctets: number;
  /** `performance.now()` of time 0. */
  startMs: number;
}

/** What one connection works with. */
interface Task {
  plan: Plan;
  random: Random;
  name: string;
  /** Distinguishes this connection from all others, also those of other runs. */
  key: number;
}

const ACTIONS: Record<Kind, (dialogue: Dialogue, task: Task) => Promise<void>> = {
  download,
  upload,
  echo,
  keepalive,
  stall,
  "client-fin": clientFin,
  "server-fin": serverFin,
  silent,
  handshake: exchange,
  think,
  bulk,
};

/** Milliseconds since time 0. */
function elapsedMs(plan: Plan): number {
  return performance.now() - plan.startMs;
}

async function sleepUntil(plan: Plan, ms: number): Promise<void> {
  await sleep(Math.max(0, ms - elapsedMs(plan)));
}

function line(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\n`);
}

/** Octets that a paced transfer of this task moves by the end of the run. */
function pacedOctets({ plan, random }: Task): number {
  const leftSeconds = Math.max(0.1, (plan.durationMs - elapsedMs(plan)) / 1000);
  return Math.floor(plan.rate * random.between(RATE_SHARE_MIN, 1) * leftSeconds);
}

/** Calls `move` with offset and length of each piece, evenly until the end of the run. */
async function pace(
  { plan }: Task,
  octets: number,
  move: (offset: number, length: number) => Promise<void>,
): Promise<void> {
  const startMs = elapsedMs(plan);
  const spanMs = Math.max(1, plan.durationMs - startMs);
  for (let done = 0; done < octets;) {
    const share = Math.min(1, (elapsedMs(plan) - startMs + PACE_MS) / spanMs);
    const length = Math.ceil(octets * share) - done;
    if (length > 0) await move(done, length);
    done += Math.max(0, length);
    if (done < octets) await sleep(PACE_MS);
  }
}

/** Reads octets of the stream `name` and compares each. */
async function expectPattern(
  dialogue: Dialogue,
  name: number,
  range: { offset: number; length: number },
): Promise<void> {
  await dialogue.readExactly(range.length, (octets, done) => {
    const wrong = findMismatch(octets, name, range.offset + done);
    if (wrong < 0) return;
    throw dialogue.failure(`verify octet ${wrong} of the answer`, "it differs");
  });
}

/** Sends a piece of the stream `name`, in parts that the pattern can give. */
async function sendPattern(
  dialogue: Dialogue,
  name: number,
  range: { offset: number; length: number },
): Promise<void> {
  const partLength = 1 << 18;
  for (let done = 0; done < range.length; done += partLength) {
    const length = Math.min(partLength, range.length - done);
    await dialogue.write(patternAt(name, range.offset + done, length));
  }
}

function hashOfPattern(name: number, octets: number): string {
  const hash = createHash("sha256");
  const partLength = 1 << 18;
  for (let done = 0; done < octets; done += partLength) {
    hash.update(patternAt(name, done, Math.min(partLength, octets - done)));
  }
  return hash.digest("hex");
}

async function expectLine(dialogue: Dialogue, expected: string, what: string): Promise<void> {
  const found = await dialogue.readLine();
  if (found !== expected) throw dialogue.failure(`see ${what} ${expected}`, `it is '${found}'`);
}

async function finish(dialogue: Dialogue): Promise<void> {
  await dialogue.closeWrite();
  await dialogue.expectEnd();
}

async function download(dialogue: Dialogue, task: Task): Promise<void> {
  const octets = pacedOctets(task);
  await dialogue.write(line(`get ${task.key} ${octets}`));
  await pace(task, octets, (offset, length) => {
    return expectPattern(dialogue, task.key, { offset, length });
  });
  await finish(dialogue);
}

async function upload(dialogue: Dialogue, task: Task): Promise<void> {
  const octets = pacedOctets(task);
  await dialogue.write(line(`put ${octets}`));
  await pace(task, octets, (offset, length) => {
    return sendPattern(dialogue, task.key, { offset, length });
  });
  await expectLine(dialogue, hashOfPattern(task.key, octets), "the hash");
  await finish(dialogue);
}

async function echo(dialogue: Dialogue, task: Task): Promise<void> {
  const octets = pacedOctets(task);
  await dialogue.write(line("echo"));
  const sending = pace(task, octets, (offset, length) => {
    return sendPattern(dialogue, task.key, { offset, length });
  }).then(() => dialogue.closeWrite());
  await Promise.all([sending, expectPattern(dialogue, task.key, { offset: 0, length: octets })]);
  await dialogue.expectEnd();
}

async function keepalive(dialogue: Dialogue, task: Task): Promise<void> {
  const { plan, random, key } = task;
  for (let number = 0; elapsedMs(plan) < plan.durationMs; number++) {
    const name = key + number;
    const length = 1 + random.integer(40_000);
    await dialogue.write(line(`get ${name} ${length}`));
    await expectPattern(dialogue, name, { offset: 0, length });
    if (random.next() < 0.5) await sleep(random.between(0, 60));
  }
  await finish(dialogue);
}

async function stall(dialogue: Dialogue, { plan, key }: Task): Promise<void> {
  const first = 10_000;
  await dialogue.write(line(`get ${key} ${STALL_OCTETS}`));
  await expectPattern(dialogue, key, { offset: 0, length: first });
  await sleepUntil(plan, plan.momentMs + plan.stallMs);
  await expectPattern(dialogue, key, { offset: first, length: STALL_OCTETS - first });
  await finish(dialogue);
}

async function clientFin(dialogue: Dialogue, task: Task): Promise<void> {
  const octets = pacedOctets(task);
  await dialogue.write(line(`get ${task.key} ${octets}`));
  await dialogue.closeWrite();
  await pace(task, octets, (offset, length) => {
    return expectPattern(dialogue, task.key, { offset, length });
  });
  await dialogue.expectEnd();
}

async function serverFin(dialogue: Dialogue, task: Task): Promise<void> {
  const { plan, key } = task;
  const octets = pacedOctets(task);
  await dialogue.write(line(`fin ${key} ${EXCHANGE_OCTETS} ${key + 1}`));
  await expectPattern(dialogue, key + 1, { offset: 0, length: EXCHANGE_OCTETS });
  await dialogue.expectEnd();
  await pace(task, octets, (offset, length) => {
    return sendPattern(dialogue, key, { offset, length });
  });
  await dialogue.closeWrite();
  const asking = await Dialogue.connect(`${task.name} asking for its hash`, plan);
  try {
    await asking.write(line(`hash ${key}`));
    await expectLine(asking, hashOfPattern(key, octets), "the hash");
    await finish(asking);
  } finally {
    asking.close();
  }
}

/** Sends and receives a little, which a dead connection cannot. */
async function exchangeOnce(dialogue: Dialogue, key: number): Promise<void> {
  await dialogue.write(line(`put ${EXCHANGE_OCTETS}`));
  await sendPattern(dialogue, key, { offset: 0, length: EXCHANGE_OCTETS });
  await expectLine(dialogue, hashOfPattern(key, EXCHANGE_OCTETS), "the hash");
  await dialogue.write(line(`get ${key} ${EXCHANGE_OCTETS}`));
  await expectPattern(dialogue, key, { offset: 0, length: EXCHANGE_OCTETS });
}

async function silent(dialogue: Dialogue, { plan, key }: Task): Promise<void> {
  await exchangeOnce(dialogue, key);
  await sleep(plan.silentMs);
  await exchangeOnce(dialogue, key + 1);
  await finish(dialogue);
}

async function exchange(dialogue: Dialogue, { key }: Task): Promise<void> {
  await exchangeOnce(dialogue, key);
  await finish(dialogue);
}

async function think(dialogue: Dialogue, { plan, key }: Task): Promise<void> {
  await dialogue.write(line(`pause ${plan.silentMs}`));
  await dialogue.write(line(`put ${THINK_OCTETS}`));
  await sendPattern(dialogue, key, { offset: 0, length: THINK_OCTETS });
  await expectLine(dialogue, hashOfPattern(key, THINK_OCTETS), "the hash");
  await dialogue.write(line(`pause ${plan.silentMs}`));
  await exchangeOnce(dialogue, key);
  await finish(dialogue);
}

async function bulk(dialogue: Dialogue, { plan, key }: Task): Promise<void> {
  const length = plan.bulkOctets;
  await dialogue.write(line(`get ${key} ${length}`));
  await expectPattern(dialogue, key, { offset: 0, length });
  await finish(dialogue);
}

/** Runs one connection to its end, good or bad. */
async function runConnection(kind: Kind, task: Task): Promise<ConnectionResult> {
  const { plan, random, name } = task;
  const result: ConnectionResult = { kind, received: 0, sent: 0, largestWaitMs: 0 };
  const openMs = kind === "handshake"
    ? plan.momentMs + random.between(-HANDSHAKE_SPREAD_MS, HANDSHAKE_SPREAD_MS)
    : random.between(0, Math.min(OPEN_SPREAD_MS, plan.momentMs / 2));
  await sleepUntil(plan, openMs);
  let dialogue: Dialogue | undefined;
  try {
    dialogue = await Dialogue.connect(name, plan);
    await ACTIONS[kind](dialogue, task);
  } catch (error) {
    result.error = error instanceof Error ? error.message : String(error);
  }
  dialogue?.close();
  result.received = dialogue?.received ?? 0;
  result.sent = dialogue?.sent ?? 0;
  result.largestWaitMs = Math.round(dialogue?.largestWaitMs ?? 0);
  return result;
}

function summarize(seed: number, connections: ConnectionResult[]): WorkloadResult {
  const passed: Record<string, number> = {};
  const failures: string[] = [];
  for (const { kind, error } of connections) {
    if (error === undefined) passed[kind] = (passed[kind] ?? 0) + 1;
    else failures.push(error);
  }
  return { seed, passed, failures, connections };
}

function parseKinds(text: string): Kind[] {
  return text.split(",").map((word) => {
    const kind = (Object.keys(ACTIONS) as Kind[]).find((kind) => kind === word);
    if (kind === undefined) {
      throw new RangeError(`--mix holds '${word}', allowed are ${Object.keys(ACTIONS).join(", ")}`);
    }
    return kind;
  });
}

function parseCount(text: string, name: string): number {
  const count = Number(text);
  if (text !== "" && Number.isInteger(count) && count >= 0) return count;
  throw new RangeError(`--${name} is '${text}', allowed is a whole number from 0`);
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      address: { type: "string" },
      port: { type: "string", default: "80" },
      connections: { type: "string", default: "200" },
      mix: { type: "string", default: MIX.join(",") },
      seed: { type: "string", default: "1" },
      "duration-ms": { type: "string", default: "8000" },
      "moment-ms": { type: "string", default: "3000" },
      "silent-ms": { type: "string", default: "6000" },
      "stall-ms": { type: "string", default: "2500" },
      rate: { type: "string", default: "1000000" },
      "bulk-octets": { type: "string", default: "0" },
    },
  });
  if (values.address === undefined) throw new Error("Cannot start: --address is required");
  const kinds = parseKinds(values.mix);
  const seed = parseCount(values.seed, "seed");
  const random = new Random(seed);
  const plan: Plan = {
    address: values.address,
    port: parseCount(values.port, "port"),
    durationMs: parseCount(values["duration-ms"], "duration-ms"),
    momentMs: parseCount(values["moment-ms"], "moment-ms"),
    silentMs: parseCount(values["silent-ms"], "silent-ms"),
    stallMs: parseCount(values["stall-ms"], "stall-ms"),
    rate: parseCount(values.rate, "rate"),
    bulkOctets: parseCount(values["bulk-octets"], "bulk-octets"),
    startMs: 0,
  };
  const count = parseCount(values.connections, "connections");
  const tasks = Array.from({ length: count }, (_, index) => {
    const kind = kinds[index % kinds.length];
    const key = random.integer(2 ** 31);
    const task = { plan, random: new Random(random.seed()), name: `${kind} #${index}`, key };
    return { kind, task };
  });
  console.log("workload ready");
  await Deno.stdin.read(new Uint8Array(64));
  plan.startMs = performance.now();
  const results = await Promise.all(tasks.map(({ kind, task }) => runConnection(kind, task)));
  const result = summarize(seed, results);
  console.log(JSON.stringify(result));
  return result.failures.length === 0 ? 0 : 1;
}

if (import.meta.main) Deno.exit(await main());
