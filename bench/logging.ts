/**
 * logging.ts - FT-TCP's experiments: what message logging costs, and how long recovery from a log takes
 *
 * Theory of operation
 * papers.ts says what each experiment shows. In all of them the death is SIGKILL for every process of the
 * server, while its host and daemon live, so that log mode on one host and a hot standby meet the same
 * fault. A log that is played is timed by the daemon: from when the new server listens.
 */

import type { Held, Logged, PingPong, Transfer } from "./client.ts";
import type { Experiment } from "./experiment.ts";
import type { Report } from "./report.ts";
import { nginxWith, type PathName, type Site, withSite } from "./site.ts";
import { percentile } from "./statistics.ts";

const MIB = 2 ** 20;
/** Heartbeats that may be missed: no host dies here. */
const CALM = { detect: 50 };
/** Octets that the client has sent when the server dies; a log holds 1 GiB, what frames them included. */
const AMOUNTS = [2 ** 10, 2 ** 20, 2 ** 25, 2 ** 28, 2 ** 30 - 2 ** 20] as const;
const QUICK_AMOUNTS = [2 ** 25] as const;
/** From so many octets on a replay takes long enough to be a rate, and a log is more than noise in memory. */
const RATE_LEAST = 2 ** 25;
/** What is compared with loopback, and sent over it. */
const LOOPBACK_OCTETS = 2 ** 28;
const REPLAY_LEAST = 0.7;
/** Paths of recovery, by what stands behind the server that dies. */
const RECOVERIES = ["log", "disk", "hot"] as const;

const WHERE_REPLAY =
  "The loop copies each octet from the log's blocks into the TUN and waits for the new server's " +
  "window, on the cores that the server reads with";

/** The server's death after so many octets. */
export const LOGGED: Experiment = {
  name: "logged",
  isTrial: false,
  cases: (quick) => [
    ...(quick ? QUICK_AMOUNTS : AMOUNTS).flatMap((octets) =>
      RECOVERIES.filter((path) => path !== "disk" || (!quick && octets >= RATE_LEAST)).map((
        path,
      ) => ({
        what: `death of a server after ${octets.toLocaleString("en")} octets, ${path}`,
        act: (report: Report) =>
          withSite(path, CALM, (site) => measureLogged(report, site, { path, octets })),
      }))
    ),
    {
      what: "upload over loopback",
      act: (report) =>
        withSite("plain", CALM, async (site) => {
          const run = site.measureBeside<Transfer>("upload", LOOPBACK_OCTETS);
          const { octets, seconds } = await run.result;
          const value = octets / seconds / 1e6;
          report.add("logged", { series: "upload over loopback", unit: "MB/s", value });
        }),
    },
  ],
  compare: (report) => {
    const of = (series: string) => report.median("logged", series);
    const replayed = of(`${LOOPBACK_OCTETS.toLocaleString("en")}: log: played`);
    report.targetValue(`replay of ${LOOPBACK_OCTETS / MIB} MiB / upload over loopback`, {
      unit: "x",
      value: replayed / of("upload over loopback"),
    }, { atLeast: REPLAY_LEAST, where: WHERE_REPLAY });
  },
};

async function measureLogged(
  report: Report,
  site: Site,
  { path, octets }: { path: PathName; octets: number },
): Promise<void> {
  const series = `${octets.toLocaleString("en")}: ${path}`;
  const add = (what: string, unit: string, value: number) => {
    report.add("logged", { series: what === "" ? series : `${series}: ${what}`, unit, value });
  };
  const primary = await site.primary();
  const before = await site.residentOctets(primary);
  const storedBefore = path === "disk" ? await site.storedOctets(primary) : 0;
  const run = site.measure<Logged>("logged", octets);
  await run.started;
  if (octets >= RATE_LEAST) {
    add("memory", "MiB", (await site.residentOctets(primary) - before) / MIB);
    if (path === "disk") {
      add("files", "MiB", (await site.storedOctets(primary) - storedBefore) / MIB);
    }
  }
  site.signalServer(primary, "SIGKILL");
  await run.proceed();
  add("", "ms", (await run.result).answerMs);
  if (path === "hot") return;
  const { recovery } = await site.service(primary);
  if (!recovery?.last) throw new Error("No server was started in its place");
  const { waitedMs, tookMs } = recovery.last;
  add("start", "ms", waitedMs);
  if (octets >= RATE_LEAST) add("played", "MB/s", octets / 1000 / (tookMs - waitedMs));
}

/** Live connections when the server dies. */
const COUNTS = [1, 10, 100, 1000, 10_000] as const;
const QUICK_COUNTS = [100] as const;

/** The server's death with so many connections. */
export const CONNECTED: Experiment = {
  name: "connected",
  isTrial: false,
  cases: (quick) =>
    (quick ? QUICK_COUNTS : COUNTS).flatMap((count) =>
      (["log", "hot"] as const).map((path) => ({
        what: `death of a server with ${count.toLocaleString("en")} connections, ${path}`,
        act: (report: Report) =>
          withSite(path, CALM, async (site) => {
            const series = `${count.toLocaleString("en")}: ${path}`;
            const primary = await site.primary();
            const run = site.measure<Held>("hold", count);
            await run.started;
            if (path === "hot") await site.waitHot(primary, count);
            site.signalServer(primary, "SIGKILL");
            await run.proceed();
            const { opened, lost, firstError, exchangeMs } = await run.result;
            if (lost > 0) {
              const seen = await site.judged();
              throw new Error(`${lost} of ${opened} were lost: ${firstError}; ${seen}`);
            }
            report.add("connected", { series, unit: "ms", value: exchangeMs });
            if (path === "hot") return;
            const { recovery } = await site.service(primary);
            const value = recovery?.last?.waitedMs;
            if (value === undefined) throw new Error("No server was started in its place");
            report.add("connected", { series: `${series}: start`, unit: "ms", value });
          }),
      }))
    ),
};

/** Connections of wrk, the file that it asks for, and how long, seconds. */
const CLIENT_COUNTS = [1, 4, 16, 64, 128] as const;
const FILE_OCTETS = 65_536;
const ASK_SECONDS = 1;

/** Throughput by number of clients. */
export const CLIENTS: Experiment = {
  name: "clients",
  isTrial: false,
  cases: (quick) =>
    (["plain", "hot", "haproxy", "log"] as const).slice(0, quick ? 2 : 4).map((path) => ({
      what: `ever more clients over ${path}`,
      needs: ["wrk", "nginx", ...(path === "haproxy" ? ["haproxy"] : [])],
      act: (report) =>
        withSite(path, { ...CALM, server: nginxWith(FILE_OCTETS) }, async (site) => {
          for (const count of quick ? [1, 64] : CLIENT_COUNTS) {
            const value = await site.requests(ASK_SECONDS, count) * FILE_OCTETS / 1e6;
            report.add("clients", { series: `${count}: ${path}`, unit: "MB/s", value });
          }
        }),
    })),
};

/** Groups that are written and made durable, octets; and for how long each is tried. */
const GROUPS = [4096, 65_536, MIB, 8 * MIB] as const;
const GROUP_MS = 1000;
const DISK_UPLOAD = 2 ** 28;
const DISK_PINGS = 500;
/** How much worse than the disk itself disk mode may be. */
const DISK_SLACK = 0.2;

const WHERE_DISK =
  "A group crosses to the writer's thread and its confirmation back, 50 to 100 us a crossing, beside " +
  "fdatasync(2)";

/** The disk itself, and log mode on it. */
export const DISK: Experiment = {
  name: "disk",
  isTrial: false,
  cases: () => [
    { what: "groups written to the disk", act: measureGroups },
    ...(["log", "disk"] as const).map((path) => ({
      what: `log mode, ${path === "disk" ? "on disk" : "in memory"}`,
      act: (report: Report) =>
        withSite(path, CALM, async (site) => {
          const { p50Us } = await site.measure<PingPong>("pingpong", DISK_PINGS).result;
          report.add("disk", { series: `round trip, ${path}`, unit: "us", value: p50Us });
          const { octets, seconds } = await site.measure<Transfer>("upload", DISK_UPLOAD).result;
          const value = octets / seconds / 1e6;
          report.add("disk", { series: `upload, ${path}`, unit: "MB/s", value });
        }),
    })),
  ],
  compare: (report) => {
    const of = (series: string) => report.median("disk", series);
    // A group commit can be no faster than the disk, nor than log mode brings octets to it.
    const disk = Math.max(...GROUPS.map((octets) => of(groupSeries(octets, "rate"))));
    const fastest = Math.min(disk, of("upload, log"));
    report.targetValue("upload, log on disk / the slower of disk and log in memory", {
      unit: "x",
      value: of("upload, disk") / fastest,
    }, { atLeast: 1 - DISK_SLACK, where: WHERE_DISK });
    report.targetValue("round trip, log on disk / log in memory and one group", {
      unit: "x",
      value: of("round trip, disk") / (of("round trip, log") + of(groupSeries(4096, "time"))),
    }, { atMost: 1 + DISK_SLACK, where: WHERE_DISK });
  },
};

/** A loop of write(2) and fdatasync(2), as a log could do at best. */
async function measureGroups(report: Report): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-bench-" });
  try {
    for (const octets of GROUPS) {
      using file = await Deno.open(`${directory}/${octets}`, { write: true, create: true });
      const group = crypto.getRandomValues(new Uint8Array(Math.min(octets, 65_536)));
      const bytes = new Uint8Array(octets);
      for (let at = 0; at < octets; at += group.length) bytes.set(group, at);
      const timesUs: number[] = [];
      const startMs = performance.now();
      while (performance.now() - startMs < GROUP_MS) {
        const beforeMs = performance.now();
        for (let at = 0; at < octets;) at += file.writeSync(bytes.subarray(at));
        file.syncDataSync();
        timesUs.push((performance.now() - beforeMs) * 1000);
      }
      const seconds = (performance.now() - startMs) / 1000;
      const rate = timesUs.length * octets / seconds / 1e6;
      report.add("disk", { series: groupSeries(octets, "rate"), unit: "MB/s", value: rate });
      const middle = percentile(timesUs, 50);
      report.add("disk", { series: groupSeries(octets, "time"), unit: "us", value: middle });
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

function groupSeries(octets: number, what: "rate" | "time"): string {
  return `the disk, groups of ${octets / 1024} KiB: ${what}`;
}
