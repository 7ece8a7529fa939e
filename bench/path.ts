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
 *   pingpong   64 octets there and back, blocking calls, TCP_NODELAY
 *
 * Heartbeat is 10 ms, and DETECT_CALM of them may be missed, so that a busy machine starts no takeover in
 * the middle of a figure. Takeovers are measured in takeover.ts.
 */

import type { PingPong, Transfer } from "./client.ts";
import { readOptions } from "./options.ts";
import { hasProgram, Report } from "./report.ts";
import { type PathName, PATHS, Site } from "./site.ts";

const GIB = 2 ** 30;
/** What Holdfast without a standby may add to a round trip, microseconds. */
const ADDED_US_MOST = 40;
const DETECT_CALM = 50;

const USAGE = `Usage: bench path [OPTION ...]
  --rounds N        rounds of all paths (5; --quick 1)
  --octets N        octets of a transfer (2 GiB; --quick 512 MiB)
  --pings N         ping-pongs of a round (20000; --quick 5000)
  --quick           a smaller run
  --add             keep the figures of an earlier run in FILE, and add these
  --against FILE    compare with the JSON of an earlier run
  --out FILE        where the JSON goes (bench/out/path.json)`;

interface Options {
  rounds: number;
  octets: number;
  pings: number;
}

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
    },
    words: [],
  });
  if (typeof read === "number") return read;
  const options: Options = read.numbers;
  const report = new Report("path", options);
  if (read.add) await report.load(read.out);
  await report.printHeader();
  report.expect(options.rounds * PATHS.length);
  await measureBulk(report, options);
  compareWithTargets(report);
  if (read.against !== null) await report.printAgainst(read.against);
  await report.write(read.out);
  return report.hasFailures ? 1 : 0;
}

/** Throughput and round trips of all paths, which take turns. */
async function measureBulk(report: Report, options: Options): Promise<void> {
  const paths = PATHS.filter((path) => path !== "haproxy" || hasProgram("haproxy"));
  if (paths.length < PATHS.length) report.skip("haproxy", "haproxy is not installed");
  for (let round = 0; round < options.rounds; round++) {
    for (const path of paths) {
      await report.attempt(`${path}, round ${round + 1}`, () => measurePath(report, path, options));
    }
  }
  report.print("bulk");
  report.print("pingpong");
}

/** Medians of the paths beside each other. */
function compareWithTargets(report: Report): void {
  const rate = (series: string) => report.median("bulk", series);
  const roundTrip = (path: PathName) => report.median("pingpong", `p50 ${path}`);
  const ratios: [name: string, value: number, atLeast: number][] = [
    ["download, alone / plain", rate("download alone") / rate("download plain"), 0.75],
    ["download, hot / haproxy", rate("download hot") / rate("download haproxy"), 1],
    ["upload, hot / plain", rate("upload hot") / rate("upload plain"), 0.4],
  ];
  for (const [name, value, atLeast] of ratios) {
    if (Number.isFinite(value)) report.targetValue(name, { unit: "x", value }, { atLeast });
  }
  const addedUs = roundTrip("alone") - roundTrip("plain");
  if (Number.isFinite(addedUs)) {
    const measured = { unit: "us", value: addedUs };
    report.targetValue("round trip, alone - plain", measured, { atMost: ADDED_US_MOST });
  }
  report.printTargets();
}

async function measurePath(report: Report, path: PathName, options: Options): Promise<void> {
  const site = await Site.create(path, { detect: DETECT_CALM });
  try {
    for (const way of ["download", "upload"] as const) {
      const { octets, seconds } = await site.measure<Transfer>(way, options.octets).result;
      report.add("bulk", { series: `${way} ${path}`, unit: "MB/s", value: octets / seconds / 1e6 });
    }
    const { p50Us, p99Us } = await site.measure<PingPong>("pingpong", options.pings).result;
    report.add("pingpong", { series: `p50 ${path}`, unit: "us", value: p50Us });
    report.add("pingpong", { series: `p99 ${path}`, unit: "us", value: p99Us });
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

if (import.meta.main) Deno.exit(await benchPath(Deno.args));
