/**
 * arbiter_test.ts - two hosts that lose each other, and a witness that decides who goes on
 *
 *   client ---- switch ---- host a ══ repl0 ══ host b      wit0 of each host ══ witness
 *
 * Claim: at a crash of the primary's host the standby asks the witness, is granted the next epoch and
 * takes over; the client never notices.
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, sleep } from "./conditions.ts";
import { mixedServer, withSite } from "./harness.ts";
import { assertUnbroken } from "./verdict.ts";

const WORKLOAD = {
  connections: 12,
  durationMs: 4000,
  momentMs: 1500,
  silentMs: 3000,
  rate: 5_000_000,
};

netTest("a standby takes over a crashed host when the witness grants it", [], async (context) => {
  await withSite(context, { witness: true, run: mixedServer() }, async (site) => {
    await site.waitProtected();
    const capture = await site.startCapture();
    const workload = await site.startWorkload({ ...WORKLOAD, seed: context.random.seed() });
    const primary = await site.primary();
    await workload.go();
    await sleep(WORKLOAD.momentMs);
    const faultMs = await site.crash(primary);
    await workload.mustSucceed(60_000);
    const dropped = await capture.stop();
    assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
    const survivor = site.other(primary);
    const status = await site.service(survivor);
    assert.equal(status.role, "primary");
    assert.equal(status.arbitration.last?.outcome, "granted");
  });
});
