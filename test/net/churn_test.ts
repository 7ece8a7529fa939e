/**
 * churn_test.ts - many short connections leave nothing behind
 *
 *   client: connections of one request ---- switch ---- a, b
 *
 * Claim: 100,000 short connections (a tenth of them in the usual run) leave the resident memory and
 * the number of descriptors of both daemons where they were after a warm-up, and the records of
 * closed connections go everywhere: neither daemon lists or counts any soon after the last one.
 */

import assert from "node:assert/strict";
import { netTest, repetitions, until } from "./conditions.ts";
import { type HostName, mixedServer, type Site, withSite } from "./harness.ts";

const CONNECTIONS = 100_000;
const WARM_UP = 2000;
/** What garbage collection may leave between two looks, octets. */
const MEMORY_SLACK = 24 << 20;
/** Descriptors that may differ for reasons of their own: a status request that is under way. */
const DESCRIPTOR_SLACK = 4;
/** Longest time from the last close to the last record: LINGER_MS of the core and some more. */
const FORGET_TIMEOUT_MS = 20_000;
const TIMEOUT_PER_CONNECTION_MS = 20;

/** What one daemon uses. */
interface Usage {
  memory: number;
  descriptors: number;
}

netTest("short connections leave no memory, descriptor or record behind", [], async (context) => {
  await withSite(context, { run: mixedServer() }, async (site) => {
    site.setClientSysctl("net.ipv4.tcp_tw_reuse", 1); // as many connections as ports and more
    await site.waitProtected();
    await churn(site, WARM_UP);
    const before = { a: await usageOf(site, "a"), b: await usageOf(site, "b") };
    const count = repetitions(CONNECTIONS);
    await churn(site, count);
    for (const host of ["a", "b"] as const) {
      const after = await usageOf(site, host);
      const grown = after.memory - before[host].memory;
      assert.ok(grown < MEMORY_SLACK, `${host} grew by ${grown} octets in ${count} connections`);
      const opened = after.descriptors - before[host].descriptors;
      assert.ok(Math.abs(opened) <= DESCRIPTOR_SLACK, `${host} has ${opened} descriptors more`);
    }
  });
});

/** Makes short connections and waits until no record of them is left. */
async function churn(site: Site, count: number): Promise<void> {
  const churner = new URL("./churner.ts", import.meta.url).pathname;
  const args = ["run", "-A", churner, site.address, "80", String(count)];
  const client = site.startInClient(Deno.execPath(), args);
  await client.mustSucceed(30_000 + count * TIMEOUT_PER_CONNECTION_MS);
  for (const host of ["a", "b"] as const) {
    await until(async () => (await site.service(host)).connections.total === 0, {
      what: `${host} to forget the closed connections`,
      timeoutMs: FORGET_TIMEOUT_MS,
    });
    assert.deepEqual(await site.connections(host), []);
  }
}

async function usageOf(site: Site, host: HostName): Promise<Usage> {
  const pid = site.daemonPid(host);
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  const memory = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
  const descriptors = [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
  return { memory, descriptors };
}
