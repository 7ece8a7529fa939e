/**
 * arbiter_test.ts - two hosts that lose each other, and who decides which of them goes on
 *
 *   client ---- switch ---- host a ══ repl0 ══ host b      wit0 of each host ══ witness
 *
 * A mixed client (downloads, uploads, echoes, silent connections) runs through every fault, and the
 * switch's capture must show one voice: frames from the service address come from one card, then from
 * the other, and never from the first again.
 *
 *   crash            the standby asks, is granted the next epoch, and takes over
 *   partition        the hosts lose each other; the one that the witness grants speaks, the other is
 *                    silent: with the witness at both sides, at either one, and at none
 *   witness gone     at a crash nobody takes over until it is back; then connections go on
 *   SIGSTOP          of the primary's daemon: the standby takes over; continued, it says nothing and
 *                    follows. Of the standby's daemon: the primary goes on, and protects again later
 *   again            the repaired host follows without taking the address back, new connections are
 *                    protected at once, and survive the second failure
 *   false alarms     at 10ms x 3 with both cores overloaded: one voice, nothing breaks
 *   rival            a foreign announcement of the address raises an alarm
 *   etcd, fence      the same takeover with a real etcd, and with a command
 */

import assert from "node:assert/strict";
import { parseAddress } from "../../runtime/io/address.ts";
import { Announcer } from "../../runtime/io/announce.ts";
import { inNamespace } from "../../runtime/io/netns.ts";
import { Netlink } from "../../runtime/io/netlink.ts";
import { traceTcp } from "./capture.ts";
import { netTest, type NetTestContext, sleep } from "./conditions.ts";
import { type HostName, mixedServer, type Site, withSite } from "./harness.ts";
import { startProcess } from "./process.ts";
import {
  judgements,
  roleOf,
  throughFault,
  TIMEOUT_MS,
  waitRole,
  WORKLOAD,
} from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";

netTest("a standby takes over a crashed host when the witness grants it", [], async (context) => {
  await throughFault(context, {}, async ({ site, primary }) => {
    await site.crash(primary);
  }, async ({ site, standby }) => {
    const { role, arbitration } = await site.service(standby);
    assert.equal(role, "primary");
    assert.equal(arbitration.last?.outcome, "granted");
    console.log(`the witness answered in ${arbitration.last?.tookMs} ms`);
    assert.ok((await judgements(site, standby)).includes("peer silent"));
  });
});

netTest("hosts cut from each other: the witness lets one go on", [], async (context) => {
  await throughFault(context, {}, async ({ site, primary }) => {
    await site.topology.setLink(primary, "repl0", false);
  }, async ({ site, primary, standby }) => {
    const roles = [await roleOf(site, primary), await roleOf(site, standby)];
    assert.equal(roles.filter((role) => role === "primary").length, 1, roles.join());
    await site.topology.setLink(primary, "repl0", true);
    await site.waitProtected();
  });
});

netTest("cut from peer and witness, a primary is silent and the standby goes on", [], async (c) => {
  await throughFault(c, {}, async ({ site, primary, standby }) => {
    await site.topology.setLink(primary, "wit0", false);
    await site.topology.setLink(primary, "repl0", false);
    await waitRole(site, standby, "primary");
    const { speaks, connections } = await site.service(primary);
    assert.equal(speaks, false, "the one that is cut off may not speak");
    assert.ok(connections.total > 0, "it keeps what it has");
  }, async ({ site, primary, standby }) => {
    await site.topology.setLink(primary, "repl0", true);
    await waitRole(site, primary, "standby");
    assert.equal(await roleOf(site, standby), "primary", "no fail-back");
  });
});

netTest("cut from peer and witness, a standby stays one and the primary goes on", [], async (c) => {
  await throughFault(c, {}, async ({ site, primary, standby }) => {
    await site.topology.setLink(standby, "wit0", false);
    await site.topology.setLink(standby, "repl0", false);
    await sleep(1500);
    assert.equal(await roleOf(site, standby), "standby");
    const { role, speaks } = await site.service(primary);
    assert.deepEqual([role, speaks], ["primary", true]);
    assert.ok((await judgements(site, primary)).includes("standby lost"));
  }, async ({ site, standby }) => {
    await site.topology.setLink(standby, "wit0", true);
    await site.topology.setLink(standby, "repl0", true);
    await site.waitProtected();
  });
});

netTest("cut from each other and from the witness, nobody speaks until healed", [], async (c) => {
  await throughFault(c, { longSilence: true }, async ({ site, primary, standby }) => {
    await site.topology.setLink(primary, "wit0", false);
    await site.topology.setLink(standby, "wit0", false);
    await site.topology.setLink(primary, "repl0", false);
    await sleep(2000);
    for (const host of [primary, standby]) {
      const { speaks, arbitration } = await site.service(host);
      assert.deepEqual([speaks, arbitration.reachable], [false, false], host);
    }
    assert.equal(await roleOf(site, standby), "standby");
    for (const link of ["repl0", "wit0"] as const) await site.topology.setLink(primary, link, true);
    await site.topology.setLink(standby, "wit0", true);
  });
});

netTest("without the witness nobody takes over; with it back, connections go on", [], async (c) => {
  await throughFault(c, { longSilence: true }, async ({ site, primary, standby }) => {
    await site.killWitness();
    await site.crash(primary);
    await sleep(2000);
    const { role, arbitration } = await site.service(standby);
    assert.deepEqual([role, arbitration.reachable], ["standby", false]);
    await site.startWitness();
    await waitRole(site, standby, "primary");
  });
});

netTest("a primary's daemon that was stopped says nothing when continued", [], async (context) => {
  await throughFault(context, {}, async ({ site, primary, standby }) => {
    const pid = site.daemonPid(primary);
    Deno.kill(pid, "SIGSTOP");
    await waitRole(site, standby, "primary");
    await sleep(500);
    Deno.kill(pid, "SIGCONT");
  }, async ({ site, primary, standby }) => {
    await waitRole(site, primary, "standby");
    assert.equal(await roleOf(site, standby), "primary");
    assert.ok((await judgements(site, primary)).includes("retired"));
  });
});

netTest(
  "a standby's daemon that was stopped costs protection, nothing else",
  [],
  async (context) => {
    await throughFault(context, {}, async ({ site, primary, standby }) => {
      const pid = site.daemonPid(standby);
      Deno.kill(pid, "SIGSTOP");
      await sleep(1500);
      assert.equal(await roleOf(site, primary), "primary");
      Deno.kill(pid, "SIGCONT");
    }, async ({ site, primary }) => {
      await site.waitProtected();
      assert.equal(await site.primary(), primary);
    });
  },
);

netTest("a repaired host follows, and takes over at the second failure", [], async (context) => {
  await withSite(context, { witness: true, run: mixedServer() }, async (site) => {
    await site.waitProtected();
    const first = await site.primary();
    const second = site.other(first);
    await site.crash(first);
    await waitRole(site, second, "primary");
    await site.revive(first);
    await site.waitProtected();
    assert.equal(await site.primary(), second, "the repaired host has not taken the address back");
    const capture = await site.startCapture();
    const workload = await site.startWorkload({ ...WORKLOAD, seed: context.random.seed() });
    await workload.go();
    await sleep(500);
    const { total, hot } = (await site.service(second)).connections;
    assert.ok(total > 0 && hot === total, `${hot} of ${total} new connections are protected`);
    const faultMs = await site.crash(second);
    await workload.mustSucceed(TIMEOUT_MS);
    const dropped = await capture.stop();
    assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
    assert.equal((await site.service(first)).role, "primary");
  });
});

netTest("false alarms on overloaded cores make no second voice", [], async (context) => {
  const burners = Array.from(
    { length: 4 },
    () => startProcess("sh", ["-c", "while :; do :; done"]),
  );
  try {
    await throughFault(
      context,
      { cluster: { detect: 3 } },
      () => Promise.resolve(),
      async (scene) => {
        for (const host of ["a", "b"] as const) {
          const counts = new Map<string, number>();
          for (const judgement of await judgements(scene.site, host)) {
            counts.set(judgement, (counts.get(judgement) ?? 0) + 1);
          }
          console.log(host, await roleOf(scene.site, host), Object.fromEntries(counts));
        }
      },
    );
  } finally {
    for (const burner of burners) await burner.kill();
  }
});

netTest("a foreign announcement of the address raises an alarm", [], async (context) => {
  await withSite(context, { witness: true, run: mixedServer() }, async (site) => {
    await site.waitProtected();
    const primary = await site.primary();
    inNamespace(site.topology.client.netns, () => {
      const netlink = new Netlink();
      const announcer = new Announcer(parseAddress(site.address), netlink.link("eth0"));
      for (let i = 0; i < 20; i++) announcer.announce();
      announcer.close();
      netlink.close();
    });
    await sleep(300);
    const alarms = (await judgements(site, primary))
      .filter((judgement) => judgement === "another host claims the address");
    assert.equal(alarms.length, 1, "one alarm for twenty announcements");
  });
});

netTest("a standby takes over a crashed host when etcd grants it", ["etcd"], async (context) => {
  // Each host reaches one of the two; the cluster has one member, which listens at both.
  const endpoints = ["http://10.79.1.9:2379", "http://10.79.2.9:2379"];
  await withSite(context, {
    witness: true,
    hosts: [],
    run: mixedServer(),
    cluster: { arbiter: { kind: "etcd", endpoints } },
  }, async (site) => {
    const etcd = startProcess("etcd", [
      ...["--data-dir", `${context.directory}/etcd`, "--logger", "zap"],
      ...["--listen-client-urls", "http://0.0.0.0:2379"],
      ...["--advertise-client-urls", endpoints.join()],
    ], { namespace: site.topology.witness!.netns });
    await etcd.waitForOutput("serving client traffic", 20_000);
    for (const host of ["a", "b"] as const) await site.startDaemon(host);
    await takeOver(context, site);
    await etcd.kill();
  });
});

netTest("a standby takes over a crashed host when the fence command has shot it", [], async (c) => {
  const shots = `${c.directory}/shots`;
  const shoot = `echo "$HOLDFAST_NODE $HOLDFAST_EPOCH" >> ${shots}`;
  await withSite(c, {
    run: mixedServer(),
    cluster: { arbiter: { kind: "fence", command: ["sh", "-c", shoot], gateway: "10.77.0.11" } },
  }, async (site) => {
    const survivor = await takeOver(c, site);
    const said = (await Deno.readTextFile(shots)).trim().split("\n");
    assert.equal(said.at(-1), `${survivor} 2`, "the survivor shot last, for its epoch");
  });
});

netTest("a host whose gateway is silent shoots nobody and does not speak", [], async (context) => {
  const shots = `${context.directory}/shots`;
  await withSite(context, {
    run: mixedServer(),
    // Nobody has that address.
    cluster: { arbiter: { kind: "fence", command: ["touch", shots], gateway: "10.77.0.250" } },
  }, async (site) => {
    await sleep(4000);
    for (const host of ["a", "b"] as const) {
      const { role, arbitration } = await site.service(host);
      assert.equal(role, "joining");
      if (host === "a") assert.match(arbitration.last?.detail ?? "", /gateway 10\.77\.0\.250/);
    }
    await assert.rejects(Deno.stat(shots), Deno.errors.NotFound);
  });
});

/** The primary's host crashes under the mixed client; returns who took over. */
async function takeOver(context: NetTestContext, site: Site): Promise<HostName> {
  await site.waitProtected();
  const capture = await site.startCapture();
  const workload = await site.startWorkload({ ...WORKLOAD, seed: context.random.seed() });
  const primary = await site.primary();
  await workload.go();
  await sleep(WORKLOAD.momentMs);
  const faultMs = await site.crash(primary);
  await workload.mustSucceed(TIMEOUT_MS);
  const dropped = await capture.stop();
  assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
  const survivor = site.other(primary);
  const { role, arbitration } = await site.service(survivor);
  assert.deepEqual([role, arbitration.last?.outcome], ["primary", "granted"]);
  console.log(`granted in ${arbitration.last?.tookMs} ms`);
  return survivor;
}
