/**
 * switch_test.ts - a service moves while everything is healthy, and nobody loses anything
 *
 *   client ---- switch ---- host a     holdfast switch web, there and back, under load
 *                    \----- host b
 *
 * Claims:
 *   switch    six times there and back, with all kinds of connection open: every octet right, no
 *             RST, no second SYN; the roles and the epoch follow each time
 *   SIGTERM   of the primary's daemon hands over first: `lastTakeover.reason` at the other host is
 *             "switch", the daemon ends with status 0, connections go on
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, sleep, until } from "./conditions.ts";
import { mixedServer, withSite } from "./harness.ts";
import { assertUnbroken } from "./verdict.ts";

const SWITCHES = 6;
const SWITCH_INTERVAL_MS = 800;
const DURATION_MS = 7000;

for (const family of [4, 6] as const) {
  netTest(`switch moves a loaded service there and back (IPv${family})`, [], async (context) => {
    await withSite(context, { family, run: mixedServer() }, async (site) => {
      await site.waitProtected();
      const capture = await site.startCapture();
      const workload = await site.startWorkload({
        seed: context.random.seed(),
        connections: 54,
        durationMs: DURATION_MS,
        momentMs: 1000 + SWITCH_INTERVAL_MS / 2,
        rate: 2_000_000,
      });
      await workload.go();
      const startMs = Date.now();
      await sleep(1000);
      for (let number = 0; number < SWITCHES; number++) {
        const from = await site.primary();
        const before = await site.service(from);
        await site.switchService(from);
        const after = await site.service(site.other(from));
        assert.deepEqual([after.role, after.epoch], ["primary", before.epoch + 1]);
        await until(async () => (await site.service(from)).role === "standby", {
          what: `${from} to be the standby`,
          timeoutMs: 3000,
        });
        await site.waitProtected();
        await sleep(SWITCH_INTERVAL_MS);
      }
      await workload.mustSucceed(60_000);
      const dropped = await capture.stop();
      const faultMs = startMs + 1000; // handshakes may lose a SYN from the first switch on
      assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
    });
  });
}

netTest("SIGTERM of the primary's daemon hands over first", [], async (context) => {
  await withSite(context, { run: mixedServer() }, async (site) => {
    await site.waitProtected();
    const capture = await site.startCapture();
    const workload = await site.startWorkload({
      seed: context.random.seed(),
      connections: 27,
      durationMs: 4000,
      momentMs: 1500,
      silentMs: 3000,
      rate: 2_000_000,
    });
    const primary = await site.primary();
    await workload.go();
    await sleep(1500);
    const faultMs = Date.now();
    assert.equal(await site.terminateDaemon(primary), 0, "exit status of the daemon");
    const service = await site.service(site.other(primary));
    assert.equal(service.role, "primary");
    assert.equal(service.lastTakeover?.reason, "switch");
    await workload.mustSucceed(60_000);
    const dropped = await capture.stop();
    assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
  });
});
