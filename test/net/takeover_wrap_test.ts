/**
 * takeover_wrap_test.ts - a crash after the sequence number has wrapped
 *
 *   client ---- switch ---- host a: mixed server
 *                    \----- host b: mixed server
 *
 * Claim: 5 GB go through one connection, so the 32-bit sequence number wraps whatever it began with;
 * the primary's host loses power after that, and the client still gets every octet.
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, until } from "./conditions.ts";
import { mixedServer, withSite } from "./harness.ts";
import { assertUnbroken } from "./verdict.ts";

const OCTETS = 5_000_000_000;
/** Past the wrap for every initial sequence number, and well before the end. */
const FAULT_AFTER_OCTETS = 2 ** 32 + 50_000_000;
const TIMEOUT_MS = 180_000;

netTest("5 GB through one connection survive a crash after the wrap", [], async (context) => {
  await withSite(context, { run: mixedServer() }, async (site) => {
    await site.waitProtected();
    const capture = await site.startCapture();
    const workload = await site.startWorkload({
      seed: context.random.seed(),
      connections: 1,
      mix: ["bulk"],
      bulkOctets: OCTETS,
    });
    const primary = await site.primary();
    await workload.go();
    await until(async () => {
      const [connection] = await site.connections(primary);
      return connection !== undefined && connection.bytesOut > FAULT_AFTER_OCTETS;
    }, { what: `${FAULT_AFTER_OCTETS} octets to be sent`, timeoutMs: TIMEOUT_MS });
    const faultMs = await site.crash(primary);
    await workload.mustSucceed(TIMEOUT_MS);
    const dropped = await capture.stop();
    const trace = traceTcp(capture.path, site.address);
    assertUnbroken(trace, { connections: 1, faultMs, dropped });
    assert.equal(trace.connections[0].serverOctets, OCTETS);
  });
});
