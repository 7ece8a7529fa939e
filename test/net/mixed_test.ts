/**
 * mixed_test.ts - hosts of one service that differ in mode: hot ones feed a server while they stand by
 *
 *   client ---- switch ---- host a: daemon, server, log
 *                    |----- host b: daemon, server, log      hot: its server is fed while it stands by
 *                    \----- host c: daemon, log              starts a server when it takes over
 *
 * Claims, with connections that download, upload, echo and are idle, every octet right, no RST, one SYN:
 *   log and hot       the primary loses power: the hot standby goes on with the server that it has; the dead host
 *                     comes back, and goes on with the log alone when the other one dies
 *   hot, hot and log  two hosts lose power, one after the other; the third one starts a server
 *   the standby's     its server is killed, or stopped: connections stay protected, as logs and then hot again;
 *   server            killed once more, the primary's host loses power before it is there: nothing is lost
 *   switches          from log to hot, back, and again: the hot host's server is the same throughout
 *   the primary's     its server is killed: the hot standby is handed all of it, and the dead server's host follows
 *   server            again
 *   another mode      a host that keeps no whole logs is refused, which its peer's log says
 */

import assert from "node:assert/strict";
import type { ConnectionInfo } from "../../runtime/status.ts";
import { traceTcp } from "./capture.ts";
import { netTest, type NetTestContext, repetitions, sleep, until } from "./conditions.ts";
import { makeContent } from "./content.ts";
import { type HostName, mixedServer, type Site, type SiteOptions, withSite } from "./harness.ts";
import { nginx } from "./nginx.ts";
import { MEMORY, slowPassage, workThrough } from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";

const PASSAGE = slowPassage(10_000);
const HOT = { mode: "hot", log: { limit: "64MiB" }, memory: MEMORY };
const LOG = { mode: "log", log: { limit: "64MiB" }, memory: MEMORY };
const CONTENT_OCTETS = 512 << 20;

function siteOf(a: object, b: object, c?: object): SiteOptions {
  const hostService = { a: { ...a }, b: { ...b }, ...c === undefined ? {} : { c: { ...c } } };
  return { run: mixedServer(), hostService, third: c !== undefined, witness: c !== undefined };
}

/** Waits until all connections that live are protected as `how`; how many those are. */
async function waitKept(site: Site, primary: HostName, how: "hot" | "log"): Promise<number> {
  return await until(async () => {
    if (!(await site.service(primary)).protected) return undefined;
    const living = await livingOf(site, primary);
    const isSo = living.every(({ protection, reason }) => protection === how && reason === null);
    return isSo && living.length > 0 ? living.length : undefined;
  }, { what: `all connections to be kept as "${how}"`, timeoutMs: 10_000 });
}

async function livingOf(site: Site, primary: HostName): Promise<ConnectionInfo[]> {
  const all = await site.connections(primary);
  return all.filter(({ state }) => state === "established" || state === "closing");
}

/** The mixed client, and what happens in its midst; it returns when that began, milliseconds since 1970. */
async function outlive(
  context: NetTestContext,
  site: Site,
  fate: (primary: HostName) => Promise<number>,
): Promise<void> {
  const primary = await site.waitCovered();
  console.log(`${primary} is primary`);
  await workThrough(context, site, PASSAGE, () => fate(primary));
}

/** Process id of a host's server, which has never been started again. */
async function firstPid(site: Site, host: HostName): Promise<number> {
  const { app } = await site.service(host);
  assert.equal(app.restarts, 0);
  assert.ok(app.pid);
  return app.pid;
}

netTest(
  "a hot standby takes over from a host in log mode, which takes over from it",
  [],
  async (c) => {
    await withSite(c, siteOf(LOG, HOT), async (site) => {
      const rounds = repetitions(50, 0.04);
      for (let round = 0; round < rounds; round++) {
        console.log(`round ${round + 1} of ${rounds}`);
        await outlive(c, site, async (primary) => {
          assert.equal(primary, "a");
          await waitKept(site, "a", "hot");
          const pid = await firstPid(site, "b");
          const faultMs = await site.crash("a");
          await site.waitPrimary("b");
          await site.revive("a");
          const kept = await waitKept(site, "b", "log");
          assert.equal(await firstPid(site, "b"), pid);
          assert.equal((await site.service("a")).app.state, "stopped");
          await site.crash("b");
          await site.waitPrimary("a");
          assert.ok(kept > 30, `only ${kept} connections were left when the second host ended`);
          return faultMs;
        });
        await site.revive("b");
      }
    });
  },
);

netTest(
  "two hot hosts and one in log mode die one after the other, down to the last",
  [],
  async (c) => {
    const rounds = repetitions(50, 0.04);
    for (let round = 0; round < rounds; round++) {
      console.log(`round ${round + 1} of ${rounds}`);
      // A site of its own: the host that comes back last is the last of the chain.
      await withSite(c, siteOf(HOT, HOT, LOG), async (site) => {
        await site.waitCovered();
        await until(async () => `${(await site.service("a")).copies.chain}` === "b,c", {
          what: "a chain of three",
          timeoutMs: 20_000,
        });
        await outlive(c, site, async () => {
          await waitKept(site, "a", "hot");
          const pid = await firstPid(site, "b");
          const faultMs = await site.crash("a");
          await site.waitPrimary("b");
          await waitKept(site, "b", "log");
          assert.equal(await firstPid(site, "b"), pid);
          await site.crash("b");
          await site.waitPrimary("c");
          return faultMs;
        });
      });
    }
  },
);

for (const signal of ["SIGKILL", "SIGSTOP"] as const) {
  const name = `a hot standby whose server gets ${signal} protects as a log, and then hot again`;
  netTest(name, [], async (c) => {
    await withSite(c, siteOf(LOG, { ...HOT, lag_time: "500ms" }), async (site) => {
      await outlive(c, site, async (primary) => {
        await waitKept(site, primary, "hot");
        const standby = site.other(primary);
        await site.signalServer(standby, signal);
        await until(async () => {
          const protections = (await livingOf(site, primary)).map(({ protection }) => protection);
          assert.equal(protections.includes("unprotected"), false);
          return protections.every((protection) => protection === "log");
        }, { what: "connections to be kept as logs", timeoutMs: 10_000 });
        await waitKept(site, primary, "hot");
        await site.signalServer(standby, "SIGKILL");
        const faultMs = await site.crash(primary);
        await site.waitPrimary(standby);
        return faultMs;
      });
    });
  });
}

netTest(
  "a planned switch moves connections to a hot host, to one in log mode, and back",
  [],
  async (c) => {
    await withSite(c, siteOf(LOG, HOT), async (site) => {
      await outlive(c, site, async (primary) => {
        await waitKept(site, primary, "hot");
        const atMs = Date.now();
        await site.switchService(primary);
        const standby = site.other(primary);
        const pid = await firstPid(site, standby);
        await waitKept(site, standby, "log");
        await site.switchService(standby);
        // The hot host's server goes on as a standby's.
        await waitKept(site, primary, "hot");
        await site.switchService(primary);
        assert.equal(await firstPid(site, standby), pid);
        assert.equal((await site.service(standby)).role, "primary");
        return atMs;
      });
    });
  },
);

netTest("a hot standby is handed the connections of a server that is killed", [], async (c) => {
  await withSite(c, siteOf(HOT, HOT), async (site) => {
    const rounds = repetitions(50, 0.04);
    for (let round = 0; round < rounds; round++) {
      console.log(`round ${round + 1} of ${rounds}`);
      let before: HostName = "a";
      await outlive(c, site, async (primary) => {
        before = primary;
        await waitKept(site, primary, "hot");
        const faultMs = await site.signalServer(primary, "SIGKILL");
        const standby = site.other(primary);
        await site.waitPrimary(standby);
        assert.equal((await site.service(standby)).lastTakeover?.reason, "app-exited");
        await waitKept(site, standby, "hot");
        return faultMs;
      });
      assert.equal(await site.primary(), site.other(before));
    }
  });
});

netTest("curl reads 512 MiB from nginx on a log and a hot host, which both lose power", [
  "nginx",
  "curl",
], async (context) => {
  const { directory, random } = context;
  await Deno.mkdir(`${directory}/files`);
  const content = makeContent(`${directory}/files/content`, CONTENT_OCTETS);
  const run = { a: await nginx("a", directory), b: await nginx("b", directory) };
  await withSite(context, { ...siteOf(LOG, HOT), run }, async (site) => {
    const primary = await site.waitCovered();
    const capture = await site.startCapture();
    const args = ["--silent", "--show-error", "--limit-rate", "60M", "--max-time", "110"];
    const client = site.startInClient("curl", [...args, site.url("/content")], {
      hashOutput: true,
    });
    await sleep(random.between(200, 1500));
    await waitKept(site, primary, "hot");
    const faultMs = await site.crash(primary);
    const standby = site.other(primary);
    await site.waitPrimary(standby);
    await site.revive(primary);
    await waitKept(site, standby, "log");
    await site.crash(standby);
    await client.mustSucceed(120_000);
    const dropped = await capture.stop();
    assert.deepEqual(client.outputHash(), { sha256: content.sha256, octets: content.octets });
    assertUnbroken(traceTcp(capture.path, site.address), { connections: 1, faultMs, dropped });
    await Deno.remove(capture.path);
    assert.equal(await site.primary(), primary);
  });
});

netTest(
  "a hot host that keeps no whole logs is refused beside one in log mode",
  [],
  async (context) => {
    await withSite(context, siteOf(LOG, { mode: "hot" }), async (site) => {
      await until(() => Promise.resolve(site.log("a").includes("it does not keep whole logs")), {
        what: "host a to refuse host b",
        timeoutMs: 10_000,
      });
      assert.equal((await site.service("a")).protected, false);
    });
  },
);
