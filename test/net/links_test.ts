/**
 * links_test.ts - one of two replication links dies, and nobody loses anything
 *
 *   client ---- switch ---- host a ══ repl0, repl1 ══ host b
 *
 * The mixed client (downloads, uploads, echoes, silent connections) runs through it.
 *
 *   one link     that the channel uses, then the other one with the first one back: roles, epoch and
 *                protection of every connection stay; then a crash, which all of them survive
 *   both links   the witness lets one host go on
 */
import assert from "node:assert/strict";
import { netTest, sleep, until } from "./conditions.ts";
import { roleOf, throughFault } from "./through_fault.ts";

netTest("one of two replication links down: every connection stays protected", [], async (c) => {
  await throughFault(c, { links: 2 }, async ({ site, primary, standby }) => {
    const { epoch } = await site.service(primary);
    for (const link of ["repl0", "repl1"] as const) {
      await site.topology.setLink(primary, link, false);
      const index = link === "repl0" ? 0 : 1;
      await until(async () => {
        const { links } = await site.peer(primary);
        return !links[index].up && links[1 - index].up;
      }, { what: `status to show ${link} down alone`, timeoutMs: 10_000 });
      await sleep(500);
      const service = await site.service(primary);
      const { total, hot } = service.connections;
      assert.deepEqual([service.role, service.epoch], ["primary", epoch]);
      assert.equal(service.protected, true, `protected without ${link}`);
      assert.equal(hot, total, `${hot} of ${total} connections are protected without ${link}`);
      assert.ok(total > 0);
      await site.topology.setLink(primary, link, true);
      await until(async () => (await site.peer(primary)).links[index].up, {
        what: `status to show ${link} up`,
        timeoutMs: 10_000,
      });
    }
    assert.match(site.log(standby), /channel resumed/);
    await site.crash(primary);
  }, async ({ site, standby }) => {
    assert.equal(await roleOf(site, standby), "primary");
  });
});

netTest("both of two replication links down: the witness lets one go on", [], async (c) => {
  await throughFault(c, { links: 2 }, async ({ site, primary }) => {
    await site.topology.setLink(primary, "repl0", false);
    await site.topology.setLink(primary, "repl1", false);
  }, async ({ site, primary, standby }) => {
    const roles = [await roleOf(site, primary), await roleOf(site, standby)];
    assert.equal(roles.filter((role) => role === "primary").length, 1, roles.join());
    for (const link of ["repl0", "repl1"] as const) {
      await site.topology.setLink(primary, link, true);
    }
    await site.waitProtected();
  });
});
