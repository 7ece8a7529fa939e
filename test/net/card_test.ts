/**
 * card_test.ts - the clients' network is lost on one host, while both hosts see each other
 *
 *   client ---- switch --x-- host a: daemon, server
 *                    \\----- host b: daemon, server
 *
 * Claims, with connections that download, upload, echo, ask and answer, and are silent:
 *   primary's cable pulled   the standby takes the service at once, asked by the primary
 *   primary's card deaf      the same, after nobody has answered its questions
 *   standby's cable pulled   nothing moves; the service is not protected until it is back
 *   the switch lost          nobody hears anything: nothing moves, and clients go on when it is back
 */
import assert from "node:assert/strict";
import { netTest, sleep, until } from "./conditions.ts";
import type { Site } from "./harness.ts";
import { throughFault, waitRole } from "./through_fault.ts";
import type { HostName } from "./harness.ts";

/** The warnings of a host's status that are about its card. */
async function cardWarnings(site: Site, host: HostName): Promise<string[]> {
  return (await site.service(host)).warnings.filter((text) => text.startsWith("eth0: "));
}

/** What a host has judged of its card. */
async function verdicts(site: Site, host: HostName): Promise<string[]> {
  return (await site.service(host)).judgements
    .filter(({ judgement }) => judgement === "card-down")
    .map(({ evidence }) => `${evidence.node} ${evidence.act}: ${evidence.seen}`);
}

for (const fault of ["cable", "deaf"] as const) {
  for (const family of [4, 6] as const) {
    const what = fault === "cable" ? "whose cable is pulled" : "whose card goes deaf";
    netTest(`a primary ${what} hands over (IPv${family})`, [], async (context) => {
      const { random } = context;
      const delayMs = random.between(0, 2000);
      await throughFault(context, { family }, async ({ site, primary, standby }) => {
        await sleep(delayMs);
        const { topology } = site;
        if (fault === "cable") await topology.setLink(primary, "client", false);
        else await topology.setDeaf(primary, true);
        await waitRole(site, standby, "primary");
        await waitRole(site, primary, "standby");
      }, async ({ site, primary, standby }) => {
        const { lastTakeover, protected: isProtected } = await site.service(standby);
        assert.equal(lastTakeover?.reason, "card-down");
        assert.equal(isProtected, false, "who hears no client cannot take over");
        const [said] = await verdicts(site, primary);
        const seen = fault === "cable" ? "no carrier for" : "nothing received for";
        assert.match(said, new RegExp(`^${primary} hand-over: eth0: ${seen}`));
        assert.equal((await cardWarnings(site, primary)).length, 1);
        if (fault === "cable") await site.topology.setLink(primary, "client", true);
        else await site.topology.setDeaf(primary, false);
        await site.waitProtected();
        assert.deepEqual(await cardWarnings(site, primary), []);
      });
    });
  }
}

netTest(
  "a standby whose cable is pulled protects nothing until it is back",
  [],
  (context) =>
    throughFault(context, {}, async ({ site, primary, standby }) => {
      await site.topology.setLink(standby, "client", false);
      await until(async () => !(await site.service(primary)).protected, {
        what: "the primary to know that nobody could take over",
        timeoutMs: 10_000,
      });
      const seen = await verdicts(site, standby);
      assert.deepEqual(seen, [`${standby} none: eth0: no carrier for 40 ms`]);
      await site.topology.setLink(standby, "client", true);
      await site.waitProtected();
    }, async ({ site, primary }) => {
      const { role, epoch } = await site.service(primary);
      assert.deepEqual([role, epoch], ["primary", 1]);
    }),
);

netTest(
  "where both cards are deaf nothing moves, and clients wait",
  [],
  (context) =>
    throughFault(context, { longSilence: true }, async ({ site, primary, standby }) => {
      for (const host of [primary, standby]) await site.topology.setDeaf(host, true);
      for (const host of [primary, standby]) {
        await until(async () => (await cardWarnings(site, host)).length > 0, {
          what: `${host} to say that its card is deaf`,
          timeoutMs: 10_000,
        });
      }
      const { role, epoch } = await site.service(primary);
      assert.deepEqual([role, epoch], ["primary", 1]);
      for (const host of [primary, standby]) await site.topology.setDeaf(host, false);
      await site.waitProtected();
    }),
);
