/**
 * core.ts - what the packet core costs per segment, beside the same work in TypeScript and in C
 *
 * Theory of operation
 * benny measures each case in samples of many repetitions; every sample is a value of the series, in
 * nanoseconds for one segment, record, look-up or sum, so that all cases can be compared. The core is
 * called as the daemon calls it: passes with a full batch, packets in its memory. Nothing here needs root.
 *
 *   checksum   RFC 1071 sum by length; GB/s beside nanoseconds
 *   digest     what output streams are compared by, for the next segment of a stream; GB/s too
 *   translate  a segment from parse to output list, its connection among the living (core_scene.ts). The
 *              time to put the segment back is in it, and stands beside it ("put back")
 *   lookup     look-ups of random connections among 1000, 100,000 and 1,000,000
 *   log        a standby stores segments, feeds them to its server and forgets them when it has them: 32
 *              in a message, one by one, and 32 with the last octets first (reassembly); then 16 messages of
 *              32, step by step: append, feed (the feeder), forget
 *   messages   progress of 1000 connections written and taken; envelopes and beats (CBOR)
 *   memory     octets of core memory for an idle connection that has asked once
 *
 * "ts" is the plain twin of the tests (test/unit/twin.ts): octet by octet, checksums computed anew. "c" is
 * core_twin.c. The twins do a part of the work: what each leaves out stands in core_twin.c, and the plain
 * translator builds the whole packet again. A twin that does not exist for a case is left out.
 */

import { deepStrictEqual, strictEqual } from "node:assert/strict";
import benny from "benny";
import { decodeBeat, decodeFrame, encodeBeat, encodeFrame } from "../runtime/protocol/message.ts";
import { decodeRecords, encodeProgress } from "../test/unit/core_driver.ts";
import { Octets } from "../test/unit/octets.ts";
import { digestOf, parsePacket, sumOf, translate } from "../test/unit/twin.ts";
import { loadNative, type Native } from "./core_native.ts";
import {
  Continued,
  Follower,
  Hot,
  type Mix,
  MIXES,
  populate,
  type Population,
  STEP_MESSAGES,
} from "./core_scene.ts";
import { readOptions } from "./options.ts";
import { Report } from "./report.ts";
import { summarize } from "./statistics.ts";

const LENGTHS = [20, 64, 256, 576, 1448, 9000, 65_536] as const;
const POPULATIONS = [1000, 100_000, 1_000_000] as const;
/** Look-ups of one repetition; they are not in the order of the table. */
const LOOKUPS = 4096;
const LOG_SEGMENT = 1448;
const LOG_TOGETHER = 32;
const MESSAGE_RECORDS = 1000;
/** Octets that the C twin works on: a batch of slots, a packet to put back, 64 KiB to sum up. */
const NATIVE_OCTETS = 4 << 20;
const NATIVE_SOURCE = 3 << 20;
const NATIVE_SLOT = 65_552;
/** Shortest sum for which the target of RATIO_LEAST is set: below it the call itself is in the way. */
const RATIO_LENGTH = 576;
const RATIO_LEAST = 8;
/** Length and rate of the sum that is to be reached. */
const CHECKSUM_LENGTH = 65_536;
const CHECKSUM_GBPS_LEAST = 20;
/** All memory of an instance for 1,000,000 connections, MiB. */
const INSTANCE_MIB_MOST = 1024;
const IDLE_OCTETS_MOST = 1024;
const LOOKUP_NS_MOST = 100;
/** How much longer than C a translation may take. */
const NATIVE_RATIO_MOST = 1.5;

const WHERE_TRANSLATE =
  "The core also judges whether the segment is acceptable and follows windows and what the client has been " +
  "shown, where the C twin parses, looks up, shifts and repairs alone";

const WHERE_LOOKUP =
  "Two loads that miss the caches and the TLB, of the table and of the record, which a packet needs in any case; " +
  "the C twin's keys lie side by side. Huge pages would take a fifth off (ARCHITECTURE, Where the time goes)";
const WHERE_INSTANCE =
  "Of each connection its request is kept in a block of 256 octets, for a standby that comes later, and only " +
  "while half of all blocks are free; records and tables alone take 0.7 KiB each";

const USAGE = `Usage: bench core [OPTION ...]
  --samples N       least samples of a case (20; --quick 5)
  --quick           a smaller run, without 1,000,000 connections
  --add             keep the figures of an earlier run in FILE, and add these
  --against FILE    compare with the JSON of an earlier run
  --out FILE        where the JSON goes (bench/out/core.json)`;

interface Options {
  samples: number;
  quick: boolean;
}

/** One way to do the same work. */
interface Way {
  /** "wasm", "ts", "c" or what it is. */
  name: string;
  /** Does it; `things` times. */
  act: () => unknown;
  /** How many segments, records, look-ups or sums that is. */
  things: number;
}

/**
 * Runs the measurements.
 *
 * @param args See USAGE.
 * @returns Exit status: 0 all was measured, 1 something failed, 2 wrong use.
 */
export async function benchCore(args: string[]): Promise<number> {
  const read = readOptions(args, {
    suite: "core",
    usage: USAGE,
    numbers: { samples: { usual: 20, quick: 5 } },
    words: [],
  });
  if (typeof read === "number") return read;
  const options: Options = { samples: read.numbers.samples, quick: read.quick };
  const report = new Report("core", options);
  if (read.add) await report.load(read.out);
  await report.printHeader();
  report.expect(7);
  const bench = new CoreBench(report, options);
  await report.attempt("C twin", () => bench.loadNative());
  await report.attempt("checksum", () => bench.measureChecksum());
  await report.attempt("digest", () => bench.measureDigest());
  await report.attempt("translate", () => bench.measureTranslate());
  await report.attempt("lookup", () => bench.measureLookup());
  await report.attempt("log", () => bench.measureLog());
  await report.attempt("messages", () => bench.measureMessages());
  const sections = [
    "checksum",
    "digest",
    "translate",
    "lookup",
    "log",
    "messages",
    "memory",
    "ratio",
  ];
  for (const section of sections) report.print(section);
  report.printTargets();
  if (read.against !== null) await report.printAgainst(read.against);
  await report.write(read.out);
  return report.hasFailures ? 1 : 0;
}

class CoreBench {
  readonly #report: Report;
  readonly #options: Options;
  #native: Native | null = null;

  constructor(report: Report, options: Options) {
    this.#report = report;
    this.#options = options;
  }

  async loadNative(): Promise<void> {
    this.#native = await loadNative(NATIVE_OCTETS);
    if (this.#native === null) this.#report.skip("C twin", "there is no C compiler (cc)");
    else this.#report.note("C compiler", this.#native.compiler);
  }

  async measureChecksum(): Promise<void> {
    const population = populate(1);
    const { wasm, bytes } = population.core;
    const at = wasm.inbox();
    for (let i = 0; i < 65_536; i++) bytes[at + i] = i * 7;
    for (const length of LENGTHS) {
      const octets = bytes.slice(at, at + length);
      const ways: Way[] = [
        { name: "wasm", act: () => wasm.checksum(at, length, 0), things: 1 },
        { name: "ts", act: () => sumOf(octets), things: 1 },
      ];
      const expected = sumOf(octets);
      strictEqual(swapped(wasm.checksum(at, length, 0)), expected);
      if (this.#native !== null) {
        const { c, memory } = this.#native;
        memory.set(octets);
        strictEqual(swapped(c.twin_sum(0, length)), expected);
        ways.push({ name: "c", act: () => c.twin_sum(0, length), things: 1 });
      }
      const what = `${length} octets`;
      const medians = await this.#compare("checksum", what, ways);
      for (const [name, ns] of medians) {
        this.#report.add("checksum", {
          series: `${what} | ${name} | rate`,
          unit: "GB/s",
          value: length / ns,
        });
      }
      if (length >= RATIO_LENGTH) {
        this.#report.target("ratio", `checksum, ${what}: ts / wasm`, { atLeast: RATIO_LEAST });
      }
      if (length === CHECKSUM_LENGTH) {
        this.#report.target("checksum", `${what} | wasm | rate`, { atLeast: CHECKSUM_GBPS_LEAST });
      }
    }
  }

  async measureDigest(): Promise<void> {
    const { wasm, bytes } = populate(1).core;
    const [digest, at] = [wasm.body(), wasm.inbox()];
    for (let i = 0; i < 65_536; i++) bytes[at + i] = i * 7;
    for (const length of LENGTHS) {
      const octets = bytes.slice(at, at + length);
      strictEqual(BigInt.asUintN(64, wasm.digest(digest, at, length, 1)), digestOf(octets));
      const what = `${length} octets`;
      const ways: Way[] = [
        { name: "wasm", act: () => wasm.digest(digest, at, length, 0), things: 1 },
        { name: "ts", act: () => digestOf(octets), things: 1 },
      ];
      if (this.#native !== null) {
        const { c, memory } = this.#native;
        memory.set(octets);
        strictEqual(c.twin_digest(0, length), digestOf(octets));
        ways.push({ name: "c", act: () => c.twin_digest(0, length), things: 1 });
      }
      const medians = await this.#compare("digest", what, ways);
      for (const [name, ns] of medians) {
        const series = `${what} | ${name} | rate`;
        this.#report.add("digest", { series, unit: "GB/s", value: length / ns });
      }
    }
  }

  async measureTranslate(): Promise<void> {
    const ratios: number[] = [];
    for (const mix of MIXES) {
      const scene = new Continued(mix);
      const { packet, shift, count } = scene;
      const ways: Way[] = [
        { name: "wasm", act: () => scene.pass(), things: count },
        { name: "put back", act: () => scene.restore(), things: count },
        { name: "ts", act: () => translate(packet, shift), things: 1 },
      ];
      if (this.#native !== null) ways.push(nativeTranslate(this.#native, mix, scene));
      const medians = await this.#compare("translate", mix.name, ways);
      const [own, native] = [medians.get("wasm"), medians.get("c")];
      if (own === undefined || native === undefined) continue;
      ratios.push(own / native);
    }
    const { median, max } = summarize(ratios);
    for (const [which, value] of [["median", median], ["worst", max]] as const) {
      this.#report.targetValue(`translate, ${which} of all mixes: wasm / c`, { unit: "x", value }, {
        atMost: NATIVE_RATIO_MOST,
        where: WHERE_TRANSLATE,
      });
    }
  }

  async measureLookup(): Promise<void> {
    for (const count of POPULATIONS.filter((count) => !this.#options.quick || count < 1_000_000)) {
      const population = populate(count);
      const what = `${count.toLocaleString("en")} connections`;
      await this.#compare("lookup", what, lookups(population, this.#native));
      const series = `idle connection that has asked once, among ${count.toLocaleString("en")}`;
      const value = population.usedOctets / count;
      this.#report.add("memory", { series, unit: "octets", value });
      this.#report.add("memory", {
        series: `instance for ${what}`,
        unit: "MiB",
        value: population.memoryOctets / 2 ** 20,
      });
      const most = INSTANCE_MIB_MOST * count / 1_000_000;
      if (most >= INSTANCE_MIB_MOST) {
        this.#report.target("memory", `instance for ${what}`, {
          atMost: most,
          where: WHERE_INSTANCE,
        });
      }
      this.#report.target("memory", series, { atMost: IDLE_OCTETS_MOST });
      this.#report.target("lookup", `${what} | wasm`, {
        atMost: LOOKUP_NS_MOST,
        where: WHERE_LOOKUP,
      });
    }
  }

  async measureLog(): Promise<void> {
    const segment = LOG_SEGMENT;
    const octets = new Uint8Array(segment);
    const cases: [name: string, count: number, reversed: boolean][] = [
      [`${LOG_TOGETHER} segments in a message`, LOG_TOGETHER, false],
      ["segments one by one", 1, false],
      [`${LOG_TOGETHER} segments, last octets first`, LOG_TOGETHER, true],
    ];
    for (const [name, count, reversed] of cases) {
      const scene = new Follower(count, { length: segment, reversed });
      const plain = () => {
        const log = new Octets(count * segment + 1);
        for (let i = 0; i < count; i++) {
          log.put((reversed ? count - 1 - i : i) * segment, octets);
        }
        return log.next;
      };
      const ways: Way[] = [
        { name: "wasm", act: () => scene.round(), things: count },
        { name: "ts (log only)", act: plain, things: count },
      ];
      if (this.#native !== null) {
        const { c } = this.#native;
        const act = () => c.twin_log(0, segment, count, reversed ? 1 : 0, NATIVE_SOURCE);
        strictEqual(act(), count * segment, "the C twin of the log");
        ways.push({ name: "c (copies only)", act, things: count });
      }
      await this.#compare("log", name, ways);
    }
    const scene = new Follower(LOG_TOGETHER, { length: segment, reversed: false });
    for (let i = 0; i < this.#options.samples; i++) {
      for (const [step, ms] of Object.entries(scene.steps(STEP_MESSAGES))) {
        const value = ms * 1e6 / (STEP_MESSAGES * LOG_TOGETHER);
        this.#report.add("log", { series: `${step} | wasm`, unit: "ns", value });
      }
    }
  }

  async measureMessages(): Promise<void> {
    const scene = new Hot(MESSAGE_RECORDS);
    const { message, count } = scene;
    const progress = { cliAck: 1, ackShown: 2, edgeShown: 3, sndShown: 4 };
    await this.#compare("messages", "progress record, written", [
      { name: "wasm", act: () => scene.write(), things: count },
      { name: "ts", act: () => encodeProgress(1, progress), things: 1 },
    ]);
    await this.#compare("messages", "progress record, taken", [
      { name: "wasm", act: () => scene.apply(), things: count },
      { name: "ts (decoded only)", act: () => decodeRecords(message), things: count },
    ]);
    const frame = {
      kind: "data",
      epoch: 3,
      seq: 70_000,
      committed: 69_999,
      bodyLength: 1500,
      further: [],
    };
    const data = frame as Parameters<typeof encodeFrame>[0];
    const encoded = encodeFrame(data);
    const services = Array.from({ length: 3 }, (_, i) => ({
      name: `service ${i}`,
      role: "primary" as const,
      epoch: 3,
      ready: true,
      asking: false,
      voided: 0,
      invites: true,
      counted: 0,
    }));
    const beat = {
      kind: "beat" as const,
      node: "a",
      incarnation: 12_345_678,
      seq: 1000,
      echoSeq: 999,
      echoDelayUs: 1200,
      services,
    };
    const beatBytes = encodeBeat(beat);
    const ways: [string, () => unknown][] = [
      ["envelope of a message, encoded", () => encodeFrame(data)],
      ["envelope of a message, decoded", () => decodeFrame(encoded)],
      ["beat of 3 services, encoded", () => encodeBeat(beat)],
      ["beat of 3 services, decoded", () => decodeBeat(beatBytes)],
    ];
    for (const [what, act] of ways) {
      await this.#compare("messages", what, [{ name: "cbor-x", act, things: 1 }]);
    }
  }

  /** Measures each way; nanoseconds of one thing by name, and the ratios to "wasm". */
  async #compare(section: string, what: string, ways: Way[]): Promise<Map<string, number>> {
    const { samples, quick } = this.#options;
    const medians = new Map<string, number>();
    const summary = await benny.suite(
      what,
      ...ways.map(({ name, act }) => benny.add(name, () => void act())),
      benny.configure({
        cases: { minSamples: samples, minTime: 0.005, maxTime: quick ? 0.05 : 0.3 },
      }),
    );
    for (const [index, { name, things }] of ways.entries()) {
      const seconds = summary.results[index].details.sampleResults;
      const values = seconds.map((second) => second * 1e9 / things);
      this.#report.addAll(section, { series: `${what} | ${name}`, unit: "ns", values });
      medians.set(name, summarize(values).median);
    }
    const own = medians.get("wasm");
    for (const [name, ns] of medians) {
      if (own === undefined || name === "wasm" || name === "put back") continue;
      const series = `${section}, ${what}: ${name} / wasm`;
      this.#report.add("ratio", { series, unit: "x", value: ns / own });
    }
    return medians;
  }
}

/** The same segment through the C twin, whose outcome must be the plain twin's. */
function nativeTranslate({ c, memory }: Native, mix: Mix, scene: Continued): Way {
  const { packet, shift, count } = scene;
  const fromServer = mix.from === "server" ? 1 : 0;
  const { source, destination, sourcePort, destinationPort, payload } = parsePacket(packet);
  const client = new DataView(new ArrayBuffer(16));
  new Uint8Array(client.buffer).set(fromServer ? destination : source);
  const words = [0, 4, 8, 12].map((at) => client.getUint32(at, true));
  const ports = fromServer
    ? destinationPort | sourcePort << 16
    : sourcePort | destinationPort << 16;
  if (c.twin_table(1) === 0) throw new Error("No memory for a C table");
  c.twin_insert(0, words[0], words[1], words[2], words[3], ports);
  c.twin_shift(shift.seq ?? 0, shift.ack ?? 0, shift.tsVal ?? 0, shift.tsEcr ?? 0);
  memory.set(packet, NATIVE_SOURCE);
  for (let i = 0; i < count; i++) memory.set(packet, i * NATIVE_SLOT);
  const head = packet.length - payload.length;
  const { length } = packet;
  const act = () =>
    c.twin_translate(0, NATIVE_SOURCE, head, length, count, NATIVE_SLOT, fromServer);
  strictEqual(act(), count, `${mix.name}: the C twin refuses it`);
  const expected = translate(packet, { ...shift, window: undefined });
  deepStrictEqual(memory.slice(0, length), expected, `${mix.name}: the C twin`);
  return { name: "c", act, things: count };
}

function lookups({ core, keys }: Population, native: Native | null): Way[] {
  const { wasm } = core;
  const count = keys.ports.length;
  const order = Uint32Array.from({ length: LOOKUPS }, (_, i) => (i * 2_654_435_761) % count);
  const plain = new Map<number, number>();
  for (let i = 0; i < count; i++) plain.set(plainKey(keys, i), i + 1);
  const find = (index: number) => wasm.find(keys.address[index], 0, 0, 0, keys.ports[index]);
  const ways: Way[] = [
    { name: "wasm", act: () => every(order, find), things: LOOKUPS },
    {
      name: "ts (Map)",
      act: () => every(order, (index) => plain.get(plainKey(keys, index)) ?? 0),
      things: LOOKUPS,
    },
  ];
  if (native === null) return ways;
  const { c } = native;
  if (c.twin_table(count) === 0) throw new Error(`No memory for a C table of ${count}`);
  for (let i = 0; i < count; i++) c.twin_insert(i, keys.address[i], 0, 0, 0, keys.ports[i]);
  const twin = (index: number) => c.twin_find(keys.address[index], keys.ports[index]);
  return [...ways, { name: "c", act: () => every(order, twin), things: LOOKUPS }];
}

function plainKey({ address, ports }: Population["keys"], index: number): number {
  return address[index] * 65_536 + (ports[index] & 0xffff);
}

/** Looks all up and makes sure that each is found. */
function every(order: Uint32Array, find: (index: number) => number): void {
  for (let i = 0; i < order.length; i++) {
    if (find(order[i]) !== order[i] + 1) throw new Error(`Cannot find connection ${order[i]}`);
  }
}

function swapped(sum: number): number {
  return (sum & 0xff) << 8 | sum >> 8;
}

if (import.meta.main) Deno.exit(await benchCore(Deno.args));
