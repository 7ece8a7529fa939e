/**
 * judgement_app_test.ts - a server that dies alone, while its host, kernel and daemon live on
 *
 *   client ---- switch ---- host a: daemon, server (SIGKILL, SIGSEGV)
 *                    \----- host b: daemon, server
 *
 * Its kernel says FIN or RST for the dead: with unread input RST, without FIN, and RST to new SYNs.
 * Claims, with connections that download, upload, echo, are idle, and just begin:
 *   primary's server   nobody sees an early end: the service moves to the standby, whose server has
 *                      read and written the same; status names what was judged, on which node
 *   standby's server   the clients notice nothing and the primary stays
 *   spawned server     its exit alone moves the service; restarted, it is the new standby
 *   both               refuse: the client is refused as by any closed port, and at once
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, repetitions, sleep, until } from "./conditions.ts";
import { downloadThroughCrashes } from "./download.ts";
import { type HostName, mixedServer, type Site, withSite } from "./harness.ts";
import { nginx } from "./nginx.ts";
import { LASTING_MIX } from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";

const WORKLOAD = {
  connections: 54,
  durationMs: 5000,
  momentMs: 1500,
  silentMs: 4000,
  rate: 4_000_000,
};

/** Starts servers that no daemon watches. */
async function startServers(site: Site): Promise<void> {
  const commands = mixedServer();
  for (const host of ["a", "b"] as const) await site.startServer(host, commands[host]);
}

/** Verdicts a node has made so far, with the node each is about. */
async function verdicts(site: Site, host: HostName): Promise<string[]> {
  return (await site.service(host)).judgements
    .filter(({ evidence }) => typeof evidence.act === "string")
    .map(({ judgement, evidence }) => `${evidence.node} ${judgement}`);
}

for (const family of [4, 6] as const) {
  const name = `SIGKILL of the primary's server, which nobody watches, is survived (IPv${family})`;
  netTest(name, [], async (context) => {
    await withSite(context, { family }, async (site) => {
      await startServers(site);
      await site.waitProtected();
      const capture = await site.startCapture();
      const workload = await site.startWorkload({ ...WORKLOAD, seed: context.random.seed() });
      const primary = await site.primary();
      await workload.go();
      await sleep(WORKLOAD.momentMs);
      const faultMs = await site.signalServer(primary, "SIGKILL");
      await workload.mustSucceed(60_000);
      const dropped = await capture.stop();
      assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
      const survivor = await site.service(site.other(primary));
      assert.equal(survivor.role, "primary");
      const reasons = ["app-died", "app-refuses"];
      assert.ok(reasons.includes(survivor.lastTakeover?.reason ?? ""), JSON.stringify(survivor));
      const judged = (await site.service(primary)).judgements
        .find(({ evidence }) => evidence.act === "hand-over");
      assert.equal(judged?.evidence.node, primary);
      assert.ok(reasons.includes(judged.judgement), judged.judgement);
    });
  });
}

netTest("SIGKILL of the primary's server is survived by idle connections", [], async (context) => {
  await withSite(context, {}, async (site) => {
    await startServers(site);
    await site.waitProtected();
    const capture = await site.startCapture();
    const open = await site.startHeldConnection();
    await open.exchange();
    const primary = await site.primary();
    const faultMs = await site.signalServer(primary, "SIGKILL");
    await until(async () => (await site.service(site.other(primary))).role === "primary", {
      what: "the standby to be primary",
      timeoutMs: 5000,
    });
    const waitedMs = Date.now() - faultMs;
    assert.ok(waitedMs > 1900, `taken over after ${waitedMs} ms, before fin_wait was over`);
    await open.exchange();
    await open.close();
    assert.equal((await site.service(site.other(primary))).lastTakeover?.reason, "app-died");
    const dropped = await capture.stop();
    assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
  });
});

/** Takes as many octets as it is told, answers with their hash and ends the connection. */
const HASHER = `
import hashlib, socketserver
class Hasher(socketserver.StreamRequestHandler):
    def handle(self):
        octets = self.rfile.read(int(self.rfile.readline()))
        self.wfile.write(hashlib.sha256(octets).hexdigest().encode())
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("", 80), Hasher).serve_forever()
`;

/** Keeps its last octet back until it is told to send it. */
const UPLOADER = `
import hashlib, socket, sys
octets = bytes(range(256)) * 16384
with socket.create_connection((sys.argv[1], 80), 30) as client:
    client.sendall(b"%d\\n" % len(octets) + octets[:-1])
    print("all but one", flush=True)
    sys.stdin.readline()
    client.sendall(octets[-1:])
    print("all", flush=True)
    with client.makefile("rb") as answer:
        assert answer.read().decode() == hashlib.sha256(octets).hexdigest(), "another hash"
`;

for (const watched of [true, false]) {
  const whose = `${watched ? "a spawned" : "an unwatched"} server`;
  netTest(
    `SIGKILL of ${whose} that has not read what the standby's has answered already`,
    ["python3"],
    async (context) => {
      const command = ["python3", "-c", HASHER];
      const run = watched ? { run: { a: command, b: command } } : {};
      await withSite(context, run, async (site) => {
        if (!watched) {
          for (const host of ["a", "b"] as const) await site.startServer(host, command);
        }
        await site.waitProtected();
        const capture = await site.startCapture();
        const client = site.startInClient("python3", ["-c", UPLOADER, site.address], {
          input: true,
        });
        await client.waitForOutput("all but one", 20_000);
        const primary = await site.primary();
        await site.signalServer(primary, "SIGSTOP");
        await client.write("\n");
        await client.waitForOutput("all\n", 20_000);
        // Long enough for the standby's server to answer, and too short to be taken for a hang.
        await sleep(100);
        const faultMs = await site.signalServer(primary, "SIGKILL");
        await client.mustSucceed(30_000);
        const dropped = await capture.stop();
        assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
        const survivor = await site.service(site.other(primary));
        assert.equal(survivor.role, "primary");
        const reasons = watched ? ["app-exited", "app-died"] : ["app-died"];
        assert.ok(reasons.includes(survivor.lastTakeover?.reason ?? ""), JSON.stringify(survivor));
      });
    },
  );
}

netTest("SIGKILL of the standby's server is not noticed", [], async (context) => {
  await withSite(context, {}, async (site) => {
    await startServers(site);
    await site.waitProtected();
    const capture = await site.startCapture();
    const workload = await site.startWorkload({ ...WORKLOAD, seed: context.random.seed() });
    const primary = await site.primary();
    const standby = site.other(primary);
    await workload.go();
    await sleep(WORKLOAD.momentMs);
    const faultMs = await site.signalServer(standby, "SIGKILL");
    await workload.mustSucceed(60_000);
    const dropped = await capture.stop();
    assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
    assert.equal(await site.primary(), primary);
    const said = await verdicts(site, primary);
    assert.ok(said.every((verdict) => verdict === `${standby} app-died`), said.join());
    assert.ok(said.length > 0, "the standby's server was judged");
  });
});

netTest(
  "SIGKILL of a spawned standby's server is not noticed, at whatever moment",
  [],
  async (context) => {
    await withSite(context, { run: mixedServer() }, async (site) => {
      await site.waitProtected();
      const primary = await site.primary();
      const standby = site.other(primary);
      const rounds = repetitions(60);
      for (let round = 0; round < rounds; round++) {
        const momentMs = 100 + context.random.integer(1900);
        const [capture, workload] = await Promise.all([
          site.startCapture(),
          site.startWorkload({
            ...WORKLOAD,
            mix: [...LASTING_MIX, "bulk"],
            durationMs: momentMs + 1500,
            momentMs,
            silentMs: momentMs + 500,
            stallMs: 500,
            bulkOctets: 16 << 20,
            seed: context.random.seed(),
          }),
        ]);
        await workload.go();
        await sleep(momentMs);
        const { pid } = (await site.service(standby)).app;
        const faultMs = await site.signalServer(standby, "SIGKILL");
        await workload.mustSucceed(60_000);
        const dropped = await capture.stop();
        const trace = traceTcp(capture.path, site.address);
        trace.connections = trace.connections.filter(({ clientSyns }) => clientSyns > 0);
        assertUnbroken(trace, { connections: WORKLOAD.connections, faultMs, dropped });
        await Deno.remove(capture.path);
        await until(async () => {
          const { state, pid: next } = (await site.service(standby)).app;
          return state === "running" && next !== pid;
        }, { what: "its server to run again", timeoutMs: 5000 });
        await site.waitProtected();
        assert.equal(await site.primary(), primary);
        const said = await verdicts(site, primary);
        assert.ok(said.every((verdict) => verdict === `${standby} app-died`), said.join());
      }
    });
  },
);

for (const signal of ["SIGABRT", "SIGKILL"] as const) {
  netTest(
    `the exit of a spawned server by ${signal} moves the service at once`,
    [],
    async (context) => {
      await withSite(context, { run: mixedServer() }, async (site) => {
        await site.waitProtected();
        const capture = await site.startCapture();
        const workload = await site.startWorkload({
          ...WORKLOAD,
          mix: LASTING_MIX,
          seed: context.random.seed(),
        });
        const primary = await site.primary();
        const survivor = site.other(primary);
        await workload.go();
        await sleep(WORKLOAD.momentMs);
        const faultMs = await site.signalServer(primary, signal);
        await until(async () => (await site.service(survivor)).role === "primary", {
          what: "the standby to be primary",
          timeoutMs: 1500,
        });
        await workload.mustSucceed(60_000);
        const dropped = await capture.stop();
        assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
        const { app } = await site.service(primary);
        assert.deepEqual([app.state, app.restarts, app.lastExit], ["running", 1, signal]);
        const all = await verdicts(site, primary);
        assert.ok(
          all.includes(`${primary} app-exited`) || all.includes(`${primary} app-died`),
          `${all}`,
        );
        // The restarted server is a standby like any other: it survives the next death.
        await site.waitProtected();
        const open = await site.startHeldConnection();
        await open.exchange();
        await site.signalServer(survivor, signal);
        await until(async () => (await site.service(primary)).role === "primary", {
          what: "the first primary to be primary again",
          timeoutMs: 1500,
        });
        await open.exchange();
        await open.close();
      });
    },
  );
}

netTest(
  "curl reads 1 GiB from nginx whose worker dies by SIGSEGV",
  ["nginx", "curl"],
  (context) =>
    downloadThroughCrashes(context, {
      family: 4,
      rounds: 30,
      server: nginx,
      client: (url) => ["curl", "--silent", "--show-error", "--max-time", "120", url],
      fault: async (site, primary) => {
        const { pid } = (await site.service(primary)).app;
        const workers = await Deno.readTextFile(`/proc/${pid}/task/${pid}/children`);
        for (const worker of workers.trim().split(" ")) Deno.kill(Number(worker), "SIGSEGV");
        return Date.now();
      },
      reasons: ["app-died"],
    }),
);

netTest(
  "wget reads 1 GiB from http.server that dies by SIGSEGV",
  ["python3", "wget"],
  (context) =>
    downloadThroughCrashes(context, {
      family: 4,
      rounds: 30,
      server: (_host, directory) =>
        Promise.resolve([
          "python3",
          "-m",
          "http.server",
          "80",
          "--directory",
          `${directory}/files`,
        ]),
      client: (url) => ["wget", "--quiet", "--tries=1", "--timeout=60", "--output-document=-", url],
      fault: (site, primary) => site.signalServer(primary, "SIGSEGV"),
      reasons: ["app-died", "app-exited"],
    }),
);

netTest("a port where no server listens refuses at once", [], async (context) => {
  await withSite(context, { run: mixedServer() }, async (site) => {
    await site.waitProtected();
    const primary = await site.primary();
    const startMs = Date.now();
    const dial = site.startInClient(Deno.execPath(), [
      "eval",
      `await Deno.connect({ hostname: "${site.address}", port: 81 })`,
    ]);
    const { code } = await dial.waitForExit(5000);
    assert.notEqual(code, 0);
    assert.match(dial.output(), /ConnectionRefused/);
    assert.ok(Date.now() - startMs < 1900, "refused before fin_wait was over");
    assert.equal(await site.primary(), primary);
    assert.deepEqual(await verdicts(site, primary), []);
  });
});
