/**
 * takeover.ts - what a client sees when its server's host dies, or hands over
 *
 * Theory of operation
 * Real kernels in network namespaces (site.ts), client and servers of our own (client.ts, server.ts).
 * Everything shares one machine, and all clocks are its own, so the times that client and daemons note can
 * be compared. Sections:
 *
 *   download   the primary host loses its links and all its processes at a random moment of a download
 *   upload     the same during an upload
 *   switch     a planned switch during a download
 *   many       so many live connections, one kill; each must carry an octet there and back afterwards
 *
 * Heartbeat is 10 ms. Where a gap is measured three may be missed (`detect = 3`); for many connections
 * DETECT_CALM, as what is measured there begins with the suspicion.
 *
 * A gap is the longest time in which the client saw nothing move that touches the time from the fault to
 * the first segments of the new primary. It is cut where that daemon noted a step of its own:
 *
 *   last octet seen | detection | suspicion | takeover | first segments sent | residue | next octet seen
 *
 * At a switch "detection" is the old primary's: from the last octet seen until it has handed over.
 * The residue of an upload holds the client's own retransmission time-out, 200 ms on Linux, which begins
 * when its last segment left: the gap beyond it is shown too.
 *
 * What follows within a second may hold a longer one (the machine's own, or a server that starts slowly):
 * "longest within 1 s" tells.
 *
 * A takeover that began before the fault, or after a planned switch, is a false one and fails the run, and
 * so does every connection that was lost.
 */

import type { Gap } from "../runtime/lab/recorder.ts";
import { wallClockMs } from "../runtime/lab/recorder.ts";
import type { TakeoverStatus } from "../runtime/status.ts";
import type { Held, Transfer } from "./client.ts";
import { readOptions } from "./options.ts";
import { Report } from "./report.ts";
import { connectionsMost, Site, withSite } from "./site.ts";

const MIB = 2 ** 20;
const DETECT = 3;
/** Long enough for a fault in its midst. */
const DOWNLOAD_OCTETS = 1024 * MIB;
const DETECT_CALM = 50;
/** Retransmission timeout of a Linux client at least; tcp(7), tcp_rto_min. */
const RTO_MIN_MS = 200;
/** Faults come between these times after a transfer began, milliseconds. */
const FAULT_AFTER_MS = [100, 400] as const;
/** How long after a fault gaps may be its doing, milliseconds. */
const FAULT_REACH_MS = 1000;
/** Clocks of two processes may differ by this much: they read the wall clock at different moments. */
const CLOCK_SLACK_MS = 2;
/** Failures in a row after which a series of faults is given up. */
const FAILURES_MAX = 3;
/** Live connections that are taken over at once. */
const CROWDS = [1, 100, 1000, 10_000] as const;
const QUICK_CROWDS = [1, 1000] as const;

const SECTIONS = ["download", "upload", "switch", "many"] as const;

const USAGE = `Usage: bench takeover [OPTION ...] [SECTION ...]
Sections: ${SECTIONS.join(" ")} (all when none is named)
  --kills N         kills during downloads, and again during uploads (20; --quick 2)
  --switches N      planned switches (20; --quick 2)
  --crowds N        repetitions of ${CROWDS.join(", ")} connections (3; --quick 1)
  --octets N        octets of a transfer (1 GiB)
  --quick           a smaller run
  --add             keep the figures of an earlier run in FILE, and add these
  --against FILE    compare with the JSON of an earlier run
  --out FILE        where the JSON goes (bench/out/takeover.json)`;

/** What is wanted, milliseconds. */
const TARGETS_MS = { gap: 45, gapP99: 120, switch: 3, single: 3, crowd: 100 } as const;
const WHERE_SWITCH =
  "The parts in the table: until the old primary has handed over (detection), then the new one's adopt and " +
  "its first segments";
const WHERE_SINGLE =
  "Most is adopt: what the peer had sent is drained, and the epoch is claimed on the main thread";
const WHERE_CROWD =
  "Almost all is speak: each connection's octets and ACK are written to the TUN, and within that write(2) the " +
  "client's kernel takes them";

interface Options {
  kills: number;
  switches: number;
  crowds: number;
  octets: number;
  /** Connections that are taken over at once. */
  counts: readonly number[];
}

/**
 * Runs the measurements.
 *
 * @param args See USAGE.
 * @returns Exit status: 0 all was measured, 1 something failed, 2 wrong use.
 */
export async function benchTakeover(args: string[]): Promise<number> {
  const read = readOptions(args, {
    suite: "takeover",
    usage: USAGE,
    numbers: {
      kills: { usual: 20, quick: 2 },
      switches: { usual: 20, quick: 2 },
      crowds: { usual: 3, quick: 1 },
      octets: { usual: DOWNLOAD_OCTETS },
    },
    words: SECTIONS,
  });
  if (typeof read === "number") return read;
  const options: Options = { ...read.numbers, counts: read.quick ? QUICK_CROWDS : CROWDS };
  const report = new Report("takeover", options);
  if (read.add) await report.load(read.out);
  await report.printHeader();
  report.expect(attemptsOf(read.words, options));
  if (read.words.includes("download")) await measureKills(report, "download", options);
  if (read.words.includes("upload")) await measureKills(report, "upload", options);
  if (read.words.includes("switch")) await measureSwitches(report, options);
  if (read.words.includes("many")) await measureMany(report, options);
  for (const section of SECTIONS) report.print(section);
  report.target("download", "gap", { atMost: TARGETS_MS.gap });
  report.targetP99("download", "gap", { atMost: TARGETS_MS.gapP99 });
  report.target("switch", "gap", { atMost: TARGETS_MS.switch, where: WHERE_SWITCH });
  report.target("many", seriesOf(1, "adopt to speak"), {
    atMost: TARGETS_MS.single,
    where: WHERE_SINGLE,
  });
  report.target("many", seriesOf(10_000, "adopt to speak"), {
    atMost: TARGETS_MS.crowd,
    where: WHERE_CROWD,
  });
  report.printTargets();
  if (read.against !== null) await report.printAgainst(read.against);
  await report.write(read.out);
  return report.hasFailures ? 1 : 0;
}

function attemptsOf(sections: readonly string[], options: Options): number {
  const { kills, switches, crowds, counts: together } = options;
  const counts: Record<string, number> = {
    download: kills,
    upload: kills,
    switch: switches,
    many: crowds * together.length,
  };
  return sections.reduce((sum, section) => sum + counts[section], 0);
}

/** Kills of the primary during transfers. */
async function measureKills(
  report: Report,
  way: "download" | "upload",
  { kills, octets }: Options,
): Promise<void> {
  await withFaults(report, { what: `kill during ${way}`, count: kills }, async (site) => {
    const { victim, ...seen } = await killDuring(site, way, octets);
    addGap(report, way, seen);
    await site.revive(victim);
  });
}

/** What a client saw of a fault, and when and what it was. */
interface Seen {
  gaps: readonly Gap[];
  atMs: number;
  takeover: TakeoverStatus;
}

/**
 * Kills the primary's host at a random moment of a transfer.
 *
 * @returns What was seen, and which host it was.
 */
async function killDuring(
  site: Site,
  way: "download" | "upload",
  octets: number,
): Promise<Seen & { victim: string }> {
  const victim = await site.primary();
  const run = site.measure<Transfer>(way, octets);
  await run.started;
  await sleepRandom();
  const atMs = await site.crash(victim);
  const { gaps } = await run.result;
  const { lastTakeover } = await site.waitTakeover(site.other(victim));
  mustFollow(lastTakeover!, atMs);
  return { gaps, atMs, takeover: lastTakeover!, victim };
}

/** The gap of a download whose primary host is killed, at a heartbeat of which three may be missed. */
export async function gapAtHeartbeat(heartbeatMs: number): Promise<[part: string, ms: number][]> {
  let parts: [string, number][] = [];
  await withSite("hot", { detect: DETECT, heartbeatMs }, async (site) => {
    const { gaps, atMs, takeover } = await killDuring(site, "download", DOWNLOAD_OCTETS);
    parts = gapParts(longestGap(gaps, atMs, takeover.timeline.firstByteMs), takeover);
  });
  return parts;
}

/** Adds a gap and its parts. */
function addGap(
  report: Report,
  section: "download" | "upload" | "switch",
  { gaps, atMs, takeover }: Seen,
): void {
  const { suspectMs, adoptedMs, claimedMs, firstByteMs } = takeover.timeline;
  const gap = longestGap(gaps, atMs, firstByteMs);
  const parts: [series: string, value: number][] = [
    ...gapParts(gap, takeover),
    ["of detection: before the fault", Math.max(0, atMs - gap.atMs)],
    ["of takeover: adopt", adoptedMs - suspectMs],
    ["of takeover: claim", claimedMs - adoptedMs],
    ["of takeover: speak", firstByteMs - claimedMs],
    ["longest within 1 s", longestGap(gaps, atMs, atMs + FAULT_REACH_MS).ms],
  ];
  if (section === "upload") {
    parts.push(["gap beyond the client's RTO", Math.max(0, gap.ms - RTO_MIN_MS)]);
    // A shorter gap has not waited for it: what was in flight had arrived before the fault.
    const share = gap.ms < RTO_MIN_MS ? 0 : 100 * RTO_MIN_MS / gap.ms;
    parts.push(["client's RTO, share of the gap in %", share]);
  }
  for (const [series, value] of parts) {
    report.add(section, { series, unit: series.endsWith("%") ? "%" : "ms", value });
  }
}

/** A gap, cut where the new primary noted steps of its own. */
function gapParts(gap: Gap, { timeline }: TakeoverStatus): [part: string, ms: number][] {
  const { suspectMs, firstByteMs } = timeline;
  return [
    ["gap", gap.ms],
    ["detection", suspectMs - gap.atMs],
    ["takeover", firstByteMs - suspectMs],
    ["residue", gap.atMs + gap.ms - firstByteMs],
  ];
}

/** Planned switches during downloads, there and back. */
async function measureSwitches(report: Report, { switches, octets }: Options): Promise<void> {
  await withFaults(report, { what: "switch", count: switches }, async (site) => {
    const primary = await site.primary();
    const run = site.measure<Transfer>("download", octets);
    await run.started;
    await sleepRandom();
    const atMs = wallClockMs();
    const { gapMs } = await site.switchService(primary);
    const { gaps } = await run.result;
    const { lastTakeover } = await site.waitTakeover(site.other(primary), "switch");
    if (await site.primary() === primary) throw new Error("The old primary is primary again");
    addGap(report, "switch", { gaps, atMs, takeover: lastTakeover! });
    report.add("switch", { series: "gapMs, as the daemons see it", unit: "ms", value: gapMs });
    await site.waitProtected();
  });
}

/** Live connections by the thousand and one kill. */
async function measureMany(report: Report, { crowds, counts }: Options): Promise<void> {
  const most = connectionsMost("hot");
  for (const count of counts.filter((count) => count > most)) {
    report.skip(seriesOf(count, "takeover"), `a process may have ${most} connections here`);
  }
  for (let round = 1; round <= crowds; round++) {
    for (const count of counts.filter((count) => count <= most)) {
      await report.attempt(`${count} connections, round ${round}`, () => {
        return measureCrowd(report, count);
      });
    }
  }
}

async function measureCrowd(report: Report, count: number): Promise<void> {
  await withSite("hot", { detect: DETECT_CALM }, async (site) => {
    const primary = await site.primary();
    const standby = site.other(primary);
    const before = await Promise.all([primary, standby].map((host) => site.residentOctets(host)));
    const run = site.measure<Held>("hold", count);
    await run.started;
    await site.waitHot(primary, count);
    const after = await Promise.all([primary, standby].map((host) => site.residentOctets(host)));
    const atMs = await site.crash(primary);
    const { lastTakeover } = await site.waitTakeover(standby);
    mustFollow(lastTakeover!, atMs);
    await run.proceed();
    const { opened, lost, firstError, exchangeMs } = await run.result;
    const { timeline, takeoverMs, connections } = lastTakeover!;
    const figures: [what: string, unit: string, value: number][] = [
      ["adopt to speak", "ms", takeoverMs],
      ["adopt", "ms", timeline.adoptedMs - timeline.suspectMs],
      ["claim", "ms", timeline.claimedMs - timeline.adoptedMs],
      ["lost", "", lost],
      ["an octet there and back on all", "ms", exchangeMs],
    ];
    if (count >= 1000) {
      figures.push(["memory of the primary's daemon", "octets", (after[0] - before[0]) / count]);
      figures.push(["memory of the standby's daemon", "octets", (after[1] - before[1]) / count]);
    }
    for (const [what, unit, value] of figures) {
      report.add("many", { series: seriesOf(count, what), unit, value });
    }
    if (connections !== count) throw new Error(`The daemon took ${connections} over, not ${count}`);
    if (lost > 0) throw new Error(`${lost} of ${opened} connections were lost: ${firstError}`);
  });
}

function seriesOf(count: number, what: string): string {
  return `${count.toLocaleString("en")}: ${what}`;
}

/**
 * Makes sure that a takeover is what the fault caused.
 *
 * @throws {Error} When it began before it.
 */
function mustFollow({ timeline, reason }: TakeoverStatus, atMs: number): void {
  const earlyMs = atMs - timeline.suspectMs;
  if (earlyMs < CLOCK_SLACK_MS) return;
  throw new Error(`A false takeover (${reason}), ${earlyMs.toFixed(1)} ms before the fault`);
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

/**
 * The longest gap that touches a span of time.
 *
 * @throws {Error} When none does.
 */
export function longestGap(gaps: readonly Gap[], fromMs: number, toMs: number): Gap {
  const touching = gaps.filter((gap) => gap.atMs + gap.ms >= fromMs && gap.atMs <= toMs);
  if (touching.length === 0) throw new Error("The transfer had ended before the fault");
  return touching.reduce((longest, gap) => gap.ms > longest.ms ? gap : longest);
}

/** Until a fault's moment. */
export async function sleepRandom(): Promise<void> {
  const [least, most] = FAULT_AFTER_MS;
  const ms = least + Math.random() * (most - least);
  await new Promise((resolve) => setTimeout(resolve, ms));
}

if (import.meta.main) Deno.exit(await benchTakeover(Deno.args));
