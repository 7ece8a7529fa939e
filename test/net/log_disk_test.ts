/**
 * log_disk_test.ts - one host with its log on disk: the daemon itself dies and is started again
 *
 *   client ---- switch ---- host a: daemon (SIGKILL, started again), server; no peer
 *
 * Claims, for a service with log.store = "disk":
 *   SIGKILL of the daemon, and of its server with it, at a random moment; started again on the same host
 *     downloads, uploads, echoes, idle connections, such that just begin   every octet right, no RST, one SYN
 *     nginx and curl                                                       the same for one large download
 *   SIGKILL again before the first one's recovery is over                  the same
 *   SIGTERM and a new start                                                the same
 * While no daemon runs nobody answers for the address.
 */

import assert from "node:assert/strict";
import { addressClaims, traceTcp } from "./capture.ts";
import { netTest, repetitions, sleep } from "./conditions.ts";
import { makeContent } from "./content.ts";
import { mixedServer, type SiteOptions, withSite } from "./harness.ts";
import { nginx } from "./nginx.ts";
import { FAST, MEMORY, type Passage, workThrough } from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";

const WORKLOAD = { ...FAST, connections: 45 };
const PASSAGE: Passage = {
  workload: WORKLOAD,
  moment: [100, 4500],
  verdict: { mayShrink: true },
};
const SERVICE = { mode: "log", log: { store: "disk" }, memory: MEMORY };
const ONE_HOST: SiteOptions = { alone: true, hosts: ["a"], service: SERVICE };

/** For how long no daemon runs. */
const SILENT_MS = 1500;
/** Octets of a download. */
const CONTENT_OCTETS = 256 << 20;

for (const family of [4, 6] as const) {
  const name = `clients do not notice SIGKILL of the daemon, which is started again (IPv${family})`;
  netTest(name, [], async (context) => {
    const { random } = context;
    await withSite(context, { ...ONE_HOST, family, run: mixedServer() }, async (site) => {
      await site.waitPrimary("a");
      const rounds = repetitions(50, 0.04);
      for (let round = 0; round < rounds; round++) {
        await workThrough(context, site, PASSAGE, async () => {
          const kills = 1 + random.integer(2);
          const isAsked = round % 4 === 3;
          const signal = isAsked ? "SIGTERM" : "SIGKILL";
          console.log(`round ${round + 1} of ${rounds}: ${signal}, ${kills} times`);
          const faultMs = await (isAsked ? site.stopDaemon("a") : site.killDaemon("a"));
          for (let again = 1; again < kills; again++) {
            await site.startDaemon("a");
            await sleep(random.between(0, 300));
            await site.killDaemon("a");
          }
          await site.startDaemon("a");
          return faultMs;
        });
        const { recovery, store } = await site.service("a");
        assert.deepEqual([recovery?.state, store?.state], ["live", "storing"]);
      }
    });
  });
}

netTest("curl reads on from nginx when daemon and server were killed and started again", [
  "nginx",
  "curl",
], async (context) => {
  const { directory, random } = context;
  await Deno.mkdir(`${directory}/files`);
  const content = makeContent(`${directory}/files/content`, CONTENT_OCTETS);
  const command = await nginx("a", directory);
  await withSite(context, { ...ONE_HOST, run: { a: command, b: command } }, async (site) => {
    await site.waitPrimary("a");
    const capture = await site.startCapture();
    const args = ["--silent", "--show-error", "--limit-rate", "60M", site.url("/content")];
    const client = site.startInClient("curl", args, { hashOutput: true });
    await sleep(random.between(200, 3000));
    const faultMs = await site.killDaemon("a");
    await site.forgetClientNeighbors();
    await sleep(SILENT_MS);
    const againMs = Date.now();
    await site.startDaemon("a");
    await client.mustSucceed(60_000);
    const dropped = await capture.stop();
    const claims = addressClaims(capture.path, site.address)
      .filter(({ timeMs }) => timeMs > faultMs + 100 && timeMs < againMs);
    assert.deepEqual(claims, [], "somebody answers for the address while no daemon runs");
    assert.deepEqual(client.outputHash(), { sha256: content.sha256, octets: content.octets });
    assertUnbroken(traceTcp(capture.path, site.address), { connections: 1, faultMs, dropped });
  });
});
