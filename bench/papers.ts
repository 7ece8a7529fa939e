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
 *               turns, the last at each end of the swept heartbeats
 *   failures    ST-TCP: each single failure once (failures.ts), while one connection downloads, one uploads and one
 *               echoes; every octet is checked. How many survived, and how long each saw nothing move
 *   logged      FT-TCP: recovery against what the client has sent. A client uploads so many octets, the
 *               server's processes are killed, and the client sends one more: how long until the server's
 *               answer to all of it arrives. "log" and "disk" start a server on the same host and play it what
 *               was logged (a cold backup); "hot" has a standby whose server has read all of it. Beside it the
 *               memory and the files that the daemon then has more than before, and how fast logs are played,
 *               beside an upload to the same server over loopback
 *   connected   the same against the number of connections, each of which has sent an octet and sends
 *               one more: how long until all of them are answered
 *   clients     FT-TCP: wrk asks nginx for 64 KiB over ever more connections
 *   disk        a log on disk beside the disk itself: a loop of write(2) and fdatasync(2) on the same
 *               file system, then an upload and 64-octet round trips in log mode, in memory and on disk
 *   degraded    M-TCP: a paced stream whose server is stopped for 80 of each 100 ms after its first second. A
 *               policy watches the client's rate, as an operator's script could, and calls for a switch
 *               when it is below so many percent of what it was: the rate from then on, in percent
 *   moves       M-TCP: how long a planned switch takes by number of connections; one download that is
 *               switched there and back again and again; a series of redis-cli's INCR
 *               through switches, each of which must be answered with the next number
 *   daemons     CTTM: servers that know nothing of us, killed in the midst of a transfer by clients that
 *               know nothing either, on one host in log mode (daemons.ts): which survive, and why others do not
 *
 * The part of "log" until the new server listens ("log: start") depends on the server alone.
 */

import { DAEMONS } from "./daemons.ts";
import type { Exchanges } from "./client.ts";
import { type Experiment, runExperiments } from "./experiment.ts";
import { DEGRADED, FAILURES, MOVES } from "./failures.ts";
import { CLIENTS, CONNECTED, DISK, LOGGED } from "./logging.ts";
import { readOptions } from "./options.ts";
import { Report } from "./report.ts";
import { withSite } from "./site.ts";
import { gapAtHeartbeat } from "./takeover.ts";

const DETECT = 3;
/** Heartbeats of the sweep, milliseconds. */
const HEARTBEATS_MS = [3, 10, 50, 200, 500, 1000, 5000] as const;
/** Those of a quick run. */
const QUICK_HEARTBEATS_MS = [10] as const;
/** What is exchanged: requests on one connection, and octets of each answer. */
const EXCHANGES = {
  "Echo": { count: 100, octets: 150 },
  "Interactive": { count: 100, octets: 10_000 },
  "Bulk 1 MB": { count: 1, octets: 1e6 },
  "Bulk 100 MB": { count: 1, octets: 1e8 },
} as const;
/** The most that may be missed. */
const DETECT_MAX = 100;
/** Silence that counts as no death where no host dies, milliseconds; DETECT to DETECT_MAX heartbeats. */
const CALM_MS = 500;

const USAGE = `Usage: bench papers [OPTION ...] [SECTION ...]
Sections: heartbeat exchanges failures logged connected clients disk degraded moves daemons (all when none
is named)
  --rounds N        rounds of what is measured (2; --quick 1)
  --trials N        rounds of failures and daemons, which survive or not (1)
  --quick           a smaller run: ends of the sweeps only
  --add             keep the figures of an earlier run in FILE, and add these
  --again           keep them but for the experiments named, which are measured anew
  --against FILE    compare with the JSON of an earlier run
  --out FILE        where the JSON goes (bench/out/papers.json)`;

/** One kill of a primary host at each heartbeat. */
const HEARTBEAT: Experiment = {
  name: "heartbeat",
  isTrial: false,
  cases: (quick) =>
    (quick ? QUICK_HEARTBEATS_MS : HEARTBEATS_MS).map((heartbeatMs) => ({
      what: `kill at a heartbeat of ${heartbeatMs} ms`,
      act: async (report) => {
        for (const [part, value] of await gapAtHeartbeat(heartbeatMs)) {
          report.add("heartbeat", { series: `${heartbeatMs} ms: ${part}`, unit: "ms", value });
        }
      },
    })),
};

/** All kinds of exchanges over plain, alone, and hot at both ends of the sweep. */
const EXCHANGED: Experiment = {
  name: "exchanges",
  isTrial: false,
  cases: (quick) => {
    const [least, most] = [Math.min(...HEARTBEATS_MS), Math.max(...HEARTBEATS_MS)];
    const paths = [
      { path: "plain", heartbeatMs: least },
      { path: "hot", heartbeatMs: least },
      { path: "alone", heartbeatMs: least },
      { path: "hot", heartbeatMs: most },
    ] as const;
    return paths.slice(0, quick ? 2 : paths.length).map(({ path, heartbeatMs }) => {
      const name = path === "hot" ? `hot, ${heartbeatMs} ms` : path;
      const detect = Math.min(DETECT_MAX, Math.max(DETECT, Math.ceil(CALM_MS / heartbeatMs)));
      return {
        what: `exchanges over ${name}`,
        act: (report) =>
          withSite(path, { detect, heartbeatMs }, async (site) => {
            for (const [kind, { count, octets }] of Object.entries(EXCHANGES)) {
              const run = site.measure<Exchanges>("exchanges", count, octets);
              const value = (await run.result).seconds * 1000;
              report.add("exchanges", { series: `${kind}: ${name}`, unit: "ms", value });
            }
          }),
      };
    });
  },
};

const EXPERIMENTS: readonly Experiment[] = [
  HEARTBEAT,
  EXCHANGED,
  FAILURES,
  LOGGED,
  CONNECTED,
  CLIENTS,
  DISK,
  DEGRADED,
  MOVES,
  DAEMONS,
];

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
    numbers: { rounds: { usual: 2, quick: 1 }, trials: { usual: 1 } },
    words: EXPERIMENTS.map(({ name }) => name),
    hasAgain: true,
  });
  if (typeof read === "number") return read;
  const { quick, numbers } = read;
  const report = new Report("papers", { ...numbers, quick });
  const chosen = EXPERIMENTS.filter(({ name }) => read.words.includes(name));
  if (read.again) {
    await report.load(read.out, {
      sections: chosen.map(({ name }) => name),
      cases: chosen.flatMap(({ cases }) => cases(false).map(({ what }) => what)),
    });
  } else if (read.add) await report.load(read.out);
  await report.printHeader();
  await runExperiments(report, chosen, { ...numbers, quick });
  for (const { compare } of EXPERIMENTS) compare?.(report);
  for (const { name } of EXPERIMENTS) report.print(name);
  report.printTargets();
  if (read.against !== null) await report.printAgainst(read.against);
  await report.write(read.out);
  return report.hasFailures ? 1 : 0;
}

if (import.meta.main) Deno.exit(await benchPapers(Deno.args));
