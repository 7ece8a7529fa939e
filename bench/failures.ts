/**
 * failures.ts - ST-TCP's single failures, and M-TCP's moves, under clients that check every octet
 *
 * Theory of operation
 * papers.ts says what each experiment shows. Clients and servers are the lab's: each octet's place in a
 * known stream is checked by a hash over all of it. Who lost something throws, so it is a failure of
 * the run, by name. A witness decides who may go on alone, so no failure makes two primaries.
 */

import type { Gap } from "../runtime/lab/recorder.ts";
import { wallClockMs } from "../runtime/lab/recorder.ts";
import type { Held, Transfer } from "./client.ts";
import type { Case, Experiment } from "./experiment.ts";
import type { Report } from "./report.ts";
import { LAB_SERVERS, type ServerPlan, type Site, withSite } from "./site.ts";
import { longestGap, sleepRandom } from "./takeover.ts";
import { PACE_MS, PACE_OCTETS } from "./wire.ts";

const MIB = 2 ** 20;
/** Heartbeats of 10 ms that may be missed: three programs more than elsewhere compete for the cores. */
const DETECT = 10;
/** Heartbeats that may be missed where no host dies. */
const DETECT_CALM = 50;
/** How long a server may lag before it hangs, and an end of one server alone may wait, for the failures. */
const LIMITS = { lag_time: "500ms", fin_wait: "1s" };
/** How long after a failure gaps may be its doing, milliseconds. */
const REACH_MS = 2000;
/** What each client moves: long enough for a failure in its midst. */
const TRANSFERS = { file: 512 * MIB, upload: 256 * MIB, echo: 128 * MIB } as const;

/** Something that happens to one of two hosts. */
interface Failure {
  /** What people call it. */
  name: string;
  /** Makes it happen; gives when, wall clock in milliseconds. */
  strike: (site: Site, hosts: { primary: string; standby: string }) => Promise<number> | number;
}

/** When something that takes a moment was begun. */
async function begun(act: () => Promise<unknown>): Promise<number> {
  const atMs = wallClockMs();
  await act();
  return atMs;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The replication link between the hosts goes down, for some time. */
function cutBetween(ms: number): Failure["strike"] {
  return ({ topology }, { primary }) =>
    begun(async () => {
      await topology.setLink(primary, "repl0", false);
      await pause(ms);
      await topology.setLink(primary, "repl0", true);
    });
}

const FAILURE_ROWS: readonly Failure[] = [
  { name: "host crash, primary", strike: (site, { primary }) => site.crash(primary) },
  { name: "host crash, standby", strike: (site, { standby }) => site.crash(standby) },
  {
    name: "client network's cable, primary",
    strike: ({ topology }, { primary }) => begun(() => topology.setLink(primary, "client", false)),
  },
  {
    name: "client network's cable, standby",
    strike: ({ topology }, { standby }) => begun(() => topology.setLink(standby, "client", false)),
  },
  {
    name: "deaf network card, primary",
    strike: ({ topology }, { primary }) => begun(() => topology.setDeaf(primary, true)),
  },
  {
    name: "server dies, its kernel says FIN or RST, primary",
    strike: (site, { primary }) => site.signalServer(primary, "SIGKILL"),
  },
  {
    name: "server dies, its kernel says FIN or RST, standby",
    strike: (site, { standby }) => site.signalServer(standby, "SIGKILL"),
  },
  {
    name: "server hangs, primary",
    strike: (site, { primary }) => site.signalServer(primary, "SIGSTOP"),
  },
  {
    name: "server hangs, standby",
    strike: (site, { standby }) => site.signalServer(standby, "SIGSTOP"),
  },
  {
    name: "daemon dies, primary",
    strike: (site, { primary }) => site.signalDaemon(primary, "SIGKILL"),
  },
  {
    name: "daemon hangs, primary",
    strike: (site, { primary }) => site.signalDaemon(primary, "SIGSTOP"),
  },
  { name: "standby hears nothing for 50 ms", strike: cutBetween(50) },
  { name: "standby hears nothing for 500 ms", strike: cutBetween(500) },
];

/** Each single failure. */
export const FAILURES: Experiment = {
  name: "failures",
  isTrial: true,
  cases: (quick) =>
    FAILURE_ROWS.filter((_, index) => !quick || index % 7 === 0).map((failure) => ({
      what: failure.name,
      act: (report) =>
        withSite("hot", {
          detect: DETECT,
          witness: true,
          server: LAB_SERVERS,
          service: LIMITS,
        }, (site) => endure(report, site, failure)),
    })),
};

async function endure(report: Report, site: Site, { name, strike }: Failure): Promise<void> {
  const primary = await site.primary();
  const hosts = { primary, standby: site.other(primary) };
  const kinds = ["file", "upload", "echo"] as const;
  const runs = kinds.map((kind) => site.startChecked(kind, TRANSFERS[kind]));
  await Promise.all(runs.map(({ started }) => started));
  await sleepRandom();
  const atMs = await strike(site, hosts);
  const results = await Promise.all(runs.map(({ result }) => result));
  const survived = results.filter(({ ok }) => ok).length;
  report.add("failures", {
    series: `${name}: survived`,
    unit: `of ${runs.length}`,
    value: survived,
  });
  for (const [index, kind] of kinds.entries()) {
    if (!results[index].ok) continue;
    const value = longestGap(results[index].gaps, atMs, atMs + REACH_MS).ms;
    report.add("failures", { series: `${name}: ${GAP_NAMES[kind]}`, unit: "ms", value });
  }
  report.remark(`${name}: ${await site.judged()}`);
  const errors = results.filter(({ ok }) => !ok).map(({ error }) => error ?? "another hash");
  if (errors.length > 0) throw new Error(errors.join("; "));
}

const GAP_NAMES = {
  file: "gap of the download",
  upload: "gap of the upload",
  echo: "gap of the echo",
};

/** A stream, as long as it takes at its pace, milliseconds; and when its server degrades. */
const STREAM_MS = 4000;
const DEGRADE_AFTER_MS = 1000;
/** The degraded server is stopped, and runs, in turn for so long, milliseconds. */
const [STOPPED_MS, RUNNING_MS] = [80, 20];
/** What the policy calls the rate: octets of the last so many milliseconds; and how often it looks. */
const RATE_OVER_MS = 300;
const LOOK_EVERY_MS = 20;
/** Below so many percent of its running estimate the policy calls for a switch; 0: never. */
const THRESHOLDS = [0, 30, 60, 90] as const;

/** A paced stream under a degraded server. */
export const DEGRADED: Experiment = {
  name: "degraded",
  isTrial: false,
  cases: (quick) =>
    THRESHOLDS.filter((threshold) => !quick || threshold === 60).map((threshold) => ({
      what: threshold === 0
        ? "a degraded server without a policy"
        : `a degraded server, switch below ${threshold} %`,
      act: (report) => {
        // What is measured is the policy's switch, so Holdfast itself must not find a hang.
        const service = { lag_time: "1h", lag_bytes: "1GiB" };
        return withSite("hot", { detect: DETECT_CALM, service }, (site) => {
          return streamDegraded(report, site, threshold);
        });
      },
    })),
};

async function streamDegraded(report: Report, site: Site, threshold: number): Promise<void> {
  const primary = await site.primary();
  const octets = STREAM_MS / PACE_MS * PACE_OCTETS;
  const run = site.measure<Transfer>("paced", octets);
  await run.started;
  const startMs = performance.now();
  const far = () => Number(/octets (\d+)\n(?![^]*octets)/.exec(run.said())?.[1] ?? 0);
  let isOver = false;
  const ended = run.result.finally(() => isOver = true);
  ended.catch(() => {}); // It is awaited below.
  await pause(DEGRADE_AFTER_MS);
  const degradedAtMs = performance.now();
  const before = far();
  const degraded = degrade(site.serverPids(primary), () => isOver);
  degraded.catch(() => {}); // It is awaited below, unless the site is gone by then.
  let switchedAfterMs: number | null = null;
  if (threshold > 0) {
    const estimate = before / (degradedAtMs - startMs);
    await watchRate({ far, isOver: () => isOver, below: estimate * threshold / 100 });
    if (!isOver) {
      switchedAfterMs = performance.now() - degradedAtMs;
      await site.switchService(primary);
    }
  }
  const result = await ended;
  await degraded;
  const afterMs = result.seconds * 1000 - (degradedAtMs - startMs);
  const share = (octets - before) / afterMs / (before / (degradedAtMs - startMs));
  const name = threshold === 0 ? "no policy" : `below ${threshold} %`;
  report.add("degraded", { series: `${name}: rate`, unit: "%", value: 100 * share });
  if (switchedAfterMs === null) return;
  report.add("degraded", { series: `${name}: switched after`, unit: "ms", value: switchedAfterMs });
}

/** Stops processes most of the time, until `isOver`; they run in the end. */
async function degrade(pids: readonly number[], isOver: () => boolean): Promise<void> {
  while (!isOver()) {
    for (const pid of pids) Deno.kill(pid, "SIGSTOP");
    await pause(STOPPED_MS);
    for (const pid of pids) Deno.kill(pid, "SIGCONT");
    await pause(RUNNING_MS);
  }
}

/** The policy: waits until so many octets a millisecond are no longer reached, or all is over. */
async function watchRate(
  { far, isOver, below }: { far: () => number; isOver: () => boolean; below: number },
): Promise<void> {
  const seen: { atMs: number; octets: number }[] = [];
  while (!isOver()) {
    const now = { atMs: performance.now(), octets: far() };
    seen.push(now);
    while (now.atMs - seen[0].atMs > RATE_OVER_MS) seen.shift();
    const overMs = now.atMs - seen[0].atMs;
    const isFull = overMs > RATE_OVER_MS - 2 * LOOK_EVERY_MS;
    if (isFull && (now.octets - seen[0].octets) / overMs < below) return;
    await pause(LOOK_EVERY_MS);
  }
}

/** Connections that one switch moves. */
const MOVED = [1, 100, 1000, 10_000] as const;
/** A download that is moved again and again, and for how many times at most. */
const MOVED_OCTETS = 2048 * MIB;
const MOVES_MAX = 10;
/** How long after a switch gaps may be its doing, milliseconds. */
const SWITCH_REACH_MS = 200;
const INCREMENTS = 2000;
const REDIS_PORT = 6379;
/** redis-server that keeps nothing on disk. */
export const REDIS: ServerPlan = {
  ports: [REDIS_PORT],
  command: ({ address, directory }) => [
    ...["redis-server", "--bind", address, "--port", `${REDIS_PORT}`, "--protected-mode", "no"],
    ...["--save", "", "--dir", directory],
  ],
};
/** A client that asks for one number after the other. */
export function redisSeries(address: string, count: number): string[] {
  return ["redis-cli", "-h", address, "-r", `${count}`, "-i", "0.001", "INCR", "n"];
}

/** One connection, switched there and back for as long as it lives. */
const MOVED_AGAIN: readonly Case[] = [
  {
    what: "one download, switched again and again",
    act: (report) =>
      withSite("hot", { detect: DETECT_CALM, server: LAB_SERVERS }, async (site) => {
        const run = site.startChecked("file", MOVED_OCTETS);
        await run.started;
        const moves = await moveAgain(site, run.result);
        const { ok, error, gaps } = await run.result;
        if (!ok) throw new Error(error ?? "another hash");
        report.add("moves", { series: "of one download", unit: "", value: moves.length });
        report.addAll("moves", {
          series: "gap of each of them",
          unit: "ms",
          values: moves.map((atMs) => gapAround(gaps, atMs)),
        });
      }),
  },
  {
    what: "redis-cli's series through switches",
    needs: ["redis-server", "redis-cli"],
    act: (report) =>
      withSite("hot", { detect: DETECT_CALM, server: REDIS }, async (site) => {
        const { topology } = site;
        const series = topology.client.exec(redisSeries(topology.serviceAddress, INCREMENTS));
        const moves = await moveAgain(site, series);
        const { stdout, stderr } = await series;
        const answers = stdout.trim().split("\n");
        const wrong = Array.from({ length: INCREMENTS }, (_, i) => i)
          .filter((i) => answers[i] !== `${i + 1}`).length;
        report.add("moves", { series: "of one series of INCR", unit: "", value: moves.length });
        report.add("moves", { series: "wrong answers of INCR", unit: "", value: wrong });
        if (wrong > 0) throw new Error(`${wrong} of ${INCREMENTS} answers are wrong: ${stderr}`);
      }),
  },
];

/** Planned switches. */
export const MOVES: Experiment = {
  name: "moves",
  isTrial: false,
  cases: (quick) => [
    ...MOVED.filter((count) => !quick || count === 100).map((count) => ({
      what: `a switch of ${count.toLocaleString("en")} connections`,
      act: (report: Report) =>
        withSite("hot", { detect: DETECT_CALM }, async (site) => {
          const primary = await site.primary();
          const run = site.measure<Held>("hold", count);
          await run.started;
          await site.waitHot(primary, count);
          const { gapMs } = await site.switchService(primary);
          await run.proceed();
          const { opened, lost, firstError } = await run.result;
          if (lost > 0) throw new Error(`${lost} of ${opened} were lost: ${firstError}`);
          const series = `${count.toLocaleString("en")}: nobody spoke`;
          report.add("moves", { series, unit: "ms", value: gapMs });
        }),
    })),
    ...(quick ? [] : MOVED_AGAIN),
  ],
};

/** Switches there and back until a client is through; gives when. */
async function moveAgain(site: Site, client: Promise<unknown>): Promise<number[]> {
  let isOver = false;
  client.then(() => isOver = true, () => isOver = true);
  const moves: number[] = [];
  while (moves.length < MOVES_MAX) {
    await sleepRandom();
    if (isOver) break;
    moves.push(wallClockMs());
    await site.switchService(await site.primary());
    await site.waitProtected();
  }
  return moves;
}

/** The longest gap within a second of a switch; at most the shortest that was kept, where none was. */
function gapAround(gaps: readonly Gap[], atMs: number): number {
  const around = gaps.filter((gap) =>
    gap.atMs + gap.ms >= atMs && gap.atMs <= atMs + SWITCH_REACH_MS
  );
  const lengths = (around.length > 0 ? around : gaps).map(({ ms }) => ms);
  return around.length > 0 ? Math.max(...lengths) : Math.min(...lengths);
}
