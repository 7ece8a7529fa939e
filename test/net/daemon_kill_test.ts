/**
 * daemon_kill_test.ts - a daemon that dies alone leaks nothing, and starts again on the same host
 *
 *   client ---- switch ---- host a: daemon (SIGKILL), kernel and server live on
 *                    \----- host b: daemon
 *
 * Claims, by SIGKILL of one daemon while its host, kernel and server go on:
 *   primary's daemon   its connections go on at the standby; the host it left says no RST and
 *                      answers no ARP request or neighbor solicitation for the address
 *   standby's daemon   connections do not notice; new ones work and are listed as unprotected
 *   both daemons       nobody answers for the address and nobody resets: a client that dials gets
 *                      silence, and an open connection is neither ended nor reset
 *   started again      alone, beside a server that went on: sockets of the former life are ended,
 *                      instead of speaking in numbers that mean nothing now; new connections work
 */

import assert from "node:assert/strict";
import { addressClaims, traceTcp } from "./capture.ts";
import { netTest, sleep, until } from "./conditions.ts";
import { mixedServer, withSite } from "./harness.ts";
import { assertUnbroken } from "./verdict.ts";

const WORKLOAD = {
  connections: 27,
  durationMs: 4000,
  momentMs: 1500,
  silentMs: 3000,
  rate: 5_000_000,
};

for (const family of [4, 6] as const) {
  netTest(`SIGKILL of the primary's daemon leaks nothing (IPv${family})`, [], async (context) => {
    await withSite(context, { family, run: mixedServer() }, async (site) => {
      await site.waitProtected();
      const capture = await site.startCapture();
      const workload = await site.startWorkload({ ...WORKLOAD, seed: context.random.seed() });
      const primary = await site.primary();
      await workload.go();
      await sleep(WORKLOAD.momentMs);
      const faultMs = await site.killDaemon(primary);
      await workload.mustSucceed(60_000);
      await site.forgetClientNeighbors();
      const { code } = await site.dialFromClient(2000);
      assert.equal(code, 0, "a new connection after the takeover");
      const dropped = await capture.stop();
      assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
      const survivor = site.other(primary);
      assert.equal((await site.service(survivor)).role, "primary");
      const allowed = await site.hostMac(survivor);
      const claims = addressClaims(capture.path, site.address)
        .filter((claim) => claim.timeMs > faultMs);
      assert.ok(claims.length > 0, "the survivor announced the address");
      assert.deepEqual(claims.filter((claim) => claim.mac !== allowed), []);
    });
  });
}

netTest("SIGKILL of the standby's daemon is not noticed", [], async (context) => {
  await withSite(context, { run: mixedServer() }, async (site) => {
    await site.waitProtected();
    const capture = await site.startCapture();
    const workload = await site.startWorkload({ ...WORKLOAD, seed: context.random.seed() });
    const primary = await site.primary();
    await workload.go();
    await sleep(WORKLOAD.momentMs);
    const faultMs = await site.killDaemon(site.other(primary));
    await workload.mustSucceed(60_000);
    const dropped = await capture.stop();
    assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
    const service = await site.service(primary);
    assert.deepEqual([service.role, service.protected], ["primary", false]);
    const allowed = await site.hostMac(primary);
    const claims = addressClaims(capture.path, site.address);
    assert.deepEqual(claims.filter((claim) => claim.mac !== allowed), []);
  });
});

netTest("SIGKILL of both daemons leaves silence, no RST and no owner", [], async (context) => {
  await withSite(context, { run: mixedServer() }, async (site) => {
    await site.waitProtected();
    const capture = await site.startCapture();
    const open = await site.startHeldConnection();
    await until(async () => (await site.connections("a")).length === 1, {
      what: "the connection to be listed",
      timeoutMs: 5000,
    });
    const primary = await site.primary();
    const killedMs = await site.killDaemon(site.other(primary));
    await site.killDaemon(primary);
    await open.tryExchange(); // into nowhere
    await site.forgetClientNeighbors();
    const { code } = await site.dialFromClient(2500);
    assert.notEqual(code, 0, "a new connection while no daemon runs");
    assert.equal(open.hasEnded, false, "the open connection was ended");
    assert.equal(await capture.stop(), 0);
    for (const connection of traceTcp(capture.path, site.address).connections) {
      const { name, serverRsts, serverFins } = connection;
      assert.deepEqual([serverRsts, serverFins], [0, 0], name);
    }
    const claims = addressClaims(capture.path, site.address);
    assert.deepEqual(claims.filter((claim) => claim.timeMs > killedMs + 100), []);
    await open.kill();
  });
});

netTest("a daemon started again ends what is left of its former life", [], async (context) => {
  await withSite(context, { hosts: ["a"] }, async (site) => {
    await site.startServer("a", mixedServer().a);
    await site.waitPrimary("a");
    const former = await site.startHeldConnection();
    await former.exchange();
    assert.equal(await site.countSockets("a"), 1);
    await site.killDaemon("a");
    await former.tryExchange(); // repeated by the client's kernel until somebody answers
    await site.startDaemon("a");
    await site.waitPrimary("a");
    const { code } = await site.dialFromClient(5000);
    assert.equal(code, 0, "a new connection");
    const next = await site.startHeldConnection();
    await next.exchange();
    await until(() => former.hasEnded, {
      what: "the client to hear that its connection is over",
      timeoutMs: 30_000,
    });
    assert.ok((await site.service("a")).counters.strangers > 0, "no socket was ended");
    assert.equal(await site.countSockets("a"), 1, "sockets of the former life");
    await next.exchange();
    await next.close();
  });
});
