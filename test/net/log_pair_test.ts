/**
 * log_pair_test.ts - two hosts with their logs on disk: what both have stored outlives both
 *
 *   client ---- switch ---- host a: daemon, log on disk, server
 *                    \----- host b: daemon, log on disk        witness
 *
 * Claims, for a service with log.store = "disk" on both hosts, with connections that download, upload, echo,
 * are idle, and just begin:
 *   the primary's host loses power              every octet right, no RST, one SYN
 *   SIGKILL of both daemons at once, started    the same
 *     again in either order
 *   nginx and curl                              the same for one large download
 *   both hosts lose power, with all that their     the same
 *     disks have not synced, and come back
 *   one host dies, then the other; the one      it does not go on from its log; when the other is back,
 *     that died first comes back first          the same
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, type NetTestContext, repetitions, sleep, until } from "./conditions.ts";
import { makeContent } from "./content.ts";
import { type HostName, mixedServer, type Site, type SiteOptions, withSite } from "./harness.ts";
import { nginx } from "./nginx.ts";
import { Disks, POWER_TOOLS } from "./power.ts";
import { FAST, MEMORY, type Passage, workThrough } from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";

const WORKLOAD = { ...FAST, connections: 36 };
const PASSAGE: Passage = {
  workload: WORKLOAD,
  moment: [100, 4500],
  timeoutMs: 90_000,
  verdict: { mayShrink: true },
};
const PAIR: SiteOptions = {
  witness: true,
  service: { mode: "log", log: { store: "disk" }, memory: MEMORY },
};

/** Octets of a download. */
const CONTENT_OCTETS = 256 << 20;
const HOSTS: HostName[] = ["a", "b"];

/** Waits until both hosts' logs hold all connections of the present term. */
async function waitStored(site: Site): Promise<HostName> {
  const primary = await site.waitCovered();
  await until(async () => {
    const [here, there] = [await site.service(primary), await site.service(site.other(primary))];
    return here.store?.epoch === here.epoch && there.store?.epoch === here.epoch;
  }, { what: "both logs to hold all connections", timeoutMs: 20_000 });
  return primary;
}

/** The mixed client with a fault in its midst. */
async function outlive(
  context: NetTestContext,
  site: Site,
  fault: (primary: HostName) => Promise<number>,
): Promise<void> {
  const primary = await waitStored(site);
  await workThrough(context, site, PASSAGE, () => fault(primary));
}

for (const family of [4, 6] as const) {
  netTest(
    `a standby with its log on disk takes over from a host without power (IPv${family})`,
    [],
    async (context) => {
      await withSite(context, { ...PAIR, family, run: mixedServer() }, async (site) => {
        const rounds = repetitions(50, 0.04);
        for (let round = 0; round < rounds; round++) {
          console.log(`round ${round + 1} of ${rounds}`);
          let dead: HostName = "a";
          await outlive(context, site, (primary) => site.crash(dead = primary));
          const { role, recovery, store } = await site.service(site.other(dead));
          assert.deepEqual([role, recovery?.state, store?.state], ["primary", "live", "storing"]);
          await site.revive(dead);
        }
      });
    },
  );
}

netTest(
  "clients do not notice SIGKILL of both daemons, which are started again in any order",
  [],
  async (context) => {
    const { random } = context;
    await withSite(context, { ...PAIR, run: mixedServer() }, async (site) => {
      const rounds = repetitions(50, 0.08);
      for (let round = 0; round < rounds; round++) {
        const pauseMs = Math.round(random.between(0, 1500));
        const isReversed = random.next() < 0.5;
        console.log(`round ${round + 1} of ${rounds}: ${isReversed ? "standby" : "primary"} first`);
        await outlive(context, site, async (primary) => {
          const standby = site.other(primary);
          const [faultMs] = await Promise.all([site.killDaemon(primary), site.killDaemon(standby)]);
          const order = isReversed ? [standby, primary] : [primary, standby];
          await site.startDaemon(order[0]);
          await sleep(pauseMs);
          await site.startDaemon(order[1]);
          return faultMs;
        });
      }
    });
  },
);

netTest("curl reads on from nginx when both daemons were killed and started again", [
  "nginx",
  "curl",
], async (context) => {
  const { directory, random } = context;
  await Deno.mkdir(`${directory}/files`);
  const content = makeContent(`${directory}/files/content`, CONTENT_OCTETS);
  const run = { a: await nginx("a", directory), b: await nginx("b", directory) };
  await withSite(context, { ...PAIR, run }, async (site) => {
    const primary = await waitStored(site);
    const capture = await site.startCapture();
    const args = ["--silent", "--show-error", "--limit-rate", "60M", site.url("/content")];
    const client = site.startInClient("curl", args, { hashOutput: true });
    await sleep(random.between(200, 3000));
    const [faultMs] = await Promise.all(HOSTS.map((host) => site.killDaemon(host)));
    await site.startDaemon(site.other(primary));
    await site.startDaemon(primary);
    await client.mustSucceed(60_000);
    const dropped = await capture.stop();
    assert.deepEqual(client.outputHash(), { sha256: content.sha256, octets: content.octets });
    assertUnbroken(traceTcp(capture.path, site.address), { connections: 1, faultMs, dropped });
  });
});

netTest(
  "clients do not notice a loss of power of both hosts, whose disks keep what was synced",
  POWER_TOOLS,
  async (context) => {
    const { directory, random } = context;
    await withSite(context, { ...PAIR, hosts: [], run: mixedServer() }, async (site) => {
      const disks = new Disks(site, directory);
      try {
        for (const host of HOSTS) await disks.add(host);
        for (const host of HOSTS) await site.startDaemon(host);
        const rounds = repetitions(50, 0.06);
        for (let round = 0; round < rounds; round++) {
          const order = random.next() < 0.5 ? HOSTS : HOSTS.toReversed();
          const pauseMs = Math.round(random.between(0, 1500));
          console.log(`round ${round + 1} of ${rounds}: ${order[0]} first`);
          await outlive(context, site, async () => {
            const faultMs = await disks.cutAll();
            await disks.restore(order[0]);
            await sleep(pauseMs);
            await disks.restore(order[1]);
            return faultMs;
          });
        }
      } finally {
        await disks.close();
      }
    });
  },
);

netTest(
  "a host that comes back with an old log does not go on from it, and the newer one does",
  [],
  async (context) => {
    await withSite(context, { ...PAIR, run: mixedServer() }, async (site) => {
      const rounds = repetitions(20, 0.1);
      for (let round = 0; round < rounds; round++) {
        console.log(`round ${round + 1} of ${rounds}`);
        await outlive(context, site, async (primary) => {
          const standby = site.other(primary);
          await site.crash(standby);
          await until(async () =>
            (await site.service(primary)).store?.epoch ===
              (await site.service(primary)).epoch && !(await site.service(primary)).protected, {
            what: "the primary to go on alone",
            timeoutMs: 10_000,
          });
          await sleep(500);
          const faultMs = await site.crash(primary);
          await site.revive(standby);
          await sleep(4000);
          assert.equal((await site.service(standby)).role, "joining", "it goes on from an old log");
          await site.revive(primary);
          await until(async () => (await site.service(primary)).role === "primary", {
            what: "the newer log to be gone on from",
            timeoutMs: 20_000,
          });
          return faultMs;
        });
      }
    });
  },
);
