/**
 * path.ts - what a client sees of Holdfast when nothing fails: throughput and round trips
 *
 * Theory of operation
 * Real kernels in network namespaces (site.ts), a thin client and server of our own (client.ts,
 * server.ts). EVERYTHING SHARES ONE MACHINE: client, both hosts, both servers and the daemons compete for the
 * same cores, so a figure is only good beside the others of the same run. The paths take turns, one
 * after the other in each round, so that what else the machine does hits all alike; each has a site of its
 * own that exists only while it is measured. Before anything is counted each has some traffic (WARM), as a
 * daemon that has just been started compiles its code yet, for a second or two on a busy machine. A series
 * that could not be measured is listed with its reason.
 *
 *   bulk       octets of one connection per second, download and upload
 *   cpu        CPU for a GB of those: of the whole machine ("all"), and of each program in the path
 *   memory     the most main memory that each program in the path had until then; what log mode keeps of an
 *              upload, of at most 512 MiB, is in it
 *   pingpong   64 octets there and back, blocking calls, TCP_NODELAY
 *   connects   connections per second, one after the other; each carries an octet there and back
 *   requests   wrk with 50 connections and one thread asks nginx for 1 KiB, kept-alive connections
 *   crowd      1 to 10,000 connections that live at a time: opened per second, 64 at once; then 1 KiB there and
 *              back, 64 at once, all connections in turn. CPU is the whole machine's for one connection, and
 *              for a KiB that the client has sent and got back
 *
 * Heartbeat is 10 ms, and DETECT_CALM of them may be missed, so that a busy machine starts no takeover in
 * the middle of a figure. Takeovers are measured in takeover.ts.
 */

import type { Connects, Crowd, PingPong, Transfer } from "./client.ts";
import { readOptions } from "./options.ts";
import { hasProgram, Report } from "./report.ts";
import {
  connectionsMost,
  missingPeer,
  nginxWith,
  type PathName,
  PATHS,
  type Site,
  withSite,
} from "./site.ts";
import { EXCHANGE_OCTETS } from "./wire.ts";

const GIB = 2 ** 30;
/** Octets of a transfer in log mode: all of an upload is kept, up to 1 GiB with what frames it. */
const LOGGED_MAX = GIB / 2;
/** Octets of a transfer through QEMU, which is ten times as slow as the others. */
const QEMU_MAX = GIB / 8;
/** Ping-pongs and connections on a log on disk, which wait for the disk one by one. */
const [DISK_PINGS_MAX, DISK_CONNECTS_MAX] = [1000, 200];
const DETECT_CALM = 50;
/** What goes over a path before it is measured: octets each way, ping-pongs, connections, seconds of requests. */
const WARM = { octets: GIB / 8, pings: 2000, connects: 100, seconds: 2 } as const;
/** What nginx serves, and over how many connections it is asked. */
const FILE_OCTETS = 1024;
const REQUEST_CONNECTIONS = 50;
/** Connections of a crowd, and the paths that have one. */
const CROWDS = [1, 10, 100, 1000, 10_000] as const;
const QUICK_CROWDS = [100] as const;
const QUICK_PATHS: readonly PathName[] = ["plain", "haproxy", "hot", "log"];
const CROWD_PATHS: readonly PathName[] = ["plain", "haproxy", "alone", "hot", "log"];
/** Costs of a crowd are compared with those of so many connections. */
const CROWD_BASE = 100;
const CROWD_MOST = 10_000;
/** How much more each may cost: so much is noise, more is growth that is not linear. */
const GROWTH_MOST = 1.2;

const USAGE = `Usage: bench path [OPTION ...] [PART ...]
Parts: flow (one connection) requests crowd (all when none is named)
  --rounds N        rounds of all paths (5; --quick 1)
  --octets N        octets of a transfer (1 GiB; --quick 128 MiB)
  --pings N         ping-pongs of a round (10000; --quick 2000)
  --connects N      connections of a round (1000; --quick 200)
  --seconds N       requests of a round (2; --quick 1)
  --crowds N        rounds of 1 to 10,000 connections (1; --quick of 100 alone)
  --exchanges N     exchanges of a crowd (10000; --quick 2000)
  --quick           a smaller run, over four of the paths
  --add             keep the figures of an earlier run in FILE, and add these
  --against FILE    compare with the JSON of an earlier run
  --out FILE        where the JSON goes (bench/out/path.json)`;

interface Options {
  rounds: number;
  octets: number;
  pings: number;
  connects: number;
  seconds: number;
  crowds: number;
  exchanges: number;
}

const PARTS = ["flow", "requests", "crowd"] as const;
type Part = typeof PARTS[number];
const SECTIONS = ["bulk", "cpu", "memory", "pingpong", "connects", "requests", "crowd"] as const;

/** Where the time goes, by what was missed. */
const WHERE = {
  download:
    "Each octet is copied in and out of two TUNs by one thread: of its time a third is the client's own TCP, " +
    "run inside write(2), a third those copies, a tenth JavaScript and WebAssembly; both cores are busy " +
    "(ARCHITECTURE, Where the time goes)",
  upload:
    "Each octet passes three kernels' TCP, three TUN copies and the encrypted channel where plain routing has " +
    "one TCP; TUN write and channel send take 30 % each on the primary, the core 8 % (ARCHITECTURE, Where " +
    "the time goes)",
  requests:
    "Two servers, two loops and wrk share the cores that one server and wrk have otherwise; the loops' wake-ups " +
    "take 61 % of the CPU (ARCHITECTURE, Where the time goes)",
} as const;
/** How many times as much as over another path is wanted at least. */
const WANTED: readonly [
  what: keyof typeof WHERE,
  path: PathName,
  than: PathName,
  atLeast: number,
][] = [
  ["download", "alone", "plain", 0.85],
  ["download", "hot", "haproxy", 1.2],
  ["upload", "hot", "plain", 0.4],
  ["upload", "hot", "haproxy", 1],
  ["requests", "hot", "plain", 0.5],
  ["requests", "hot", "haproxy", 1],
];

/**
 * Runs the measurements.
 *
 * @param args See USAGE.
 * @returns Exit status: 0 all was measured, 1 something failed, 2 wrong use.
 */
export async function benchPath(args: string[]): Promise<number> {
  const read = readOptions(args, {
    suite: "path",
    usage: USAGE,
    numbers: {
      rounds: { usual: 5, quick: 1 },
      octets: { usual: GIB, quick: GIB / 8 },
      pings: { usual: 10_000, quick: 2000 },
      connects: { usual: 1000, quick: 200 },
      seconds: { usual: 2, quick: 1 },
      crowds: { usual: 1 },
      exchanges: { usual: 10_000, quick: 2000 },
    },
    words: PARTS,
  });
  if (typeof read === "number") return read;
  const options: Options = read.numbers;
  const report = new Report("path", options);
  if (read.add) await report.load(read.out);
  await report.printHeader();
  const counts = read.quick ? QUICK_CROWDS : CROWDS;
  const paths = read.quick ? QUICK_PATHS : PATHS;
  await measureAll(report, { options, parts: read.words, counts, paths });
  for (const section of SECTIONS) report.print(section);
  compareWithTargets(report);
  if (read.against !== null) await report.printAgainst(read.against);
  await report.write(read.out);
  return report.hasFailures ? 1 : 0;
}

/** All paths, which take turns. */
async function measureAll(
  report: Report,
  { options, parts, counts, paths: wanted }: {
    options: Options;
    paths: readonly PathName[];
    parts: readonly Part[];
    counts: readonly number[];
  },
): Promise<void> {
  const paths = wanted.filter((path) => {
    const missing = missingPeer(path);
    if (missing !== null) report.skip(path, `${missing} is not installed`);
    return missing === null;
  });
  const lacking = ["wrk", "nginx"].filter((program) => !hasProgram(program));
  const hasHttp = parts.includes("requests") && lacking.length === 0;
  if (parts.includes("requests")) {
    for (const program of lacking) report.skip("requests", `${program} is not installed`);
  }
  const crowdPaths = CROWD_PATHS.filter((path) => paths.includes(path));
  const tasks: [part: Part, rounds: number, paths: readonly PathName[], task: Measure][] = [
    ["flow", options.rounds, paths, measureFlow],
    ["requests", hasHttp ? options.rounds : 0, paths, measureRequests],
    ["crowd", options.crowds, crowdPaths, measureCrowds],
  ];
  const chosen = tasks.filter(([part]) => parts.includes(part));
  report.expect(chosen.reduce((sum, [, rounds, of]) => sum + rounds * of.length, 0));
  for (let round = 1; round <= Math.max(options.rounds, options.crowds); round++) {
    for (const [part, rounds, of, measure] of chosen.filter(([, rounds]) => round <= rounds)) {
      for (const path of of) {
        const what = `${path}, ${part}, round ${round} of ${rounds}`;
        await report.attempt(what, () => measure(report, path, { ...options, counts }));
      }
    }
  }
}

type Measure = (
  report: Report,
  path: PathName,
  options: Options & { counts: readonly number[] },
) => Promise<void>;

/** Medians of the paths beside each other. */
function compareWithTargets(report: Report): void {
  const rate = (what: keyof typeof WHERE, path: PathName) =>
    what === "requests" ? report.median(what, path) : report.median("bulk", `${what} ${path}`);
  for (const [what, path, than, atLeast] of WANTED) {
    const value = rate(what, path) / rate(what, than);
    const bound = { atLeast, where: WHERE[what] };
    report.targetValue(`${what}, ${path} / ${than}`, { unit: "x", value }, bound);
  }
  for (const what of [CPU_OPEN, CPU_KIB]) {
    const [most, base] = [CROWD_MOST, CROWD_BASE].map((count) => {
      return report.median("crowd", seriesOf(count, "hot", what));
    });
    const bound = { atMost: GROWTH_MOST };
    report.targetValue(`${what}, hot, 10,000 / 100`, { unit: "x", value: most / base }, bound);
  }
  const roundTrip = (path: PathName) => report.median("pingpong", `p50 ${path}`);
  const added: [name: string, value: number, atMost: number][] = [
    ["round trip, alone - plain", roundTrip("alone") - roundTrip("plain"), 25],
    ["round trip, hot - plain", roundTrip("hot") - roundTrip("plain"), 120],
  ];
  for (const [name, value, atMost] of added) {
    report.targetValue(name, { unit: "us", value }, { atMost });
  }
  report.printTargets();
}

/** One connection. */
async function measureFlow(report: Report, path: PathName, options: Options): Promise<void> {
  await withSite(path, { detect: DETECT_CALM }, async (site) => {
    await warmUp(site, path);
    for (const way of ["download", "upload"] as const) {
      const before = await site.hopCpuSeconds();
      const run = site.measure<Transfer>(way, amountFor(path, options));
      const { octets, seconds, cpuSeconds } = await run.result;
      report.add("bulk", { series: `${way} ${path}`, unit: "MB/s", value: octets / seconds / 1e6 });
      const used = Object.entries(await site.hopCpuSeconds())
        .map(([who, after]): [string, number] => [who, after - before[who]]);
      for (const [who, cpu] of [["all", cpuSeconds] as const, ...used]) {
        const value = cpu / (octets / 1e9);
        report.add("cpu", { series: `${way} ${path}: ${who}`, unit: "s/GB", value });
      }
    }
    for (const [who, octets] of Object.entries(await site.hopMostOctets())) {
      report.add("memory", { series: `${path}: ${who}`, unit: "MiB", value: octets / 2 ** 20 });
    }
    const isSlow = path === "disk";
    const pings = Math.min(options.pings, isSlow ? DISK_PINGS_MAX : Infinity);
    const { p50Us, p99Us } = await site.measure<PingPong>("pingpong", pings).result;
    report.add("pingpong", { series: `p50 ${path}`, unit: "us", value: p50Us });
    report.add("pingpong", { series: `p99 ${path}`, unit: "us", value: p99Us });
    const connects = Math.min(options.connects, isSlow ? DISK_CONNECTS_MAX : Infinity);
    const { count, seconds } = await site.measure<Connects>("connects", connects).result;
    report.add("connects", { series: path, unit: "1/s", value: count / seconds });
    if (path !== "hot") return;
    const { peers } = await site.status(await site.primary());
    const rttUs = peers[0].links[0].rttUs;
    if (rttUs === null) return;
    report.add("pingpong", {
      series: "replication link, as daemons see it",
      unit: "us",
      value: rttUs,
    });
  });
}

async function warmUp(site: Site, path: PathName): Promise<void> {
  const octets = amountFor(path, WARM);
  for (const way of ["download", "upload"] as const) await site.measure(way, octets).result;
  const isSlow = path === "disk";
  await site.measure("pingpong", isSlow ? DISK_CONNECTS_MAX : WARM.pings).result;
  await site.measure("connects", WARM.connects).result;
}

/** Octets of a transfer over a path. */
function amountFor(path: PathName, { octets }: { octets: number }): number {
  if (path === "qemu") return Math.min(octets, QEMU_MAX);
  return path === "log" || path === "disk" ? Math.min(octets, LOGGED_MAX) : octets;
}

async function measureRequests(report: Report, path: PathName, options: Options): Promise<void> {
  const server = nginxWith(FILE_OCTETS);
  await withSite(path, { detect: DETECT_CALM, server }, async (site) => {
    await site.requests(WARM.seconds, REQUEST_CONNECTIONS);
    const value = await site.requests(options.seconds, REQUEST_CONNECTIONS);
    report.add("requests", { series: path, unit: "1/s", value });
  });
}

const [CPU_OPEN, CPU_KIB] = ["CPU for a connection", "CPU for a KiB"];

/** Ever more connections. */
async function measureCrowds(
  report: Report,
  path: PathName,
  { counts, exchanges }: Options & { counts: readonly number[] },
): Promise<void> {
  await withSite(path, { detect: DETECT_CALM }, async (site) => {
    for (const count of counts) {
      if (count > connectionsMost(path)) {
        report.skip(seriesOf(count, path, "crowd"), "a process may have too few open files here");
        continue;
      }
      const crowd = await site.measure<Crowd>("crowd", count, exchanges).result;
      const kib = crowd.exchanges * EXCHANGE_OCTETS / 1024;
      const figures: [what: string, unit: string, value: number][] = [
        ["opened", "1/s", crowd.opens / crowd.openSeconds],
        ["exchanges", "1/s", crowd.exchanges / crowd.exchangeSeconds],
        [CPU_OPEN, "us", crowd.openCpuSeconds * 1e6 / crowd.opens],
        [CPU_KIB, "us", crowd.exchangeCpuSeconds * 1e6 / kib],
      ];
      for (const [what, unit, value] of figures) {
        report.add("crowd", { series: seriesOf(count, path, what), unit, value });
      }
    }
  });
}

function seriesOf(count: number, path: PathName, what: string): string {
  return `${count.toLocaleString("en")}: ${path}: ${what}`;
}

if (import.meta.main) Deno.exit(await benchPath(Deno.args));
