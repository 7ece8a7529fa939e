/**
 * path.ts - what a client sees of Holdfast: throughput, round trips, gaps, takeovers by the thousand
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
 *   kill       the primary host loses its links and all its processes during a transfer. Client-visible
 *              gap: the longest time in which nothing moved that touches the fault. An upload's gap holds the
 *              client's own retransmission timeout, 200 ms on Linux: max(0, gap - 200 ms) is shown beside it
 *   switch     a planned switch during a download: client-visible gap, and the daemons' own gapMs
 *   many       idle connections, all taken over after a kill; each must carry an octet afterwards
 *
 * Heartbeat is 10 ms everywhere. Where a fault is measured three may be missed (`detect = 3`); elsewhere
 * DETECT_CALM, so that a busy machine starts no takeover in the middle of a throughput figure.
 */

import { parseArgs } from "node:util";
import type { Gap } from "../runtime/lab/recorder.ts";
import type { Held, PingPong, Transfer } from "./client.ts";
import { hasProgram, Report } from "./report.ts";
import { type PathName, PATHS, Site } from "./site.ts";

const GIB = 2 ** 30;
const DETECT = 3;
const DETECT_CALM = 50;
/** Retransmission timeout of a Linux client at least; tcp(7), tcp_rto_min. */
const RTO_MIN_MS = 200;
/** Faults come between these times after a transfer began, milliseconds. */
const FAULT_AFTER_MS = [100, 400] as const;
/** Gaps that begin later than this after a fault are not its doing, milliseconds. */
const FAULT_REACH_MS = 1000;
/** Failures in a row after which a series of faults is given up. */
const FAILURES_MAX = 3;
/** Descriptors for the client and servers of many connections. */
const DESCRIPTORS = 65_536;

const SECTIONS = ["bulk", "kill", "switch", "many"] as const;

const USAGE = `Usage: bench path [OPTION ...] [SECTION ...]
Sections: ${SECTIONS.join(" ")} (all when none is named); bulk includes the ping-pong
  --rounds N        rounds of bulk transfers and ping-pongs (3; --quick 1)
  --octets N        octets of a transfer (2 GiB)
  --pings N         ping-pongs of a round (20000; --quick 5000)
  --kills N         kills during downloads, and again during uploads (10; --quick 5)
  --switches N      planned switches (10; --quick 5)
  --connections N   live idle connections (10000; --quick 2000)
  --quick           a smaller run
  --out FILE        where the JSON goes (bench/out/path.json)`;

interface Options {
  rounds: number;
  octets: number;
  pings: number;
  kills: number;
  switches: number;
  connections: number;
}

/**
 * Runs the measurements.
 *
 * @param args See USAGE.
 * @returns Exit status: 0 all was measured, 1 something failed, 2 wrong use.
 */
export async function benchPath(args: string[]): Promise<number> {
  let options: Options;
  let sections: readonly string[];
  let out: string;
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        rounds: { type: "string" },
        octets: { type: "string" },
        pings: { type: "string" },
        kills: { type: "string" },
        switches: { type: "string" },
        connections: { type: "string" },
        quick: { type: "boolean", default: false },
        out: { type: "string", default: new URL("./out/path.json", import.meta.url).pathname },
        help: { type: "boolean", default: false },
      },
    });
    if (values.help) {
      console.log(USAGE);
      return 0;
    }
    const count = (name: keyof Options, usual: number, quick = usual) =>
      wholeNumber(name, values[name] ?? `${values.quick ? quick : usual}`);
    options = {
      rounds: count("rounds", 3, 1),
      octets: count("octets", 2 * GIB),
      pings: count("pings", 20_000, 5000),
      kills: count("kills", 10, 5),
      switches: count("switches", 10, 5),
      connections: count("connections", 10_000, 2000),
    };
    sections = sectionsOf(positionals);
    out = values.out;
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : error}\n${USAGE}`);
    return 2;
  }
  const report = new Report("path", options);
  await report.printHeader();
  if (sections.includes("bulk")) await measureBulk(report, options);
  if (sections.includes("kill")) await measureKills(report, options);
  if (sections.includes("switch")) await measureSwitches(report, options);
  if (sections.includes("many")) await measureMany(report, options);
  await report.write(out);
  return report.hasFailures ? 1 : 0;
}

function wholeNumber(name: string, text: string): number {
  const number = Number(text);
  if (Number.isSafeInteger(number) && number > 0) return number;
  throw new RangeError(`--${name} is "${text}", allowed is a whole number from 1`);
}

function sectionsOf(words: readonly string[]): readonly string[] {
  for (const word of words) {
    if ((SECTIONS as readonly string[]).includes(word)) continue;
    throw new RangeError(`There is no section "${word}", allowed are ${SECTIONS.join(", ")}`);
  }
  return words.length === 0 ? SECTIONS : words;
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

/** Kills of the primary during downloads, then during uploads. */
async function measureKills(report: Report, options: Options): Promise<void> {
  for (const way of ["download", "upload"] as const) {
    await withFaults(report, { what: `kill during ${way}`, count: options.kills }, async (site) => {
      const primary = await site.primary();
      const run = site.measure<Transfer>(way, options.octets);
      await run.started;
      await sleepRandom();
      const atMs = await site.crash(primary);
      const { gaps } = await run.result;
      const { lastTakeover } = await site.waitTakeover(site.other(primary));
      const gapMs = gapAround(gaps, atMs);
      report.add("kill", { series: `${way}: client-visible gap`, unit: "ms", value: gapMs });
      if (way === "upload") {
        const value = Math.max(0, gapMs - RTO_MIN_MS);
        report.add("kill", { series: "upload: gap beyond the client's RTO", unit: "ms", value });
      }
      const { detectMs, takeoverMs } = lastTakeover!;
      report.add("kill", { series: `${way}: detectMs`, unit: "ms", value: detectMs });
      report.add("kill", { series: `${way}: takeoverMs`, unit: "ms", value: takeoverMs });
      await site.revive(primary);
    });
  }
  report.print("kill");
}

/** Planned switches during downloads, there and back. */
async function measureSwitches(report: Report, options: Options): Promise<void> {
  await withFaults(report, { what: "switch", count: options.switches }, async (site) => {
    const primary = await site.primary();
    const run = site.measure<Transfer>("download", options.octets);
    await run.started;
    await sleepRandom();
    const atMs = performance.timeOrigin + performance.now();
    const { gapMs } = await site.switchService(primary);
    const { gaps } = await run.result;
    report.add("switch", {
      series: "client-visible gap",
      unit: "ms",
      value: gapAround(gaps, atMs),
    });
    report.add("switch", { series: "gapMs, as daemons see it", unit: "ms", value: gapMs });
    await site.waitProtected();
  });
  report.print("switch");
}

/** Many idle connections and one kill. */
async function measureMany(report: Report, { connections }: Options): Promise<void> {
  await raiseDescriptors();
  await report.attempt("many", async () => {
    const site = await Site.create("hot", { detect: DETECT_CALM });
    try {
      const run = site.measure<Held>("hold", connections);
      await run.started;
      const primary = await site.primary();
      await site.crash(primary);
      const { lastTakeover } = await site.waitTakeover(site.other(primary));
      await run.proceed();
      const { opened, lost, firstError, exchangeMs } = await run.result;
      const figures: [string, string, number][] = [
        ["connections opened", "", opened],
        ["taken over, as the daemon says", "", lastTakeover!.connections],
        ["lost", "", lost],
        ["takeoverMs", "ms", lastTakeover!.takeoverMs],
        ["an octet there and back on all", "ms", exchangeMs],
      ];
      for (const [series, unit, value] of figures) report.add("many", { series, unit, value });
      if (lost > 0) throw new Error(`${lost} of ${opened} connections were lost: ${firstError}`);
    } finally {
      await site.destroy();
    }
  });
  report.print("many");
}

/**
 * Has `act` cause a fault `count` times at one site; a failure is reported, and the site made anew.
 */
async function withFaults(
  report: Report,
  series: { what: string; count: number },
  act: (site: Site) => Promise<void>,
): Promise<void> {
  let site: Site | null = null;
  let failuresInRow = 0;
  for (let number = 1; number <= series.count && failuresInRow < FAILURES_MAX; number++) {
    const isDone = await report.attempt(`${series.what} ${number}`, async () => {
      site ??= await Site.create("hot", { detect: DETECT });
      await act(site);
    });
    failuresInRow = isDone ? 0 : failuresInRow + 1;
    if (isDone) continue;
    await (site as Site | null)?.destroy();
    site = null;
  }
  await (site as Site | null)?.destroy();
}

/** The longest gap that touches a fault, milliseconds. */
function gapAround(gaps: readonly Gap[], atMs: number): number {
  const touching = gaps.filter((gap) =>
    gap.atMs + gap.ms >= atMs && gap.atMs <= atMs + FAULT_REACH_MS
  );
  if (touching.length === 0) throw new Error("The transfer had ended before the fault");
  return Math.max(...touching.map(({ ms }) => ms));
}

async function sleepRandom(): Promise<void> {
  const [least, most] = FAULT_AFTER_MS;
  const ms = least + Math.random() * (most - least);
  await new Promise((resolve) => setTimeout(resolve, ms));
}

/** Lets this process and those it starts have enough descriptors. */
async function raiseDescriptors(): Promise<void> {
  const args = ["--pid", `${Deno.pid}`, `--nofile=${DESCRIPTORS}:${DESCRIPTORS}`];
  const { success, stderr } = await new Deno.Command("prlimit", { args }).output();
  if (success) return;
  throw new Error(
    `Cannot allow ${DESCRIPTORS} descriptors: ${new TextDecoder().decode(stderr).trim()}`,
  );
}

if (import.meta.main) Deno.exit(await benchPath(Deno.args));
