/**
 * takeover_mixed_test.ts - two hundred connections of every kind through the death of their host
 *
 *   client: 200 connections ---- switch ---- host a: mixed server
 *                                     \----- host b: mixed server
 *
 * Claim: download, upload, echo both ways at once, requests one after the other, a reader whose
 * window is zero, half-close by client and by server, silence (a minute in the full run), handshakes
 * spread around the fault: every one of them completes with every octet right when the primary's
 * host loses power once, over IPv4 and over IPv6. The capture holds no RST and no second SYN but
 * that of a handshake whose first SYN died with the host.
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, repetitions, sleep } from "./conditions.ts";
import { mixedServer, withSite } from "./harness.ts";
import { assertUnbroken } from "./verdict.ts";

const CONNECTIONS = 200;
const DURATION_MS = 8000;
/** Silence of a silent connection: a minute in the full run, a tenth of it otherwise. */
const SILENT_MS = repetitions(600) * 100;

for (const family of [4, 6] as const) {
  netTest(`200 mixed connections survive one crash over IPv${family}`, [], async (context) => {
    await withSite(context, { family, run: mixedServer() }, async (site) => {
      await site.waitProtected();
      const capture = await site.startCapture();
      const momentMs = Math.round(context.random.between(1500, 4000));
      const workload = await site.startWorkload({
        seed: context.random.seed(),
        connections: CONNECTIONS,
        durationMs: DURATION_MS,
        momentMs,
        silentMs: SILENT_MS,
      });
      const primary = await site.primary();
      await workload.go();
      await sleep(momentMs);
      const faultMs = await site.crash(primary);
      await workload.mustSucceed(DURATION_MS + SILENT_MS + 60_000);
      const dropped = await capture.stop();
      const trace = traceTcp(capture.path, site.address);
      assertUnbroken(trace, { faultMs, dropped });
      assert.ok(trace.connections.some((connection) => connection.clientZeroWindows > 0));
      assert.equal((await site.service(site.other(primary))).role, "primary");
    });
  });
}
