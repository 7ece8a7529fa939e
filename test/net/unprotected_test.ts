/**
 * unprotected_test.ts - connections that nobody could take over work, and are said to be so
 *
 *   client ---- switch ---- host a: daemon
 *                    \----- host b: daemon, absent at first
 *
 * Claims:
 *   no standby      connections work, the service says `protected: false`, each connection is
 *                   listed as unprotected with a reason (P8)
 *   later standby   what was opened before is protected too, as far as rejoin_limit goes; what is opened from then on
 *                   is protected and survives a crash of the primary
 *   server missing  the standby's daemon is there, its server is not: connections work and are listed
 *                   with that reason; one whose handshake the server still gets is hot from then on
 *                   and survives a crash, one that waited too long stays unprotected
 *   TCP MD5         a signed connection cannot be translated: with `unprotectable = "pass"` it works
 *                   and is listed with its reason, with "refuse" its SYN is
 *                   answered by RST (which a signing client may not believe: RFC 2385) and the
 *                   server never sees it
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, until } from "./conditions.ts";
import { mixedServer, withSite } from "./harness.ts";

const SHORT = {
  connections: 9,
  mix: ["download", "upload", "echo"] as const,
  durationMs: 1500,
  momentMs: 500,
};

netTest("without a standby connections work and are listed as unprotected", [], async (context) => {
  await withSite(context, { run: mixedServer(), hosts: ["a"] }, async (site) => {
    await site.waitPrimary("a");
    assert.equal((await site.service("a")).protected, false);
    const workload = await site.startWorkload({ ...SHORT, seed: context.random.seed() });
    await workload.go();
    await until(async () => (await site.connections("a")).length >= SHORT.connections, {
      what: "the connections to be listed",
      timeoutMs: 3000,
    });
    for (const { client, protection, reason } of await site.connections("a")) {
      assert.equal(protection, "unprotected", client);
      assert.ok(reason !== null && reason.length > 0, `${client} has no reason`);
    }
    const { connections } = await site.service("a");
    assert.deepEqual([connections.hot, connections.log], [0, 0]);
    assert.equal(connections.unprotected, connections.total);
    await workload.mustSucceed(30_000);
  });
});

for (const isKept of [true, false]) {
  const what = isKept ? "all connections" : 'with rejoin_limit = "1B", new connections';
  netTest(`a standby that comes later protects ${what}`, [], async (context) => {
    const service = isKept ? {} : { rejoin_limit: "1B" };
    await withSite(context, { run: mixedServer(), hosts: ["a"], service }, async (site) => {
      await site.waitPrimary("a");
      const early = await site.startHeldConnection();
      await until(async () => (await site.connections("a")).length === 1, {
        what: "the early connection to be listed",
        timeoutMs: 5000,
      });
      await early.exchange();
      await site.startDaemon("b");
      await site.waitProtected();
      await early.exchange();
      const late = await site.startHeldConnection();
      const hot = isKept ? 2 : 1;
      const listed = await until(async () => {
        const connections = await site.connections("a");
        const isThere = connections.filter((c) => c.protection === "hot").length === hot;
        return connections.length === 2 && isThere && connections;
      }, { what: "the late connection to be hot", timeoutMs: 5000 });
      const reasons = listed.map(({ reason }) => reason).filter((reason) => reason !== null);
      if (isKept) assert.deepEqual(reasons, []);
      else assert.match(reasons.join(), /^more was said than is kept .* \(rejoin_limit\)$/);
      await site.crash("a");
      await late.exchange();
      await late.close();
      if (isKept) {
        await early.exchange();
        await early.close();
      } else await early.kill();
    });
  });
}

netTest("a standby whose server is missing protects nothing yet", [], async (context) => {
  const go = `${context.directory}/go`;
  const { a, b } = mixedServer();
  const waiting = ["sh", "-c", `until [ -e ${go} ]; do sleep 0.1; done; exec ${b.join(" ")}`];
  await withSite(context, { run: { a, b: waiting } }, async (site) => {
    await site.waitPrimary("a");
    await until(async () => (await site.service("a")).protected, {
      what: "the standby to join",
      timeoutMs: 10_000,
    });
    const listed = async (count: number, reason: RegExp | null) =>
      await until(async () => {
        const connections = await site.connections("a");
        const found = connections.filter((c) =>
          reason === null ? c.protection === "hot" : reason.test(c.reason ?? "")
        );
        return connections.length === count && found.length === 1;
      }, { what: `${count} connections, one with ${reason ?? "protection"}`, timeoutMs: 20_000 });
    const early = await site.startHeldConnection();
    await listed(1, /has not accepted it yet/);
    await early.exchange();
    assert.deepEqual((await site.service("a")).connections.unprotected, 1);
    await listed(1, /refused/);
    const late = await site.startHeldConnection();
    await listed(2, /has not accepted it yet/);
    await late.exchange();
    await Deno.writeTextFile(go, "");
    await listed(2, null);
    assert.deepEqual((await site.service("a")).connections.hot, 1);
    await early.exchange();
    await site.crash("a");
    await late.exchange();
    await late.close();
    await early.kill();
  });
});

for (const policy of ["pass", "refuse"] as const) {
  netTest(`a TCP MD5 connection is listed with its reason (${policy})`, [], async (context) => {
    const md5 = new URL("./md5.ts", import.meta.url).pathname;
    await withSite(context, {
      run: (site) => {
        const command = [Deno.execPath(), "run", "-A", md5, "serve"];
        const serve = [...command, site.address, "80", site.clientAddress];
        return { a: serve, b: serve };
      },
      service: { unprotectable: policy },
    }, async (site) => {
      await site.waitProtected();
      const capture = await site.startCapture();
      const args = ["run", "-A", md5, "connect", site.address, "80"];
      const client = site.startInClient(Deno.execPath(), args, { input: true });
      if (policy === "refuse") {
        await until(async () => (await site.service("a")).counters.refused > 0, {
          what: "the signed SYN to be refused",
          timeoutMs: 5000,
        });
        assert.equal(await capture.stop(), 0);
        const [connection] = traceTcp(capture.path, site.address).connections;
        assert.ok(connection.serverRsts > 0, "no RST for the signed SYN");
        assert.equal(connection.serverSynAcks, 0);
        assert.doesNotMatch(client.output(), /connected/);
        return;
      }
      await client.waitForOutput("md5 connected", 10_000);
      const [connection] = await until(async () => {
        const connections = await site.connections("a");
        return connections.length === 1 && connections;
      }, { what: "the signed connection to be listed", timeoutMs: 5000 });
      assert.equal(connection.protection, "unprotected");
      assert.match(connection.reason ?? "", /md5/i);
      await client.write("signed\n");
      await client.waitForOutput("md5 answer signed", 10_000);
      await client.closeInput();
      await client.mustSucceed(10_000);
    });
  });
}
