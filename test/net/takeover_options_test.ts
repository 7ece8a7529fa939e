/**
 * takeover_options_test.ts - every choice of TCP options and odd sizes of link through a crash
 *
 *   client (timestamps, SACK, window scaling on or off; MTU 1280, 1500, 9000) ---- switch ---- a, b
 *
 * Claims: uploads, downloads and echoes go on through the death of the primary's host whichever
 * options the client's kernel offers and whichever MTU its link has; and what both sides agreed on
 * in the handshake is what the capture shows to the end: timestamps in every segment, none going
 * back. Hosts whose interfaces differ in MTU take over from each other in both directions.
 */

import assert from "node:assert/strict";
import { type TcpTrace, traceTcp } from "./capture.ts";
import { netTest, type NetTestContext, sleep } from "./conditions.ts";
import { mixedServer, type Site, type SiteOptions, withSite } from "./harness.ts";
import { assertUnbroken } from "./verdict.ts";

const DURATION_MS = 2500;
/** Octets per second of the fastest connection: enough to need a scaled window. */
const RATE = 12_000_000;

/** One setting of the client. */
interface Setting {
  timestamps: boolean;
  sack: boolean;
  windowScaling: boolean;
  clientMtu: number;
}

const SETTINGS: Setting[] = [
  ...[0, 1, 2, 3, 4, 5, 6, 7].map((bits) => ({
    timestamps: (bits & 1) !== 0,
    sack: (bits & 2) !== 0,
    windowScaling: (bits & 4) !== 0,
    clientMtu: 1500,
  })),
  { timestamps: true, sack: true, windowScaling: true, clientMtu: 1280 },
  { timestamps: true, sack: true, windowScaling: true, clientMtu: 9000 },
];

for (const setting of SETTINGS) {
  netTest(`connections survive a crash with ${nameOf(setting)}`, [], (context) => {
    return transferThroughCrash(context, setting);
  });
}

netTest("connections survive a crash where every link has MTU 9000", [], (context) => {
  const setting = { timestamps: true, sack: true, windowScaling: true, clientMtu: 9000 };
  return transferThroughCrash(context, setting, { mtu: 9000 });
});

for (const [a, b] of [[1280, 1500], [1500, 9000], [9000, 1280]]) {
  netTest(`hosts of MTU ${a} and ${b} take over from each other`, [], async (context) => {
    const options = { run: mixedServer(), mtu: 9000, hostMtu: { a, b } };
    await withSite(context, options, async (site) => {
      for (const host of ["a", "b"] as const) {
        await site.waitProtected();
        assert.equal(await site.primary(), host);
        const { connections } = await crashAmidTransfers(context, site);
        for (const { name, serverOptions } of connections) {
          assert.equal(serverOptions.mss, Math.min(a, b) - 40, name);
        }
        if (host === "a") await site.revive(host);
      }
    });
  });
}

function nameOf({ timestamps, sack, windowScaling, clientMtu }: Setting): string {
  const sign = (isOn: boolean) => isOn ? "+" : "-";
  return `${sign(timestamps)}timestamps ${sign(sack)}SACK ${sign(windowScaling)}scaling, ` +
    `client MTU ${clientMtu}`;
}

async function transferThroughCrash(
  context: NetTestContext,
  setting: Setting,
  options: Partial<SiteOptions> = {},
): Promise<void> {
  const { clientMtu } = setting;
  await withSite(context, { run: mixedServer(), clientMtu, ...options }, async (site) => {
    site.setClientSysctl("net.ipv4.tcp_timestamps", setting.timestamps ? 1 : 0);
    site.setClientSysctl("net.ipv4.tcp_sack", setting.sack ? 1 : 0);
    site.setClientSysctl("net.ipv4.tcp_window_scaling", setting.windowScaling ? 1 : 0);
    await site.waitProtected();
    const trace = await crashAmidTransfers(context, site);
    for (const { name, clientOptions, serverOptions } of trace.connections) {
      assert.equal(clientOptions.timestamps !== undefined, setting.timestamps, name);
      assert.equal(serverOptions.timestamps !== undefined, setting.timestamps, name);
      assert.equal(serverOptions.sackPermitted ?? false, setting.sack, name);
      assert.equal(serverOptions.windowScale !== undefined, setting.windowScaling, name);
    }
  });
}

/** Nine transfers through a crash of the primary's host; what the client's capture shows of them. */
async function crashAmidTransfers(context: NetTestContext, site: Site): Promise<TcpTrace> {
  const capture = await site.startCapture();
  const momentMs = Math.round(context.random.between(800, 1700));
  const workload = await site.startWorkload({
    seed: context.random.seed(),
    connections: 9,
    mix: ["download", "upload", "echo"],
    durationMs: DURATION_MS,
    momentMs,
    rate: RATE,
  });
  const primary = await site.primary();
  await workload.go();
  await sleep(momentMs);
  const faultMs = await site.crash(primary);
  await workload.mustSucceed(60_000);
  const dropped = await capture.stop();
  const trace = traceTcp(capture.path, site.address);
  assertUnbroken(trace, { connections: 9, faultMs, dropped });
  return trace;
}
