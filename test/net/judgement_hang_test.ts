/**
 * judgement_hang_test.ts - a server that stands still, while its process, kernel and daemon live on
 *
 *   client ---- switch ---- host a: daemon, server (SIGSTOP, SIGCONT)
 *                    \----- host b: daemon, server
 *
 * A stopped server's kernel goes on: it acknowledges until its buffer is full and sends what it was
 * given. Claims, with connections that download, upload, echo, ask and answer, and are silent:
 *   primary's server   after `lag_time` the service moves to the standby, no octet lost; status names
 *                      what was judged, of which node, and on what
 *   standby's server   its connections are given up and say so, the primary stays; when it goes on,
 *                      or is another one, new connections are protected as before
 *   it goes on         at whatever moment, and with no new connection, the one that was left is a standby again
 *   ends               short connections end while either stands still, for longer than `fin_wait`: they notice
 *                      nothing, and no server is taken for dead
 *   neither            both pause for longer than `lag_time`, clients do not read or say nothing, and
 *                      servers stand still for less: nobody is judged
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, repetitions, sleep, until } from "./conditions.ts";
import { type HostName, mixedServer, type Site, withSite } from "./harness.ts";
import { LASTING_MIX } from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";
import { type Kind, MIX } from "./workload.ts";

const LAG_MS = 1500;
const SERVICE = { lag_time: `${LAG_MS}ms` };
const WORKLOAD = {
  connections: 45,
  durationMs: 6000,
  momentMs: 1500,
  silentMs: 5000,
  stallMs: LAG_MS + 1500,
  rate: 2_000_000,
};

/** Starts servers that no daemon watches. */
async function startServers(site: Site): Promise<void> {
  const commands = mixedServer();
  for (const host of ["a", "b"] as const) await site.startServer(host, commands[host]);
}

/** What a node has judged of servers. */
async function verdicts(site: Site, host: HostName): Promise<Record<string, unknown>[]> {
  return (await site.service(host)).judgements
    .filter(({ evidence }) => typeof evidence.act === "string")
    .map(({ judgement, evidence }) => ({ judgement, ...evidence }));
}

/** Evidence says which stream, where, for how long, and how far the other one is. */
const SEEN =
  /^connection from port \d+: stopped (reading|writing) at octet \d+ for (\d+) ms, while [ab]'s server is \d+ octets ahead$/;

for (const family of [4, 6] as const) {
  const name = `a primary's server that stops is left for the standby's (IPv${family})`;
  netTest(name, [], async (context) => {
    await withSite(context, { family, service: SERVICE }, async (site) => {
      await startServers(site);
      await site.waitProtected();
      const capture = await site.startCapture();
      const workload = await site.startWorkload({ ...WORKLOAD, seed: context.random.seed() });
      const primary = await site.primary();
      const survivor = site.other(primary);
      await workload.go();
      await sleep(WORKLOAD.momentMs);
      const faultMs = await site.signalServer(primary, "SIGSTOP");
      await until(async () => (await site.service(survivor)).role === "primary", {
        what: "the standby to be primary",
        timeoutMs: 10_000,
      });
      const waitedMs = Date.now() - faultMs;
      assert.ok(waitedMs > LAG_MS / 2, `taken over after ${waitedMs} ms, before lag_time was over`);
      await workload.mustSucceed(60_000);
      const dropped = await capture.stop();
      assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
      const status = await site.service(survivor);
      assert.equal(status.lastTakeover?.reason, "app-hangs");
      assert.equal(status.protected, false, "nobody could take over from the survivor");
      const [judged] = await verdicts(site, primary);
      assert.deepEqual([judged.judgement, judged.node, judged.act], [
        "app-hangs",
        primary,
        "hand-over",
      ]);
      const [, , stoodMs] = SEEN.exec(String(judged.seen)) ?? [];
      assert.ok(Number(stoodMs) >= LAG_MS, String(judged.seen));
      assert.match(site.log(primary), /app-hangs/);
      await site.signalServer(primary, "SIGCONT");
      await site.waitProtected();
    });
  });
}

for (const ending of ["SIGCONT", "SIGKILL"] as const) {
  const name = ending === "SIGCONT"
    ? "a standby's server that stops is given up until it goes on"
    : "a standby's server that stops is given up until another one is started";
  // What a server started anew answers like one that never ended.
  const mix = ending === "SIGCONT" ? MIX : LASTING_MIX;
  netTest(name, [], async (context) => {
    const run = ending === "SIGKILL" ? mixedServer() : undefined;
    await withSite(context, { service: SERVICE, run }, async (site) => {
      if (run === undefined) await startServers(site);
      await site.waitProtected();
      const capture = await site.startCapture();
      const workload = await site.startWorkload({ ...WORKLOAD, mix, seed: context.random.seed() });
      const primary = await site.primary();
      const standby = site.other(primary);
      await workload.go();
      await sleep(WORKLOAD.momentMs);
      const faultMs = await site.signalServer(standby, "SIGSTOP");
      const reasons = await until(async () => {
        const { protected: ready } = await site.service(primary);
        if (ready) return undefined;
        const connections = await site.connections(primary);
        assert.ok(connections.every(({ protection }) => protection === "unprotected"));
        return connections.map(({ reason }) => reason);
      }, { what: "the standby to be given up", timeoutMs: 10_000 });
      assert.ok(reasons.includes("the standby's server hangs"), reasons.join());
      const warnings = (await site.service(standby)).warnings;
      assert.deepEqual(warnings, ["its server hangs"]);
      await workload.mustSucceed(60_000);
      const dropped = await capture.stop();
      assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
      assert.equal(await site.primary(), primary);
      const judged = await verdicts(site, primary);
      assert.ok(judged.length > 0, "the standby's server was judged");
      for (const { judgement, node, act, seen } of judged) {
        assert.deepEqual([judgement, node, act], ["app-hangs", standby, "unprotect"]);
        assert.match(String(seen), SEEN);
      }
      const { counters } = await site.service(standby);
      assert.ok(counters.blockOctetsFree > 100 << 20, `${counters.blockOctetsFree} octets free`);
      await site.signalServer(standby, ending);
      await site.waitProtected();
      const open = await site.startHeldConnection();
      await open.exchange();
      await until(
        async () =>
          (await site.connections(primary)).some(({ protection, state }) =>
            state === "established" && protection === "hot"
          ),
        { what: "a new connection to be protected", timeoutMs: 5000 },
      );
      await site.crash(primary);
      await open.exchange();
      await open.close();
    });
  });
}

netTest("clients and servers that take their time are not judged", [], async (context) => {
  await withSite(context, { service: SERVICE }, async (site) => {
    await startServers(site);
    await site.waitProtected();
    const capture = await site.startCapture();
    const mix: Kind[] = ["think", "stall", "silent", "keepalive", "download", "upload"];
    const workload = await site.startWorkload({
      ...WORKLOAD,
      mix,
      connections: 30,
      stallMs: 2 * LAG_MS,
      silentMs: 2 * LAG_MS,
      seed: context.random.seed(),
    });
    const primary = await site.primary();
    await workload.go();
    await sleep(WORKLOAD.momentMs);
    const faultMs = Date.now();
    // Now and then one of them stands still, for less than lag_time.
    for (const host of [primary, site.other(primary), primary, site.other(primary)]) {
      await site.signalServer(host, "SIGSTOP");
      await sleep(LAG_MS / 3);
      await site.signalServer(host, "SIGCONT");
      await sleep(LAG_MS / 3);
    }
    await workload.mustSucceed(60_000);
    const dropped = await capture.stop();
    assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
    assert.equal(await site.primary(), primary);
    for (const host of ["a", "b"] as const) {
      assert.deepEqual(await verdicts(site, host), []);
      assert.deepEqual((await site.service(host)).warnings, []);
    }
    assert.equal((await site.service(primary)).protected, true);
  });
});

netTest("a primary's server that was left and goes on is a standby again", [], async (context) => {
  // Each exchange says more to it.
  const service = { ...SERVICE, rejoin_limit: "64MiB" };
  await withSite(context, { service }, async (site) => {
    await startServers(site);
    await site.waitProtected();
    const open = await site.startHeldConnection();
    await open.exchange();
    const rounds = repetitions(40);
    for (let round = 0; round < rounds; round++) {
      const primary = await site.primary();
      const survivor = site.other(primary);
      await site.signalServer(primary, "SIGSTOP");
      const exchange = open.exchange();
      await until(async () => (await site.service(survivor)).role === "primary", {
        what: "the standby to be primary",
        timeoutMs: 10_000,
      });
      const pauseMs = context.random.between(0, 2 * LAG_MS);
      await sleep(pauseMs);
      await site.signalServer(primary, "SIGCONT");
      await exchange;
      await until(
        async () => {
          const [{ protection }] = await site.connections(survivor);
          return protection === "hot" && (await site.service(survivor)).protected;
        },
        { what: `protection, ${pauseMs.toFixed(0)} ms after the hand-over`, timeoutMs: 10_000 },
      );
      assert.equal((await site.service(survivor)).lastTakeover?.reason, "app-hangs");
    }
    await site.crash(await site.primary());
    await open.exchange();
    await open.close();
  });
});

/** Short connections of a round. */
const SHORT_CONNECTIONS = 1500;
const FIN_WAIT_MS = 700;

netTest("short connections do not notice a server that stands still", [], async (context) => {
  const service = { ...SERVICE, fin_wait: `${FIN_WAIT_MS}ms` };
  await withSite(context, { service }, async (site) => {
    site.setClientSysctl("net.ipv4.tcp_tw_reuse", 1);
    await startServers(site);
    const churner = new URL("./churner.ts", import.meta.url).pathname;
    const args = ["run", "-A", churner, site.address, "80", String(SHORT_CONNECTIONS)];
    const rounds = repetitions(60);
    for (let round = 0; round < rounds; round++) {
      await site.waitProtected();
      const capture = await site.startCapture();
      const primary = await site.primary();
      const victim = context.random.next() < 0.5 ? primary : site.other(primary);
      const client = site.startInClient(Deno.execPath(), args);
      await sleep(context.random.between(300, 1000));
      const stoppedMs = context.random.between(0.5 * FIN_WAIT_MS, 1.5 * LAG_MS);
      const faultMs = await site.signalServer(victim, "SIGSTOP");
      await sleep(stoppedMs);
      await site.signalServer(victim, "SIGCONT");
      await client.mustSucceed(60_000);
      const dropped = await capture.stop();
      const trace = traceTcp(capture.path, site.address);
      trace.connections = trace.connections.filter(({ clientSyns }) => clientSyns > 0);
      assertUnbroken(trace, { faultMs, dropped, hasLongSilence: true });
      await Deno.remove(capture.path);
      for (const host of ["a", "b"] as const) {
        const said = await verdicts(site, host);
        const wrong = said.filter(({ judgement }) => judgement !== "app-hangs");
        assert.deepEqual(wrong, [], `${victim} stopped for ${stoppedMs.toFixed(0)} ms`);
      }
    }
  });
});
