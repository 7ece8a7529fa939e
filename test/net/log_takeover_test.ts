/**
 * log_takeover_test.ts - two hosts in log mode: the primary's host dies, the standby starts a server
 *
 *   client ---- switch ---- host a: daemon, server     loses power
 *                    \----- host b: daemon, log        starts a server and plays it the log
 *
 * Claims, with connections that download, upload, echo, are idle, and just begin:
 *   the host loses power at a random moment      every octet right, no RST, one SYN
 *   the server is killed, the host stays         mended in place: the primary stays
 *   a planned switch                             the same, and the old primary's server is ended
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, type NetTestContext, repetitions, sleep, until } from "./conditions.ts";
import { makeContent } from "./content.ts";
import { type HostName, mixedServer, type Site, withSite } from "./harness.ts";
import { nginx } from "./nginx.ts";
import { FAST, MEMORY, type Passage, workThrough } from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";

const WORKLOAD = { ...FAST, connections: 54 };
const SERVICE = { mode: "log", memory: MEMORY };
const CONTENT_OCTETS = 512 << 20;

const PASSAGE: Passage = { workload: WORKLOAD, moment: [100, 4500] };

/** The mixed client with a fault in its midst. */
async function outlive(
  context: NetTestContext,
  site: Site,
  fault: (primary: HostName) => Promise<number>,
): Promise<void> {
  const primary = await site.waitCovered();
  await workThrough(context, site, PASSAGE, () => fault(primary));
}

for (const family of [4, 6] as const) {
  const name = `a standby that keeps logs takes over from a host without power (IPv${family})`;
  netTest(name, [], async (context) => {
    await withSite(context, { family, run: mixedServer(), service: SERVICE }, async (site) => {
      const rounds = repetitions(50, 0.06);
      for (let round = 0; round < rounds; round++) {
        console.log(`round ${round + 1} of ${rounds}`);
        let dead: HostName = "a";
        await outlive(context, site, (primary) => site.crash(dead = primary));
        const { role, recovery } = await site.service(site.other(dead));
        assert.deepEqual([role, recovery?.state], ["primary", "live"]);
        await site.revive(dead);
      }
    });
  });
}

netTest("curl reads 512 MiB while the host that serves it loses power", [
  "nginx",
  "curl",
], async (context) => {
  const { directory, random } = context;
  await Deno.mkdir(`${directory}/files`);
  const content = makeContent(`${directory}/files/content`, CONTENT_OCTETS);
  const run = { a: await nginx("a", directory), b: await nginx("b", directory) };
  await withSite(context, { run, service: SERVICE }, async (site) => {
    const url = site.url("/content");
    const rounds = repetitions(50, 0.04);
    for (let round = 0; round < rounds; round++) {
      const primary = await site.waitCovered();
      const capture = await site.startCapture();
      const args = ["--silent", "--show-error", "--max-time", "110", url];
      const client = site.startInClient("curl", args, { hashOutput: true });
      const momentMs = random.between(0, 600);
      console.log(`round ${round + 1} of ${rounds}: crash after ${momentMs.toFixed(0)} ms`);
      await sleep(momentMs);
      const faultMs = await site.crash(primary);
      await client.mustSucceed(120_000);
      const dropped = await capture.stop();
      assert.deepEqual(client.outputHash(), { sha256: content.sha256, octets: content.octets });
      assertUnbroken(traceTcp(capture.path, site.address), { connections: 1, faultMs, dropped });
      await Deno.remove(capture.path);
      await site.revive(primary);
    }
  });
});

netTest(
  "a killed server is mended where it was, though there is a standby",
  [],
  async (context) => {
    await withSite(context, { run: mixedServer(), service: SERVICE }, async (site) => {
      const before = await site.waitCovered();
      await outlive(context, site, (primary) => site.signalServer(primary, "SIGKILL"));
      assert.equal(await site.primary(), before);
      assert.equal((await site.service(site.other(before))).app.state, "stopped");
      assert.equal((await site.service(before)).app.restarts, 1);
    });
  },
);

netTest(
  "a planned switch moves connections to a server that is started then",
  [],
  async (context) => {
    await withSite(context, { run: mixedServer(), service: SERVICE }, async (site) => {
      const before = await site.waitCovered();
      await outlive(context, site, async (primary) => {
        const atMs = Date.now();
        await site.switchService(primary);
        return atMs;
      });
      const after = site.other(before);
      assert.equal(await site.primary(), after);
      assert.equal((await site.service(after)).app.state, "running");
      await until(async () => (await site.service(before)).app.state === "stopped", {
        what: "the old primary's server to end",
        timeoutMs: 10_000,
      });
    });
  },
);
