/**
 * alarms.ts - how often a heartbeat is missed although nobody has died
 *
 * Theory of operation
 * One site with a hot standby (site.ts); downloads, uploads and ping-pongs take turns without a pause,
 * and twice as many programs that compute as the machine has cores compete with client, servers and both
 * daemons. Nothing is ever killed, so each of these is a false alarm:
 *
 *   takeover          the standby took the primary for dead; the site is made anew then
 *   protection lost   the primary took the standby for dead, and went on alone for a moment
 *
 * A section is a heartbeat of which three may be missed. Its figures are counts in slices of a minute, and
 * beside them what the heartbeat is for: the gap of a download whose primary host is killed, without the
 * programs that compute.
 */

import { readOptions } from "./options.ts";
import { Report } from "./report.ts";
import { Site } from "./site.ts";
import { gapAtHeartbeat } from "./takeover.ts";

const SLICE_SECONDS = 60;
/** Between two looks at what the daemons say. */
const LOOK_EVERY_MS = 100;
const DETECT = 3;
/** Programs that compute, for each core. */
const BUSY_PER_CORE = 2;
/** What the client does in turn, and how much of it. */
const TURNS = [["download", 2 ** 28], ["upload", 2 ** 28], ["pingpong", 5000]] as const;

/** Heartbeats, milliseconds, by section. */
const HEARTBEATS_MS = { "10ms": 10, "3ms": 3 } as const;
type Section = keyof typeof HEARTBEATS_MS;
const SECTIONS = Object.keys(HEARTBEATS_MS) as Section[];

const USAGE = `Usage: bench alarms [OPTION ...] [HEARTBEAT ...]
Heartbeats: ${SECTIONS.join(" ")} (all when none is named)
  --seconds N       how long each is watched (60; --quick 5)
  --kills N         kills of the primary host at each (5; --quick 1)
  --quick           a smaller run
  --add             keep the figures of an earlier run in FILE, and add these
  --against FILE    compare with the JSON of an earlier run
  --out FILE        where the JSON goes (bench/out/alarms.json)`;

/** Counts of one slice. */
interface Alarms {
  takeovers: number;
  lost: number;
}

/**
 * Runs the measurements.
 *
 * @param args See USAGE.
 * @returns Exit status: 0 all was measured, 1 something failed, 2 wrong use.
 */
export async function benchAlarms(args: string[]): Promise<number> {
  const read = readOptions(args, {
    suite: "alarms",
    usage: USAGE,
    numbers: { seconds: { usual: 60, quick: 5 }, kills: { usual: 5, quick: 1 } },
    words: SECTIONS,
  });
  if (typeof read === "number") return read;
  const { seconds, kills } = read.numbers;
  const report = new Report("alarms", read.numbers);
  if (read.add) await report.load(read.out);
  await report.printHeader();
  report.expect((slicesOf(seconds).length + kills) * read.words.length);
  for (const section of read.words) {
    await watch(report, section, seconds);
    for (let kill = 1; kill <= kills; kill++) {
      await report.attempt(`kill at ${section}, ${kill} of ${kills}`, async () => {
        const [[, value]] = await gapAtHeartbeat(HEARTBEATS_MS[section]);
        report.add(section, { series: "gap of a download", unit: "ms", value });
      });
    }
  }
  for (const section of SECTIONS) report.print(section);
  const most = report.most("10ms", "takeovers");
  if (Number.isFinite(most)) {
    const measured = { unit: "in a slice", value: most };
    report.targetValue("false takeovers at 10 ms x 3", measured, { atMost: 0 });
  }
  report.printTargets();
  if (read.against !== null) await report.printAgainst(read.against);
  await report.write(read.out);
  return report.hasFailures ? 1 : 0;
}

/** Lengths of the slices. */
function slicesOf(seconds: number): number[] {
  const full = Array.from({ length: Math.floor(seconds / SLICE_SECONDS) }, () => SLICE_SECONDS);
  return seconds % SLICE_SECONDS > 0 ? [...full, seconds % SLICE_SECONDS] : full;
}

/** Watches a heartbeat, slice by slice. */
async function watch(report: Report, section: Section, seconds: number): Promise<void> {
  for (const [index, length] of slicesOf(seconds).entries()) {
    await report.attempt(`heartbeat ${section}, slice ${index + 1}`, async () => {
      const alarms: Alarms = { takeovers: 0, lost: 0 };
      const endMs = performance.now() + length * 1000;
      while (performance.now() < endMs) await watchSite(alarms, section, endMs);
      report.add(section, { series: "watched", unit: "s", value: length });
      report.add(section, { series: "takeovers", unit: "", value: alarms.takeovers });
      report.add(section, { series: "protection lost", unit: "", value: alarms.lost });
    });
  }
}

/** Watches one site until the end or a takeover. */
async function watchSite(alarms: Alarms, section: Section, endMs: number): Promise<void> {
  const site = await Site.create("hot", { detect: DETECT, heartbeatMs: HEARTBEATS_MS[section] });
  try {
    const primary = await site.primary();
    site.keepBusy(BUSY_PER_CORE * navigator.hardwareConcurrency);
    const load = transfer(site, endMs);
    let isOver = false;
    const ended = load.then(() => null, (error: Error) => error).finally(() => isOver = true);
    let wasProtected = true;
    while (!isOver) {
      const [ours, theirs] = await Promise.all([primary, site.other(primary)].map((host) => {
        return site.service(host);
      }));
      if (theirs.role === "primary") {
        alarms.takeovers++;
        return;
      }
      if (wasProtected && !ours.protected) alarms.lost++;
      wasProtected = ours.protected;
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
    const error = await ended;
    if (error !== null) throw error;
  } finally {
    await site.destroy();
  }
}

async function transfer(site: Site, endMs: number): Promise<void> {
  for (let turn = 0; performance.now() < endMs; turn++) {
    const [way, amount] = TURNS[turn % TURNS.length];
    await site.measure(way, amount).result;
  }
}

if (import.meta.main) Deno.exit(await benchAlarms(Deno.args));
