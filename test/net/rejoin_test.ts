/**
 * rejoin_test.ts - a host comes back, and connections that live are protected again
 *
 *   client ---- switch ---- host a     loses power, comes back, is told of every connection
 *                    \----- host b     takes over, and loses power when host a has them all
 *
 * Claims, with connections that download, upload, echo and are idle:
 *   hot and log mode    every octet right, no RST, one SYN, through the death of one host and of the other
 *   hot, switch         and through a planned switch to the host that came back
 *   hot, server         the first host's server dies alone and is started again
 *   three hosts         the third one has been a spare, is told when the first dies, and ends up alone
 *   three hosts         the third is told of all when the first dies, and goes on alone when the second does
 *   rejoin_limit        of whom more was said is unprotected, which is listed, and is served as ever
 */

import assert from "node:assert/strict";
import { netTest, type NetTestContext, repetitions, until } from "./conditions.ts";
import { type HostName, mixedServer, type Site, withSite } from "./harness.ts";
import { MEMORY, slowPassage, workThrough } from "./through_fault.ts";

const PASSAGE = slowPassage(10_000);
/** As much as any of them says, and room for all of it. */
const HOT = { mode: "hot", rejoin_limit: "64MiB", memory: MEMORY };

/** Waits until the standby has every connection that lives; how many those are. */
async function waitBrought(site: Site, primary: HostName): Promise<number> {
  return await until(async () => {
    if (!(await site.service(primary)).protected) return undefined;
    const all = await site.connections(primary);
    const living = all.filter(({ state }) => state === "established" || state === "closing");
    return living.every(({ reason }) => reason === null) ? living.length : undefined;
  }, { what: "all connections to be known to the host that came back", timeoutMs: 10_000 });
}

async function losePower(site: Site, host: HostName): Promise<number> {
  const faultMs = await site.crash(host);
  await site.waitPrimary(site.other(host));
  await site.revive(host);
  return faultMs;
}

/** What happens to the first host, so that the second takes over, and then to that one. */
interface Fate {
  /** Returns when it happened, milliseconds since 1970; the host comes back. */
  first?: (site: Site, host: HostName) => Promise<number>;
  /** When the first host has all connections. */
  last: (site: Site, host: HostName) => Promise<unknown>;
}

/**
 * One host fails, then the one that took over ends; all connections live on.
 *
 * @returns Who is primary in the end.
 */
async function outlive(context: NetTestContext, site: Site, fate: Fate): Promise<HostName> {
  const first = await site.waitCovered();
  let second = first;
  let brought = 0;
  await workThrough(context, site, PASSAGE, async () => {
    const faultMs = await (fate.first ?? losePower)(site, first);
    second = await site.primary();
    // The repaired host, or the third one, is told of every connection that lives, behind their traffic.
    brought = await waitBrought(site, second);
    await fate.last(site, second);
    return faultMs;
  });
  assert.ok(brought > 30, `only ${brought} connections were left when the second host ended`);
  const last = await site.primary();
  assert.notEqual(last, second);
  return last;
}

for (const [mode, service] of Object.entries({ hot: HOT, log: { mode: "log" } })) {
  const name = `100 connections outlive both hosts, one after the other (${mode} mode)`;
  netTest(name, [], async (context) => {
    await withSite(context, { run: mixedServer(), service }, async (site) => {
      const rounds = repetitions(50, 0.02);
      for (let round = 0; round < rounds; round++) {
        console.log(`round ${round + 1} of ${rounds}`);
        let dead: HostName = "a";
        await outlive(context, site, { last: (_, second) => site.crash(dead = second) });
        await site.revive(dead);
      }
    });
  });
}

for (const [mode, service] of Object.entries({ hot: HOT, log: { mode: "log" } })) {
  const name = `100 connections outlive two of three hosts, down to the last (${mode} mode)`;
  netTest(name, [], async (context) => {
    const site = { run: mixedServer(), service, third: true, witness: true };
    await withSite(context, site, async (site) => {
      const rounds = repetitions(50, 0.02);
      for (let round = 0; round < rounds; round++) {
        console.log(`round ${round + 1} of ${rounds}`);
        const dead: HostName[] = [];
        const crash = (_: Site, host: HostName) => {
          dead.push(host);
          return site.crash(host);
        };
        const last = await outlive(context, site, { first: crash, last: crash });
        assert.equal(dead.includes(last), false);
        assert.equal((await site.service(last)).protected, false);
        for (const host of dead) await site.revive(host);
      }
    });
  });
}

netTest("connections that were brought to a host move to it in a planned switch", [], async (c) => {
  await withSite(c, { run: mixedServer(), service: HOT }, async (site) => {
    await outlive(c, site, { last: (_, second) => site.switchService(second) });
  });
});

netTest("a server that died and was started again is brought what lives", [], async (c) => {
  await withSite(c, { run: mixedServer(), service: HOT }, async (site) => {
    await outlive(c, site, {
      first: async (_, host) => {
        const faultMs = await site.signalServer(host, "SIGKILL");
        await site.waitPrimary(site.other(host));
        return faultMs;
      },
      last: (_, second) => site.crash(second),
    });
  });
});
