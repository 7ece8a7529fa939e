/**
 * download.ts - one large download after the other, each through the death of the host that serves it
 *
 * Theory of operation
 * The file is made once and shared by both replicas. A first download without a fault says how long
 * one takes, and the moments of the faults are spread over that time: round i of n dies at a random
 * point of the i-th n-th, so that fifty rounds reach from the first SYN to the last FIN. After each
 * round the dead host comes back as the standby.
 *
 * Servers put the time, in seconds, into an HTTP answer. Two replicas that answer in different
 * seconds have diverged, which is another test's subject: a round starts away from the turn of a
 * second.
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { type NetTestContext, repetitions, sleep, until } from "./conditions.ts";
import { type Content, makeContent } from "./content.ts";
import { type HostName, type Site, withSite } from "./harness.ts";
import { assertUnbroken } from "./verdict.ts";

const CONTENT_OCTETS = 1 << 30;
const DOWNLOAD_TIMEOUT_MS = 120_000;
/** Until both servers have agreed on the end of a connection. */
const OVER_TIMEOUT_MS = 10_000;
/** The part of a second in which a round may start. */
const SECOND_FROM_MS = 50;
const SECOND_TO_MS = 700;

/** What is downloaded from what by what. */
export interface DownloadOptions {
  /** Address family. */
  family: 4 | 6;
  /** How many rounds the project promises. */
  rounds: number;
  /** The server's command on a host; files are in `directory`/files. */
  server: (host: HostName, directory: string) => Promise<string[]>;
  /**
   * Makes the fault and returns its wall clock, milliseconds since 1970; default a crash of the host,
   * which is revived afterwards.
   */
  fault?: (site: Site, primary: HostName) => Promise<number>;
  /** What a new primary may name as the reason, and must in some round; not looked at if not given. */
  reasons?: readonly string[];
  /** The client's command: it prints the file and nothing else on standard output. */
  client: (url: string) => string[];
}

/**
 * Downloads through crashes and asserts that the client never notices.
 *
 * @param context The test's context.
 * @param options Server, client and number of rounds.
 */
export async function downloadThroughCrashes(
  context: NetTestContext,
  options: DownloadOptions,
): Promise<void> {
  const { directory, random } = context;
  await Deno.mkdir(`${directory}/files`);
  const content = makeContent(`${directory}/files/content`, CONTENT_OCTETS);
  const run = {
    a: await options.server("a", directory),
    b: await options.server("b", directory),
  };
  await withSite(context, { family: options.family, run }, async (site) => {
    await site.waitProtected();
    const { durationMs } = await download(site, options, { content });
    const rounds = repetitions(options.rounds);
    const reasons = new Set<string>();
    for (let round = 0; round < rounds; round++) {
      const momentMs = durationMs * (round + random.next()) / rounds;
      console.log(
        `round ${round + 1} of ${rounds}: fault ${momentMs.toFixed(0)} ms after the start`,
      );
      const { dead } = await download(site, options, { content, momentMs });
      const survivor = site.other(dead!);
      if (options.reasons === undefined) assert.equal(await site.primary(), survivor);
      else {
        // A server that had written all of it when it died is not missed.
        const { role, lastTakeover } = await site.service(survivor);
        if (role === "primary") reasons.add(lastTakeover?.reason ?? "none");
      }
      if (options.fault === undefined) await site.revive(dead!);
      await site.waitProtected();
    }
    if (options.reasons === undefined) return;
    const others = [...reasons].filter((reason) => !options.reasons!.includes(reason));
    assert.deepEqual([reasons.size > 0, others], [true, []]);
  });
}

/** One download, with or without a fault. */
async function download(
  site: Site,
  options: DownloadOptions,
  round: { content: Content; momentMs?: number },
): Promise<{ durationMs: number; dead?: HostName }> {
  const { content, momentMs } = round;
  const primary = await site.primary();
  // The last words of the connection before are none of this round's.
  await until(async () => {
    const all = await site.connections(primary);
    return all.every(({ state }) => state === "closed");
  }, { what: "the last round's connection to be over", timeoutMs: OVER_TIMEOUT_MS });
  const capture = await site.startCapture();
  await untilMidSecond();
  const startMs = performance.now();
  const [program, ...args] = options.client(site.url("/content"));
  const client = site.startInClient(program, args, { hashOutput: true });
  let faultMs: number | undefined;
  if (momentMs !== undefined) {
    await sleep(momentMs);
    faultMs = await (options.fault?.(site, primary) ?? site.crash(primary));
  }
  await client.mustSucceed(DOWNLOAD_TIMEOUT_MS);
  const durationMs = performance.now() - startMs;
  const dropped = await capture.stop();
  assert.deepEqual(client.outputHash(), { sha256: content.sha256, octets: content.octets });
  assertUnbroken(traceTcp(capture.path, site.address), { connections: 1, faultMs, dropped });
  await Deno.remove(capture.path);
  return { durationMs, dead: faultMs === undefined ? undefined : primary };
}

async function untilMidSecond(): Promise<void> {
  const partMs = Date.now() % 1000;
  if (partMs >= SECOND_FROM_MS && partMs < SECOND_TO_MS) return;
  await sleep((1000 + SECOND_FROM_MS - partMs) % 1000);
}
