/**
 * health_test.ts - a server whose threads wait for each other is found by the service's health command
 *
 *   curl ---- switch ---- host a: daemon, server (SIGUSR1: a deadlock), health command
 *                  \----- host b: the same, in hot mode
 *
 * Nothing else finds it: the process runs, its kernel accepts and acknowledges, and lag_time is an hour.
 * Claims, with downloads under way whose hashes are compared, no RST and one SYN for each:
 *   log mode, one host   the server is replaced, and clients go on
 *   hot mode, primary    the service moves to the standby; the old primary is not ready until another server of
 *                        it works
 *   hot mode, standby    the service is not protected meanwhile, and stays where it is
 *   slow to start        nothing is asked before the server listens
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { traceTcp } from "./capture.ts";
import { netTest, sleep, until } from "./conditions.ts";
import { type HostName, type Site, withSite } from "./harness.ts";
import { assertUnbroken } from "./verdict.ts";

const OCTETS = 10_000_000;
const DOWNLOADS = 10;
const TIMEOUT_MS = 30_000;
/** Failures count from the command's first success on. */
const SETTLE_MS = 1000;
const FAILURES = 3;
const SCRIPT = new URL("./lock_server.py", import.meta.url).pathname;
/** Listens only after longer than it may be unhealthy for. */
const COMMAND = ["sh", "-c", `sleep 1; exec python3 ${SCRIPT} 80`];
const RUN = { a: COMMAND, b: COMMAND };
const HEALTH = {
  command: ["curl", "--fail", "--silent", "--show-error", "http://127.0.0.1/health"],
  every: "100ms",
  timeout: "300ms",
  failures: FAILURES,
};
const SEEN = new RegExp(
  `^its health command failed ${FAILURES} times in a row, at last: it took longer than 300 ms$`,
);

/** Downloads through a fault in their midst; when it happened, milliseconds since 1970. */
async function downloadThrough(site: Site, fault: () => Promise<number>): Promise<void> {
  const capture = await site.startCapture();
  const args = ["--silent", "--show-error", "--fail", site.url(`/${OCTETS}`)];
  const clients = Array.from(
    { length: DOWNLOADS },
    () => site.startInClient("curl", args, { hashOutput: true }),
  );
  await sleep(700);
  const faultMs = await fault();
  const sha256 = createHash("sha256").update("0123456789".repeat(OCTETS / 10)).digest("hex");
  for (const client of clients) {
    await client.mustSucceed(TIMEOUT_MS);
    assert.deepEqual(client.outputHash(), { sha256, octets: OCTETS });
  }
  const dropped = await capture.stop();
  const trace = traceTcp(capture.path, site.address);
  assertUnbroken(trace, { connections: DOWNLOADS, faultMs, dropped });
  await Deno.remove(capture.path);
}

/** What a host has judged of its server. */
async function judged(site: Site, host: HostName): Promise<[string, unknown, string][]> {
  return (await site.service(host)).judgements
    .map(({ judgement, evidence }) => [judgement, evidence.act, String(evidence.seen)]);
}

netTest("log mode: a server in a deadlock is replaced, and clients do not notice", [
  "python3",
  "curl",
], async (context) => {
  const service = { mode: "log", lag_time: "1h", health: HEALTH };
  await withSite(context, { run: RUN, service, alone: true, hosts: ["a"] }, async (site) => {
    await site.waitPrimary("a");
    await sleep(SETTLE_MS);
    await downloadThrough(site, () => site.signalServer("a", "SIGUSR1"));
    const { app, recovery, warnings } = await site.service("a");
    assert.deepEqual([app.restarts, app.lastExit, warnings], [1, "SIGKILL", []]);
    assert.equal(recovery?.last?.reason, "app-hangs");
    const [[judgement, act, seen], ...more] = await judged(site, "a");
    assert.deepEqual([judgement, act, more], ["app-hangs", "replay", []]);
    assert.match(seen, SEEN);
  });
});

netTest("hot mode: a server in a deadlock is left for the standby's, and is no standby itself", [
  "python3",
  "curl",
], async (context) => {
  const service = { lag_time: "1h", health: HEALTH };
  await withSite(context, { run: RUN, service }, async (site) => {
    await site.waitProtected();
    await sleep(SETTLE_MS);
    const primary = await site.primary();
    const standby = site.other(primary);
    const isProtected = async (wanted: boolean) =>
      await until(async () => (await site.service(await site.primary())).protected === wanted, {
        what: `protected to be ${wanted}`,
        timeoutMs: TIMEOUT_MS,
      });
    // Of the standby.
    await site.signalServer(standby, "SIGUSR1");
    await isProtected(false);
    assert.deepEqual((await site.service(standby)).warnings, ["its server hangs"]);
    assert.equal(await site.primary(), primary);
    await site.signalServer(standby, "SIGKILL");
    await isProtected(true);
    // Of the primary.
    await downloadThrough(site, () => site.signalServer(primary, "SIGUSR1"));
    assert.equal(await site.primary(), standby);
    const { lastTakeover, protected: still } = await site.service(standby);
    assert.deepEqual([lastTakeover?.reason, still], ["app-hangs", false]);
    const [judgement, act, seen] = (await judged(site, primary)).at(-1)!;
    assert.deepEqual([judgement, act], ["app-hangs", "hand-over"]);
    assert.match(seen, SEEN);
    await site.signalServer(primary, "SIGKILL");
    await isProtected(true);
  });
});
