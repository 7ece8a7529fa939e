/**
 * log_server_test.ts - one host in log mode: its server dies and is started again, and no client notices
 *
 *   client ---- switch ---- host a: daemon, server (SIGKILL, restart); no peer
 *
 * Claims, with connections that download, upload, echo, are idle, and just begin:
 *   SIGKILL of the spawned server at a random moment   every octet right, no RST, one SYN; the daemon
 *                                                      starts the server again and replays what was said
 *   SIGKILL of a server that no daemon starts          the same, when somebody has started it again
 *   `holdfast restart web`                             the same
 *   a server that is away for 12 s (10 min in full)    curl goes on in the midst of download and upload
 *   a stream longer than sequence numbers reach        goes on at the right octet
 */

import assert from "node:assert/strict";
import { contentSha256 } from "../../runtime/lab/content.ts";
import { traceTcp } from "./capture.ts";
import { netTest, type NetTestContext, repetitions, sleep, until } from "./conditions.ts";
import { makeContent } from "./content.ts";
import { mixedServer, type SiteOptions, withSite } from "./harness.ts";
import { nginx } from "./nginx.ts";
import { FAST, MEMORY, type Passage, workThrough } from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";

const WORKLOAD = { ...FAST, connections: 54 };
const PASSAGE: Passage = { workload: WORKLOAD, moment: [100, 4500] };
/** Nobody listens at the first of the ports. */
const SERVICE = { mode: "log", ports: [82, 80], memory: MEMORY };
const ONE_HOST: SiteOptions = { alone: true, hosts: ["a"], service: SERVICE };

/** Transfers that are held, each for some seconds on the wire. */
const DOWNLOAD_OCTETS = 160 << 20;
const UPLOAD_OCTETS = 32 << 20;
const SEED = 7;
/** Idle time before a keep-alive probe, and between two, seconds. */
const KEEP_ALIVE_S = 2;
/** For how long clients of every kind are held: their own deadlines are at 30 s. */
const HELD_MS = 12_000;
/** For how long a client without a deadline is held: ten minutes in the full run. */
const LONG_HELD_MS = repetitions(600, 1 / 50) * 1000;
/** More than 2^32 octets, and of these the server has written so many when it dies. */
const LONG_OCTETS = 4608 * (1 << 20);
const LONG_OCTETS_BEFORE = 4300 * (1 << 20);

for (const family of [4, 6] as const) {
  const name = `clients do not notice SIGKILL of the server, which is started again (IPv${family})`;
  netTest(name, [], async (context) => {
    await withSite(context, { ...ONE_HOST, family, run: mixedServer() }, async (site) => {
      await site.waitPrimary("a");
      const rounds = repetitions(50, 0.06);
      for (let round = 0; round < rounds; round++) {
        console.log(`round ${round + 1} of ${rounds}`);
        await workThrough(context, site, PASSAGE, () => site.signalServer("a", "SIGKILL"));
        const { app, recovery } = await site.service("a");
        assert.deepEqual([app.lastExit, app.restarts], ["SIGKILL", round + 1]);
        assert.equal(recovery?.state, "live");
      }
    });
  });
}

netTest(
  "clients do not notice SIGKILL of a server that others start again",
  [],
  async (context) => {
    const { random } = context;
    await withSite(context, ONE_HOST, async (site) => {
      await site.startServer("a", mixedServer().a);
      await site.waitPrimary("a");
      const rounds = repetitions(20);
      for (let round = 0; round < rounds; round++) {
        console.log(`round ${round + 1} of ${rounds}`);
        await workThrough(context, site, PASSAGE, async () => {
          const faultMs = await site.signalServer("a", "SIGKILL");
          await sleep(random.between(0, 1000));
          await site.startServer("a", mixedServer().a);
          return faultMs;
        });
        const { recovery } = await site.service("a");
        assert.equal(recovery?.state, "live");
        assert.match(recovery?.last?.reason ?? "", /^app-(died|exited)$/);
      }
    });
  },
);

netTest("clients do not notice holdfast restart", [], async (context) => {
  await withSite(context, { ...ONE_HOST, run: mixedServer() }, async (site) => {
    await site.waitPrimary("a");
    await workThrough(context, site, { ...PASSAGE, moment: [2000, 2000] }, async () => {
      const faultMs = Date.now();
      const before = (await site.service("a")).app.pid;
      const { connections, tookMs } = await site.restartService("a");
      assert.ok(connections > 30, `${connections} connections`);
      console.log(`${connections} connections in ${tookMs.toFixed(0)} ms`);
      assert.notEqual((await site.service("a")).app.pid, before);
      return faultMs;
    });
  });
});

/** A command that is slow to start but for the first time. */
function slowly(command: string[], { directory }: NetTestContext, delayMs: number): string[] {
  const started = `${directory}/started`;
  const script = `test -e ${started} && sleep ${delayMs / 1000}; touch ${started}; exec "$0" "$@"`;
  return ["sh", "-c", script, ...command];
}

netTest(
  "curl waits in the midst of a download and of an upload for as long as the server is away",
  ["curl"],
  async (context) => {
    const { directory } = context;
    const { path, sha256, octets } = makeContent(`${directory}/content`, UPLOAD_OCTETS);
    const script = new URL("../../runtime/lab/servers.ts", import.meta.url).pathname;
    const servers = [Deno.execPath(), "run", "-A", script, "all", "--address", "::"];
    const command = slowly([...servers, "--port", "80"], context, LONG_HELD_MS);
    const service = { mode: "log", ports: [80, 81] };
    const options = { ...ONE_HOST, service, run: { a: command, b: command } };
    await withSite(context, options, async (site) => {
      await site.waitPrimary("a");
      const capture = await site.startCapture();
      // No deadline of its own, and keep-alive probes while it waits.
      const usual = ["--silent", "--show-error", "--fail", "--keepalive-time", `${KEEP_ALIVE_S}`];
      const file = site.url(`/${DOWNLOAD_OCTETS}/${SEED}`);
      const download = site.startInClient("curl", [...usual, "--limit-rate", "40M", file], {
        hashOutput: true,
      });
      const uploading = ["--limit-rate", "8M", "--upload-file", path, site.url(":81/")];
      const upload = site.startInClient("curl", [...usual, ...uploading]);
      await sleep(1500);
      assert.deepEqual([download.hasEnded, upload.hasEnded], [false, false]);
      const faultMs = await site.signalServer("a", "SIGKILL");
      await download.mustSucceed(LONG_HELD_MS + 60_000);
      await upload.mustSucceed(LONG_HELD_MS + 60_000);
      const dropped = await capture.stop();
      const wanted = {
        sha256: await contentSha256(DOWNLOAD_OCTETS, SEED),
        octets: DOWNLOAD_OCTETS,
      };
      assert.deepEqual(download.outputHash(), wanted);
      assert.equal(upload.output(), `${sha256} ${octets}\n`);
      assertUnbroken(traceTcp(capture.path, site.address), { connections: 2, faultMs, dropped });
      const last = (await site.service("a")).recovery?.last;
      assert.equal(last?.connections, 2);
      assert.ok(last.waitedMs >= LONG_HELD_MS, JSON.stringify(last));
      console.log(
        `held for ${Math.round(last.waitedMs)} ms, mended in ${Math.round(last.tookMs)} ms`,
      );
    });
  },
);

netTest("curl reads on beyond 4 GiB from an nginx that is killed there", [
  "nginx",
  "curl",
], async (context) => {
  const { directory } = context;
  await Deno.mkdir(`${directory}/files`);
  const content = makeContent(`${directory}/files/content`, LONG_OCTETS);
  const command = await nginx("a", directory);
  await withSite(context, { ...ONE_HOST, run: { a: command, b: command } }, async (site) => {
    await site.waitPrimary("a");
    // Slow enough to be met before its last octet is written.
    const args = ["--silent", "--show-error", "--limit-rate", "400M", site.url("/content")];
    const client = site.startInClient("curl", args, { hashOutput: true });
    await until(async () => (await site.connections("a"))[0]?.bytesOut > LONG_OCTETS_BEFORE, {
      what: "more than 2^32 octets to be written",
      timeoutMs: 120_000,
    });
    await site.signalServer("a", "SIGKILL");
    await client.mustSucceed(120_000);
    assert.deepEqual(client.outputHash(), { sha256: content.sha256, octets: content.octets });
    const { app, recovery } = await site.service("a");
    assert.deepEqual([app.restarts, recovery?.last?.connections], [1, 1]);
  });
});

netTest("clients wait for as long as a server takes to start again", [], async (context) => {
  const command = slowly(mixedServer().a, context, HELD_MS);
  const mix = ["download", "upload", "echo", "keepalive", "client-fin"] as const;
  await withSite(context, { ...ONE_HOST, run: { a: command, b: command } }, async (site) => {
    await site.waitPrimary("a");
    const capture = await site.startCapture();
    const momentMs = 2000;
    const workload = await site.startWorkload({
      ...WORKLOAD,
      connections: 20,
      mix,
      momentMs,
      seed: context.random.seed(),
    });
    const held = await site.startHeldConnection();
    await held.exchange();
    await workload.go();
    await sleep(momentMs);
    const faultMs = await site.signalServer("a", "SIGKILL");
    await sleep(1000);
    const { connections, recovery } = await site.service("a");
    assert.deepEqual([recovery?.state, connections.unprotected], ["waiting", 0]);
    assert.ok(recovery!.behind > 10, `${recovery!.behind} connections wait`);
    await workload.mustSucceed(HELD_MS + 60_000);
    await held.exchange();
    await held.close();
    const dropped = await capture.stop();
    assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
    const last = (await site.service("a")).recovery?.last;
    assert.ok(last!.waitedMs >= HELD_MS, JSON.stringify(last));
  });
});
