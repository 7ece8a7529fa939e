/**
 * hint_test.ts - hint = "http/1.1": one connection asks thousands of times, far beyond what is kept of it
 *
 *   client ---- switch ---- host a: daemon, nginx      curl asks for one small file after the other, all over
 *                    \----- host b: daemon, nginx      one connection; servers, hosts and daemons die meanwhile
 *
 * Claims, with 64 KiB kept of a connection (log.limit, rejoin_limit) on which seven times as much is asked:
 *   one host, the server is killed again and again          every octet right, no RST, one SYN, and always protected
 *   two hosts in log mode, one after the other loses power  the same
 *   log on disk, the daemon is killed again and again       the same
 *   hot mode, one host after the other loses power          the same: each that comes back is brought all of it
 *   wrk, 20 connections, 8 requests under way on each       no error, no other connection, all protected
 *   a server that speaks HTTP/1.0                           is kept whole, which is listed, and outlived as without a hint
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { traceTcp } from "./capture.ts";
import { netTest, type NetTestContext, repetitions, sleep, until } from "./conditions.ts";
import { makeContent } from "./content.ts";
import { type HostName, type Site, type SiteOptions, withSite } from "./harness.ts";
import { nginx } from "./nginx.ts";
import { assertUnbroken } from "./verdict.ts";

/** What is kept of one connection. */
const KEPT = "64KiB";
const LOG = { mode: "log", hint: "http/1.1", log: { limit: KEPT } };
const DISK = { mode: "log", hint: "http/1.1", log: { limit: KEPT, store: "disk" } };
const HOT = { mode: "hot", hint: "http/1.1", rejoin_limit: KEPT };
const ONE_HOST: SiteOptions = { alone: true, hosts: ["a"] };

/** Requests of some 80 octets each. */
const REQUESTS = 6_000;
/** Octets of the files that are asked for. */
const FILES = [0, 1, 90, 1400, 5000, 17_000, 60_000];
/** So often something dies in one round, at most. */
const STRIKES_MAX = 12;
/** For how long wrk asks, seconds. */
const WRK_S = 8;
/** One connection may ask for as long as it likes, which nginx does not let it by itself. */
const ENDLESS = "keepalive_requests 10000000;";

/** Files, the servers that serve them, and a list of them that curl works off over one connection. */
async function prepare({ directory, random }: NetTestContext, site: (name: string) => string) {
  const contents = FILES.map((octets) =>
    Uint8Array.from({ length: octets }, () => random.integer(256))
  );
  const hash = createHash("sha256");
  const lines: string[] = [];
  let octets = 0;
  for (let i = 0; i < REQUESTS; i++) {
    const which = random.integer(FILES.length);
    lines.push(`url = "${site(`/${which}`)}"`);
    hash.update(contents[which]);
    octets += contents[which].length;
  }
  const list = `${directory}/list`;
  await Deno.writeTextFile(list, lines.join("\n"));
  for (const [which, content] of contents.entries()) {
    await Deno.writeFile(`${directory}/files/${which}`, content);
  }
  return { list, expected: { sha256: hash.digest("hex"), octets } };
}

/** Octets of logs that were cut, and connections that were not followed to their end, since the daemon's start. */
async function cutAt(site: Site, host: HostName): Promise<{ octets: number; ended: number }> {
  const { counters } = await site.service(host);
  return { octets: counters.cutOctets, ended: counters.cutsEnded };
}

interface Fates {
  /** How the site is made. */
  options: SiteOptions;
  /** Something ends and comes back; returns when all is protected again. */
  strike: (site: Site) => Promise<void>;
  /** See VerdictOptions. */
  mayShrink?: boolean;
}

/** curl asks over one connection while one thing after the other dies. */
async function askThrough(context: NetTestContext, { options, strike, mayShrink }: Fates) {
  const { directory, random } = context;
  await Deno.mkdir(`${directory}/files`);
  const run = { a: await nginx("a", directory, ENDLESS), b: await nginx("b", directory, ENDLESS) };
  await withSite(context, { ...options, run }, async (site) => {
    if (options.alone) await site.waitPrimary("a");
    else await site.waitCovered();
    const rounds = repetitions(20, 0.05);
    for (let round = 0; round < rounds; round++) {
      const { list, expected } = await prepare(context, (path) => site.url(path));
      const capture = await site.startCapture();
      const args = ["--silent", "--show-error", "--fail", "--max-time", "60", "--config", list];
      const client = site.startInClient("curl", args, { hashOutput: true });
      let isOver = false;
      void client.exited.then(() => isOver = true);
      let strikes = 0;
      let faultMs = NaN;
      while (!isOver) {
        await sleep(random.between(200, 1500));
        if (isOver || strikes === STRIKES_MAX) continue;
        faultMs = Date.now();
        await strike(site);
        strikes++;
      }
      console.log(`round ${round + 1} of ${rounds}: ${strikes} times`);
      await client.mustSucceed(1000);
      const dropped = await capture.stop();
      assert.deepEqual(client.outputHash(), expected);
      const verdict = { connections: 1, faultMs, dropped, mayShrink, hasLongSilence: true };
      assertUnbroken(traceTcp(capture.path, site.address), verdict);
      assert.ok(strikes > 0, "nothing died while curl asked");
      await Deno.remove(capture.path);
    }
  });
}

/** The server is killed; a second's rest after it is there again. */
async function killServer(site: Site): Promise<void> {
  const primary = await site.primary();
  const { restarts = 0 } = (await site.service(primary)).app;
  await site.signalServer(primary, "SIGKILL");
  await until(async () => {
    const { app, recovery, connections } = await site.service(primary);
    assert.equal(connections.unprotected, 0, "a connection has become unprotected");
    return (app.restarts ?? 0) > restarts && recovery?.state === "live";
  }, { what: "the server to be started again", timeoutMs: 30_000 });
}

/** The primary's host loses power and comes back. */
async function losePower(site: Site): Promise<void> {
  const primary = await site.waitCovered();
  const before = await cutAt(site, primary);
  assert.equal(before.ended, 0, "a connection was not followed");
  await site.crash(primary);
  const next = site.other(primary);
  await site.waitPrimary(next);
  await site.revive(primary);
  await until(async () => {
    const all = (await site.connections(next)).filter(({ state }) => state === "established");
    return (await site.service(next)).protected && all.every(({ reason }) => reason === null);
  }, { what: "all connections to be known to the host that came back", timeoutMs: 20_000 });
}

/** Daemon and server are killed, and the daemon is started again. */
async function killDaemon(site: Site): Promise<void> {
  await site.killDaemon("a");
  await site.startDaemon("a");
  await site.waitPrimary("a");
}

netTest(
  "one connection asks nginx thousands of times, which is killed again and again",
  [
    "nginx",
    "curl",
  ],
  (context) => askThrough(context, { options: { ...ONE_HOST, service: LOG }, strike: killServer }),
);

netTest("one connection asks thousands of times while host after host loses power (log mode)", [
  "nginx",
  "curl",
], (context) => askThrough(context, { options: { service: LOG }, strike: losePower }));

netTest("one connection asks thousands of times while host after host loses power (hot mode)", [
  "nginx",
  "curl",
], (context) => askThrough(context, { options: { service: HOT }, strike: losePower }));

netTest("one connection asks thousands of times while the daemon is killed again and again", [
  "nginx",
  "curl",
], (context) => {
  const options = { ...ONE_HOST, service: DISK };
  return askThrough(context, { options, strike: killDaemon, mayShrink: true });
});

/** Asks for eight files at once, again and again. */
const PIPELINE = `
init = function(args)
  local asked = {}
  for i = 1, 8 do asked[i] = wrk.format("GET", "/" .. (i % 7)) end
  all = table.concat(asked)
end
request = function() return all end
`;

netTest("wrk asks on 20 connections, 8 requests at a time, while nginx is killed", [
  "nginx",
  "wrk",
], async (context) => {
  const { directory, random } = context;
  await Deno.mkdir(`${directory}/files`);
  const command = await nginx("a", directory, ENDLESS);
  const run = { a: command, b: command };
  await withSite(context, { ...ONE_HOST, service: LOG, run }, async (site) => {
    await site.waitPrimary("a");
    await prepare(context, (path) => site.url(path));
    await Deno.writeTextFile(`${directory}/pipeline.lua`, PIPELINE);
    const capture = await site.startCapture();
    const args = ["-t1", "-c20", `-d${WRK_S}s`, "--timeout", "30s"];
    const script = ["-s", `${directory}/pipeline.lua`, site.url("/")];
    const client = site.startInClient("wrk", [...args, ...script]);
    for (let i = 0; i < 3; i++) {
      await sleep(random.between(500, 1500));
      await killServer(site);
    }
    const { counters } = await site.service("a");
    assert.deepEqual([counters.unprotected, counters.cutsEnded], [0, 0]);
    assert.ok(counters.cutOctets > 1 << 20, `${counters.cutOctets} octets were cut`);
    await client.mustSucceed(60_000);
    assert.doesNotMatch(client.output(), /Socket errors|Non-2xx/);
    await capture.stop();
    const { connections } = traceTcp(capture.path, site.address);
    // One to see whether anybody listens, and no connection but the 20 that it began with.
    assert.equal(connections.length, 21);
    assert.equal(connections.reduce((sum, { serverRsts }) => sum + serverRsts, 0), 0);
  });
});

netTest("a server that speaks HTTP/1.0 under the hint is kept whole", [
  "python3",
  "curl",
], async (context) => {
  const { directory } = context;
  await Deno.mkdir(`${directory}/files`);
  const content = makeContent(`${directory}/files/content`, 32 << 20);
  const command = ["python3", "-m", "http.server", "80", "--directory", `${directory}/files`];
  const run = { a: command, b: command };
  await withSite(context, { ...ONE_HOST, service: LOG, run }, async (site) => {
    await site.waitPrimary("a");
    const args = ["--silent", "--show-error", "--limit-rate", "10M", site.url("/content")];
    const client = site.startInClient("curl", args, { hashOutput: true });
    await sleep(1000);
    const [connection] = await site.connections("a");
    assert.equal(connection.protection, "log");
    assert.match(connection.note ?? "", /not what hint says/);
    await killServer(site);
    await client.mustSucceed(60_000);
    assert.deepEqual(client.outputHash(), { sha256: content.sha256, octets: content.octets });
    const { counters } = await site.service("a");
    assert.deepEqual([counters.cuts, counters.cutsEnded], [0, 1]);
  });
});
