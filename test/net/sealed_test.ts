/**
 * sealed_test.ts - a hostile host on the replication link, renewals under load, and a dead control connection
 *
 *   client ---- switch ---- host a ══ attacker ══ host b       attacker.ts at both ends of repl0
 *                    \----- host b
 *
 * Claims:
 *   attack    while beats and connections are replayed, altered and forged in both directions, and keys
 *             are renewed every second, roles and epochs stay, the service stays protected, everything
 *             foreign is counted, few lines are logged; a crash right after that loses nothing
 *   control   with every control packet dropped, the service stays protected under load, and a crash
 *             loses nothing
 *   plain     the same attacker against `insecure = true` does what it wants: the attack is real
 */

import assert from "node:assert/strict";
import type { AttackReport } from "./attacker.ts";
import { traceTcp } from "./capture.ts";
import { netTest, type NetTestContext, sleep, until } from "./conditions.ts";
import { type HostName, mixedServer, type Site, withSite } from "./harness.ts";
import { runProcess } from "./process.ts";
import { assertUnbroken } from "./verdict.ts";

const HOSTS: readonly HostName[] = ["a", "b"];
const ADDRESSES: Record<string, string> = { a: "10.78.0.1", b: "10.78.0.2" };
const PORT = 7946;
const ATTACK_S = 4;

/** Attacks each host from the other's end of the link. */
async function attack(site: Site, context: NetTestContext): Promise<AttackReport[]> {
  return await Promise.all(HOSTS.map(async (host) => {
    const victim = ADDRESSES[site.other(host)];
    const words = ["repl0", ADDRESSES[host], victim, `${PORT}`, `${ATTACK_S}`];
    const seed = `${context.random.seed()}`;
    const args = ["run", "-A", scriptPathOf("attacker.ts"), ...words, seed];
    const output = await runProcess(Deno.execPath(), args, {
      namespace: site.topology.hosts[host].netns,
      timeoutMs: 30_000,
    });
    return JSON.parse(output) as AttackReport;
  }));
}

function scriptPathOf(name: string): string {
  return decodeURIComponent(new URL(`./${name}`, import.meta.url).pathname);
}

/** Role and epoch on both hosts. */
async function rolesOf(site: Site): Promise<unknown[]> {
  return await Promise.all(HOSTS.map(async (host) => {
    const { role, epoch, protected: isProtected } = await site.service(host);
    return { host, role, epoch, isProtected };
  }));
}

/** Runs a mix of connections, does something meanwhile, then crashes the primary. */
async function underLoad(
  site: Site,
  context: NetTestContext,
  body: () => Promise<void>,
): Promise<void> {
  await site.waitProtected();
  const capture = await site.startCapture();
  const workload = await site.startWorkload({
    seed: context.random.seed(),
    connections: 27,
    durationMs: 12_000,
    momentMs: 8000,
    rate: 1_000_000,
  });
  const before = await rolesOf(site);
  await workload.go();
  await body();
  assert.deepEqual(await rolesOf(site), before, "roles after what was done to them");
  const faultMs = await site.crash(await site.primary());
  await workload.mustSucceed(60_000);
  assert.equal((await site.service(await site.primary())).lastTakeover?.reason, "peer-silent");
  const dropped = await capture.stop();
  assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
}

netTest("a hostile host on the link gets nothing but a count", [], async (context) => {
  const cluster = { tls: { renew: "1s", renew_size: "1MiB" } };
  await withSite(context, { run: mixedServer(), cluster }, async (site) => {
    await underLoad(site, context, async () => {
      const reports = await attack(site, context);
      for (const host of HOSTS) {
        const sent = reports[HOSTS.indexOf(site.other(host))];
        const { refused, control } = await site.peer(host);
        console.log(`${host} refused ${JSON.stringify(refused)} of ${JSON.stringify(sent)}`);
        const datagrams = sent.replayed + sent.altered + sent.forged;
        // A link may lose some, but nearly all came, and what came was refused.
        assert.ok(refused.datagram > datagrams * 0.9, `${refused.datagram} of ${datagrams}`);
        assert.ok(refused.datagram <= datagrams);
        assert.ok(refused.connection > 10 && (host === "a" || refused.control > 10));
        assert.equal(refused.frame, 0);
        assert.equal(control, "up");
        const lines = site.log(host).split("\n");
        const renewals = lines.filter((line) => line.includes("keys renewed")).length;
        assert.ok(renewals >= 3, `${renewals} renewals`);
        const refusals = lines.filter((line) => line.includes("refused")).length;
        assert.ok(refusals > 0 && refusals < 4 * ATTACK_S, `${refusals} lines`);
      }
    });
  });
});

netTest(
  "without a control connection keys live on",
  ["iptables-legacy"],
  async (context) => {
    const cluster = { tls: { renew: "1s" } };
    await withSite(context, { run: mixedServer(), cluster }, async (site) => {
      await underLoad(site, context, async () => {
        for (const direction of ["--sport", "--dport"]) {
          await site.topology.hosts.b.exec(
            ["iptables-legacy", "-A", "INPUT", "-p", "tcp", direction, `${PORT + 1}`, "-j", "DROP"],
          );
        }
        for (const host of HOSTS) {
          await until(async () => (await site.peer(host)).control === "down", {
            what: "the control connection to be given up",
            timeoutMs: 10_000,
          });
        }
        await sleep(3000);
      });
    });
  },
);

netTest("the attack works against plain text", [], async (context) => {
  await withSite(context, { run: mixedServer(), insecure: true }, async (site) => {
    await site.waitProtected();
    const before = await rolesOf(site);
    await attack(site, context);
    assert.notDeepEqual(await rolesOf(site), before);
  });
});
