/**
 * links_test.ts - one of two replication links dies, and nobody loses anything
 *
 *   client ---- switch ---- host a ══ repl0, repl1 ══ host b
 *
 * The mixed client (downloads, uploads, echoes, silent connections) runs through it.
 *
 *   one link     that the channel uses, then the other one with the first one back, then one direction
 *                of the first: roles, epoch and protection of every connection stay; then a crash, which
 *                all of them survive
 *   both links   the witness lets one host go on
 */
import assert from "node:assert/strict";
import type { LinkName } from "../../runtime/lab/topology.ts";
import { netTest, sleep, until } from "./conditions.ts";
import { roleOf, throughFault, waitRole } from "./through_fault.ts";

netTest("one of two replication links down: every connection stays protected", [
  "iptables-legacy",
], async (c) => {
  await throughFault(c, { links: 2 }, async ({ site, primary, standby }) => {
    const { topology } = site;
    const { epoch } = await site.service(primary);
    const cut = (link: LinkName) => (off: boolean) => topology.setLink(primary, link, !off);
    const deafen = async (off: boolean) => {
      const change = [off ? "-A" : "-D", "INPUT", "-i", "repl0", "-j", "DROP"];
      const { code, stderr } = await topology.hosts[standby].exec(["iptables-legacy", ...change]);
      assert.equal(code, 0, stderr);
    };
    const faults = [
      { what: "repl0", index: 0, set: cut("repl0") },
      { what: "repl1", index: 1, set: cut("repl1") },
      { what: "one direction of repl0", index: 0, set: deafen },
    ];
    for (const { what, index, set } of faults) {
      await set(true);
      await until(async () => {
        const { links } = await site.peer(primary);
        return !links[index].up && links[1 - index].up;
      }, { what: `status to show a link down without ${what}`, timeoutMs: 10_000 });
      await sleep(300);
      const service = await site.service(primary);
      const { total, hot } = service.connections;
      assert.deepEqual([service.role, service.epoch], ["primary", epoch]);
      assert.equal(service.protected, true, `protected without ${what}`);
      assert.equal(hot, total, `${hot} of ${total} connections are protected without ${what}`);
      assert.ok(total > 0);
      await set(false);
      // Both directions: with one alone, the next fault would be a second one at the same time.
      await until(async () => (await site.peer(primary)).links[index].up, {
        what: `status to show both links up after ${what}`,
        timeoutMs: 10_000,
      });
    }
    assert.match(site.log(standby), /channel resumed/);
    await site.crash(primary);
  }, ({ site, standby }) => waitRole(site, standby, "primary"));
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
