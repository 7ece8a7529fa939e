/**
 * path.ts - what a client sees of Holdfast when nothing fails: throughput and round trips
 *
 * Theory of operation
 * Real kernels in network namespaces (site.ts), a thin client and server of our own (client.ts,
 * server.ts). EVERYTHING SHARES ONE MACHINE: client, both hosts, both servers and the daemons compete for the
 * same cores, so a figure is only good beside the others of the same run. The paths take turns, one
 * after the other in each round, so that what else the machine does hits all alike; each has a site of its
 * own that exists only while it is measured. A series that could not be measured is listed with its reason.
 *
 *   bulk       octets of one connection per second, download and upload
 *   cpu        CPU of the whole machine for a GB of those, and of each daemon
 *   pingpong   64 octets there and back, blocking calls, TCP_NODELAY
 *   connects   connections per second, one after the other; each carries an octet there and back
 *   requests   wrk with 50 connections and one thread asks nginx for 1 KiB, kept-alive connections
 *
 * Heartbeat is 10 ms, and DETECT_CALM of them may be missed, so that a busy machine starts no takeover in
 * the middle of a figure. Takeovers are measured in takeover.ts.
 */

import type { Connects, PingPong, Transfer } from "./client.ts";
import { readOptions } from "./options.ts";
import { hasProgram, Report } from "./report.ts";
import { type PathName, PATHS, Site } from "./site.ts";

const GIB = 2 ** 30;
/** Octets of a transfer in log mode: all of an upload is kept, up to 1 GiB with what frames it. */
const LOGGED_MAX = GIB / 2;
const DETECT_CALM = 50;
/** Clock ticks of a second in /proc/stat; proc_stat(5). */
const TICKS = 100;

const USAGE = `Usage: bench path [OPTION ...]
  --rounds N        rounds of all paths (5; --quick 1)
  --octets N        octets of a transfer (2 GiB; --quick 512 MiB)
  --pings N         ping-pongs of a round (20000; --quick 5000)
  --connects N      connections of a round (2000; --quick 500)
  --seconds N       requests of a round (4; --quick 1)
  --quick           a smaller run
  --add             keep the figures of an earlier run in FILE, and add these
  --against FILE    compare with the JSON of an earlier run
  --out FILE        where the JSON goes (bench/out/path.json)`;

interface Options {
  rounds: number;
  octets: number;
  pings: number;
  connects: number;
  seconds: number;
}

/** Programs that stand in a path or measure it; who lacks them is told. */
const PROGRAMS: Partial<Record<PathName, string>> = { haproxy: "haproxy", socat: "socat" };
const SECTIONS = ["bulk", "cpu", "pingpong", "connects", "requests"] as const;

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
      octets: { usual: 2 * GIB, quick: GIB / 2 },
      pings: { usual: 20_000, quick: 5000 },
      connects: { usual: 2000, quick: 500 },
      seconds: { usual: 4, quick: 1 },
    },
    words: [],
  });
  if (typeof read === "number") return read;
  const options: Options = read.numbers;
  const report = new Report("path", options);
  if (read.add) await report.load(read.out);
  await report.printHeader();
  await measureAll(report, options);
  for (const section of SECTIONS) report.print(section);
  compareWithTargets(report);
  if (read.against !== null) await report.printAgainst(read.against);
  await report.write(read.out);
  return report.hasFailures ? 1 : 0;
}

/** All paths, which take turns. */
async function measureAll(report: Report, options: Options): Promise<void> {
  const paths = PATHS.filter((path) => {
    const program = PROGRAMS[path];
    if (program === undefined || hasProgram(program)) return true;
    report.skip(path, `${program} is not installed`);
    return false;
  });
  const hasHttp = ["wrk", "nginx"].filter((program) => {
    if (hasProgram(program)) return true;
    report.skip("requests", `${program} is not installed`);
    return false;
  }).length === 2;
  report.expect(options.rounds * paths.length * (hasHttp ? 2 : 1));
  for (let round = 1; round <= options.rounds; round++) {
    for (const path of paths) {
      await report.attempt(`${path}, round ${round}`, () => measurePath(report, path, options));
      if (!hasHttp) continue;
      const what = `${path}, requests, round ${round}`;
      await report.attempt(what, () => measureRequests(report, path, options));
    }
  }
}

/** Medians of the paths beside each other. */
function compareWithTargets(report: Report): void {
  const rate = (series: string) => report.median("bulk", series);
  const asked = (path: PathName) => report.median("requests", path);
  const roundTrip = (path: PathName) => report.median("pingpong", `p50 ${path}`);
  const ratios: [name: string, value: number, atLeast: number][] = [
    ["download, alone / plain", rate("download alone") / rate("download plain"), 0.85],
    ["download, hot / haproxy", rate("download hot") / rate("download haproxy"), 1.2],
    ["upload, hot / plain", rate("upload hot") / rate("upload plain"), 0.4],
    ["upload, hot / haproxy", rate("upload hot") / rate("upload haproxy"), 1],
    ["requests, hot / plain", asked("hot") / asked("plain"), 0.5],
    ["requests, hot / haproxy", asked("hot") / asked("haproxy"), 1],
  ];
  for (const [name, value, atLeast] of ratios) {
    if (Number.isFinite(value)) report.targetValue(name, { unit: "x", value }, { atLeast });
  }
  const added: [name: string, value: number, atMost: number][] = [
    ["round trip, alone - plain", roundTrip("alone") - roundTrip("plain"), 25],
    ["round trip, hot - plain", roundTrip("hot") - roundTrip("plain"), 120],
  ];
  for (const [name, value, atMost] of added) {
    if (Number.isFinite(value)) report.targetValue(name, { unit: "us", value }, { atMost });
  }
  report.printTargets();
}

async function measurePath(report: Report, path: PathName, options: Options): Promise<void> {
  const site = await Site.create(path, { detect: DETECT_CALM });
  try {
    for (const way of ["download", "upload"] as const) {
      const before = await cpuSeconds(site, path);
      const asked = path === "log" ? Math.min(options.octets, LOGGED_MAX) : options.octets;
      const { octets, seconds } = await site.measure<Transfer>(way, asked).result;
      const after = await cpuSeconds(site, path);
      report.add("bulk", { series: `${way} ${path}`, unit: "MB/s", value: octets / seconds / 1e6 });
      for (const [who, used] of Object.entries(after)) {
        const value = (used - before[who]) / (octets / 1e9);
        report.add("cpu", { series: `${way} ${path}: ${who}`, unit: "s/GB", value });
      }
    }
    const { p50Us, p99Us } = await site.measure<PingPong>("pingpong", options.pings).result;
    report.add("pingpong", { series: `p50 ${path}`, unit: "us", value: p50Us });
    report.add("pingpong", { series: `p99 ${path}`, unit: "us", value: p99Us });
    const { count, seconds } = await site.measure<Connects>("connects", options.connects).result;
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
  } finally {
    await site.destroy();
  }
}

async function measureRequests(report: Report, path: PathName, options: Options): Promise<void> {
  const site = await Site.create(path, { detect: DETECT_CALM, server: "nginx" });
  try {
    const value = await site.requests(options.seconds);
    report.add("requests", { series: path, unit: "1/s", value });
  } finally {
    await site.destroy();
  }
}

/** CPU used so far, seconds: of the machine, and of what Holdfast runs. */
async function cpuSeconds(site: Site, path: PathName): Promise<Record<string, number>> {
  const [user, nice, system, , , irq, softirq] = (await Deno.readTextFile("/proc/stat"))
    .split("\n")[0].trim().split(/\s+/).slice(1).map(Number);
  const used: Record<string, number> = { all: (user + nice + system + irq + softirq) / TICKS };
  if (path === "alone" || path === "log") used.daemon = await site.cpuSeconds("a");
  if (path !== "hot" && path !== "hot ack") return used;
  const primary = await site.primary();
  used["primary's daemon"] = await site.cpuSeconds(primary);
  used["standby's daemon"] = await site.cpuSeconds(site.other(primary));
  return used;
}

if (import.meta.main) Deno.exit(await benchPath(Deno.args));
