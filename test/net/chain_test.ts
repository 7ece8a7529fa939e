/**
 * chain_test.ts - three hosts in a chain: the second standby holds what the first one holds
 *
 *   client ---- switch ---- host a     primary
 *                    |----- host b     its standby, hands on what it is told
 *                    \----- host c     holds the same; a witness decides
 *
 * Claims, with connections that download, upload, echo and are idle, every octet right, no RST, one SYN:
 *   hot and log mode   the primary loses power, and who takes over does as soon as it is protected by the third host,
 *                      which is at once, as nothing needs to be told
 *   commit_copies 2    primary and standby lose power at the same moment
 *   its server         the second standby's server dies alone, is started again and brought where the connections
 *                      are; then both of the others may die
 *   the others         the second standby loses power, or the links: nothing but its copy is missed, and that shows
 */

import assert from "node:assert/strict";
import { netTest, type NetTestContext, repetitions, until } from "./conditions.ts";
import { type HostName, mixedServer, type Site, type SiteOptions, withSite } from "./harness.ts";
import { MEMORY, slowPassage, workThrough } from "./through_fault.ts";

const PASSAGE = slowPassage(8_000);
/** As much as any of them says, and room for all of it. */
const HOT = { mode: "hot", rejoin_limit: "64MiB", memory: MEMORY };
/** Who takes over is protected again that soon, milliseconds: a few exchanges, and no re-join. */
const PROTECTED_MS = 1000;
const MODES = { hot: HOT, log: { mode: "log" } };

function siteOf(service: Record<string, unknown>): SiteOptions {
  return { run: mixedServer(), service, third: true, witness: true };
}

/** Waits until two others follow the primary, and `held` of them could go on alone; all, primary first. */
async function waitChain(site: Site, held: number): Promise<HostName[]> {
  const primary = await site.waitCovered();
  return await until(async () => {
    const { copies } = await site.service(primary);
    const isWhole = copies.chain.length === 2 && copies.held === held;
    return isWhole ? [primary, ...copies.chain as HostName[]] : undefined;
  }, { what: `a chain of three with ${held} heirs`, timeoutMs: 20_000 });
}

/** What happens to the hosts of a chain in the midst of traffic; when it began, milliseconds since 1970. */
type Fate = (site: Site, chain: HostName[]) => Promise<number>;

/** Returns the chain as it was; all connections have lived through what happened. */
async function outlive(
  context: NetTestContext,
  site: Site,
  { fate, held, revive = [0, 1] }: { fate: Fate; held: number; revive?: number[] },
): Promise<HostName[]> {
  const chain = await waitChain(site, held);
  console.log(chain.join(" > "));
  await workThrough(context, site, PASSAGE, () => fate(site, chain));
  for (const index of revive) await site.revive(chain[index]);
  return chain;
}

for (const [mode, service] of Object.entries(MODES)) {
  const name = `100 connections outlive two of three hosts without a pause between (${mode} mode)`;
  netTest(name, [], async (context) => {
    await withSite(context, siteOf(service), async (site) => {
      const rounds = repetitions(50, 0.04);
      for (let round = 0; round < rounds; round++) {
        console.log(`round ${round + 1} of ${rounds}`);
        await outlive(context, site, {
          held: 1,
          fate: async (site, [first, second, third]) => {
            const faultMs = await site.crash(first);
            await until(async () => (await site.service(second)).role === "primary", {
              what: `${second} to be primary`,
              timeoutMs: 20_000,
            });
            const promotedMs = performance.now();
            await until(async () => (await site.service(second)).protected, {
              what: `${second} to be protected`,
              timeoutMs: PROTECTED_MS,
            });
            console.log(`protected ${(performance.now() - promotedMs).toFixed(0)} ms later`);
            await site.crash(second);
            await site.waitPrimary(third);
            return faultMs;
          },
        });
      }
    });
  });
}

for (const [mode, service] of Object.entries(MODES)) {
  const name = `100 connections outlive two of three hosts at one moment (${mode} mode)`;
  netTest(name, [], async (context) => {
    await withSite(context, siteOf({ ...service, commit_copies: 2 }), async (site) => {
      const rounds = repetitions(50, 0.04);
      for (let round = 0; round < rounds; round++) {
        console.log(`round ${round + 1} of ${rounds}`);
        await outlive(context, site, {
          held: 2,
          fate: async (site, [first, second, third]) => {
            const [faultMs] = await Promise.all([site.crash(first), site.crash(second)]);
            await site.waitPrimary(third);
            return faultMs;
          },
        });
      }
    });
  });
}

/** Waits until so many others of a primary could go on alone. */
async function waitHeld(site: Site, primary: HostName, held: number): Promise<void> {
  await until(async () => (await site.service(primary)).copies.held === held, {
    what: `${held} others to hold the connections`,
    timeoutMs: 10_000,
  });
}

netTest("a second standby's server that died is brought what lives", [], async (context) => {
  await withSite(context, siteOf({ ...HOT, commit_copies: 2 }), async (site) => {
    await outlive(context, site, {
      held: 2,
      fate: async (site, [first, second, third]) => {
        await site.signalServer(third, "SIGKILL");
        await waitHeld(site, first, 1);
        await waitHeld(site, first, 2);
        const [faultMs] = await Promise.all([site.crash(first), site.crash(second)]);
        await site.waitPrimary(third);
        return faultMs;
      },
    });
  });
});

/** Waits until the primary has given the second standby up, which shows. */
async function waitMissed(site: Site, primary: HostName): Promise<void> {
  const { warnings } = await until(async () => {
    const service = await site.service(primary);
    return service.copies.held === 1 && service.protected ? service : undefined;
  }, { what: "the second standby to be given up", timeoutMs: 10_000 });
  assert.ok(warnings.includes("held by 1 other replicas, commit_copies is 2"), `${warnings}`);
}

netTest(
  "a second standby that dies or is cut off is missed, and nothing else",
  [],
  async (context) => {
    await withSite(context, siteOf({ ...HOT, commit_copies: 2 }), async (site) => {
      await outlive(context, site, {
        held: 2,
        revive: [2],
        fate: async (site, [first, _, third]) => {
          const faultMs = await site.crash(third);
          await waitMissed(site, first);
          return faultMs;
        },
      });
      await outlive(context, site, {
        held: 2,
        revive: [],
        fate: async (site, [first, _, third]) => {
          const faultMs = Date.now();
          await site.topology.setLink(third, "repl0", false);
          await waitMissed(site, first);
          await site.topology.setLink(third, "repl0", true);
          return faultMs;
        },
      });
      await waitChain(site, 2);
    });
  },
);
