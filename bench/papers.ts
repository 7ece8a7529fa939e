/**
 * papers.ts - the experiments of the papers that Holdfast follows, varied as they varied them
 *
 * Theory of operation
 * Real kernels in network namespaces (site.ts). What the papers measured on their machines is not quoted:
 * networks and kernels were others. Each section is one experiment:
 *
 *   heartbeat   ST-TCP: the heartbeat is swept and three may be missed; the primary host is killed at a random
 *               moment of a download. The gap that the client sees is cut as in takeover.ts: detection grows
 *               with the heartbeat, takeover does not, and the residue is what the client's or the new
 *               server's backed-off retransmission time-out adds
 *   exchanges   ST-TCP: what protection costs while nothing fails. Echo is 150 octets there and back,
 *               Interactive 150 octets there and 10 KB back, 100 times each on one connection; Bulk asks
 *               once, for 1 and for 100 MB. Plain routing, Holdfast alone and with a hot standby take
 *               turns, the latter two at each end of the swept heartbeats
 *   logged      FT-TCP: recovery against what the client has sent. A client uploads so many octets, the
 *               server's process is killed, and the client sends one more: how long until the server's
 *               answer to all of it arrives. "log" starts a server on the same host and plays it what
 *               was logged; "hot" has a standby whose server has read all of it
 *
 * The part of "log" until the new server listens ("log: start") depends on the server alone.
 */

import type { Exchanges, Logged, Transfer } from "./client.ts";
import { readOptions } from "./options.ts";
import { Report } from "./report.ts";
import { Site } from "./site.ts";
import { gapParts, longestGap, mustFollow, sleepRandom } from "./takeover.ts";

const DETECT = 3;
/** Heartbeats of the sweep, milliseconds. */
const HEARTBEATS_MS = [10, 50, 200, 500, 1000, 5000] as const;
/** Those of a quick run. */
const QUICK_HEARTBEATS_MS = [10, 50, 200] as const;
/** Long enough for a fault in its middle. */
const DOWNLOAD_OCTETS = 2 ** 30;
/** What is exchanged: requests on one connection, and octets of each answer. */
const EXCHANGES = {
  "Echo": { count: 100, octets: 150 },
  "Interactive": { count: 100, octets: 10_000 },
  "Bulk 1 MB": { count: 1, octets: 1e6 },
  "Bulk 100 MB": { count: 1, octets: 1e8 },
} as const;
/** Octets that the client has sent when the server dies; a log holds 1 GiB, what frames them included. */
const LOGGED = [2 ** 10, 2 ** 15, 2 ** 20, 2 ** 25, 2 ** 28, 2 ** 30 - 2 ** 20] as const;
const QUICK_LOGGED_MAX = 2 ** 25;
/** Silence that counts as no death where no host dies, milliseconds; no fewer than DETECT heartbeats. */
const CALM_MS = 500;
/** Heartbeats of experiments that vary something else, milliseconds. */
const HEARTBEAT_MS = 10;

const SECTIONS = ["heartbeat", "exchanges", "logged"] as const;

const USAGE = `Usage: bench papers [OPTION ...] [SECTION ...]
Sections: ${SECTIONS.join(" ")} (all when none is named)
  --rounds N        rounds of each experiment (5; --quick 1)
  --quick           a smaller run: short heartbeats and logs only
  --add             keep the figures of an earlier run in FILE, and add these
  --against FILE    compare with the JSON of an earlier run
  --out FILE        where the JSON goes (bench/out/papers.json)`;

/**
 * Runs the experiments.
 *
 * @param args See USAGE.
 * @returns Exit status: 0 all was measured, 1 something failed, 2 wrong use.
 */
export async function benchPapers(args: string[]): Promise<number> {
  const read = readOptions(args, {
    suite: "papers",
    usage: USAGE,
    numbers: { rounds: { usual: 5, quick: 1 } },
    words: SECTIONS,
  });
  if (typeof read === "number") return read;
  const { rounds } = read.numbers;
  const heartbeats = read.quick ? QUICK_HEARTBEATS_MS : HEARTBEATS_MS;
  const amounts = LOGGED.filter((octets) => !read.quick || octets <= QUICK_LOGGED_MAX);
  const report = new Report("papers", { ...read.numbers, quick: read.quick });
  if (read.add) await report.load(read.out);
  await report.printHeader();
  const paths = pathsOf(heartbeats);
  const attempts = {
    heartbeat: heartbeats.length,
    exchanges: paths.length,
    logged: 2 * amounts.length,
  };
  report.expect(read.words.reduce((sum, word) => sum + rounds * attempts[word], 0));
  for (let round = 1; round <= rounds; round++) {
    if (read.words.includes("heartbeat")) await sweepHeartbeats(report, { heartbeats, round });
    if (read.words.includes("exchanges")) await compareExchanges(report, { paths, round });
    if (read.words.includes("logged")) await sweepLogged(report, { amounts, round });
  }
  for (const section of SECTIONS) report.print(section);
  if (read.against !== null) await report.printAgainst(read.against);
  await report.write(read.out);
  return report.hasFailures ? 1 : 0;
}

/** One kill of a primary host at each heartbeat. */
async function sweepHeartbeats(
  report: Report,
  { heartbeats, round }: { heartbeats: readonly number[]; round: number },
): Promise<void> {
  for (const heartbeatMs of heartbeats) {
    await report.attempt(`kill at ${heartbeatMs} ms, round ${round}`, async () => {
      await withSite("hot", { detect: DETECT, heartbeatMs }, async (site) => {
        const primary = await site.primary();
        const run = site.measure<Transfer>("download", DOWNLOAD_OCTETS);
        await run.started;
        await sleepRandom();
        const atMs = await site.crash(primary);
        const { gaps } = await run.result;
        const { lastTakeover } = await site.waitTakeover(site.other(primary));
        mustFollow(lastTakeover!, atMs);
        const gap = longestGap(gaps, atMs, lastTakeover!.timeline.firstByteMs);
        for (const [part, value] of gapParts(gap, lastTakeover!)) {
          report.add("heartbeat", { series: `${heartbeatMs} ms: ${part}`, unit: "ms", value });
        }
      });
    });
  }
}

/** A path with or without a heartbeat. */
interface ProtectedPath {
  path: "plain" | "alone" | "hot";
  heartbeatMs: number;
}

/** Plain, alone, and hot at both ends of the sweep. */
function pathsOf(heartbeats: readonly number[]): ProtectedPath[] {
  const [shortest] = heartbeats;
  const longest = heartbeats[heartbeats.length - 1];
  return [
    { path: "plain", heartbeatMs: shortest },
    { path: "alone", heartbeatMs: shortest },
    { path: "hot", heartbeatMs: shortest },
    { path: "hot", heartbeatMs: longest },
  ];
}

/** All kinds of exchanges over each path. */
async function compareExchanges(
  report: Report,
  { paths, round }: { paths: readonly ProtectedPath[]; round: number },
): Promise<void> {
  for (const { path, heartbeatMs } of paths) {
    const name = path === "hot" ? `hot, ${heartbeatMs} ms` : path;
    await report.attempt(`exchanges over ${name}, round ${round}`, async () => {
      const detect = Math.max(DETECT, CALM_MS / heartbeatMs);
      await withSite(path, { detect, heartbeatMs }, async (site) => {
        for (const [kind, { count, octets }] of Object.entries(EXCHANGES)) {
          const run = site.measure<Exchanges>("exchanges", count, octets);
          const value = (await run.result).seconds * 1000;
          report.add("exchanges", { series: `${kind}: ${name}`, unit: "ms", value });
        }
      });
    });
  }
}

/** A server's death after so many octets, in log mode and with a hot standby. */
async function sweepLogged(
  report: Report,
  { amounts, round }: { amounts: readonly number[]; round: number },
): Promise<void> {
  for (const octets of amounts) {
    for (const path of ["log", "hot"] as const) {
      const series = `${octets.toLocaleString("en")}: ${path}`;
      await report.attempt(`${series}, round ${round}`, async () => {
        const options = { heartbeatMs: HEARTBEAT_MS, detect: CALM_MS / HEARTBEAT_MS };
        await withSite(path, options, async (site) => {
          const primary = await site.primary();
          const run = site.measure<Logged>("logged", octets);
          await run.started;
          await site.killServer(primary);
          await run.proceed();
          const { answerMs } = await run.result;
          report.add("logged", { series, unit: "ms", value: answerMs });
          if (path === "hot") return;
          const { recovery } = await site.service(primary);
          if (!recovery?.last) throw new Error("No server was started in its place");
          const { waitedMs } = recovery.last;
          report.add("logged", { series: `${series}: start`, unit: "ms", value: waitedMs });
        });
      });
    }
  }
}

async function withSite(
  path: Parameters<typeof Site.create>[0],
  options: Parameters<typeof Site.create>[1],
  act: (site: Site) => Promise<void>,
): Promise<void> {
  const site = await Site.create(path, options);
  try {
    await act(site);
  } finally {
    await site.destroy();
  }
}

if (import.meta.main) Deno.exit(await benchPapers(Deno.args));
