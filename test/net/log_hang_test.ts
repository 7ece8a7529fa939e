/**
 * log_hang_test.ts - log mode: the only server stands still, while its process, kernel and daemon live on
 *
 *   client ---- switch ---- host a: daemon, server (SIGSTOP); no peer
 *
 * Claims, with connections that download, upload, echo, are idle, and just begin:
 *   a spawned server is stopped at a random moment   after `lag_time` it is ended, started again and played
 *                                                    what was said: every octet right, no RST, one SYN
 *   one that others have started                     reported, and left alone
 *   one with a single thread that rests for five times `lag_time`, while others wait for it, idle clients,
 *   and one that is stopped for less                 nobody is judged
 */

import assert from "node:assert/strict";
import { traceTcp } from "./capture.ts";
import { netTest, repetitions, sleep, until } from "./conditions.ts";
import { mixedServer, type Site, type SiteOptions, withSite } from "./harness.ts";
import { FAST, MEMORY } from "./through_fault.ts";
import { assertUnbroken } from "./verdict.ts";

const LAG_MS = 500;
const WORKLOAD = { ...FAST, connections: 54 };
const ONE_HOST: SiteOptions = {
  alone: true,
  hosts: ["a"],
  service: { mode: "log", lag_time: `${LAG_MS}ms`, memory: MEMORY },
};

/** One request at a time; each takes five times lag_time. More wait to be accepted than it lets. */
const SLOW_SERVER = `
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(${5 * LAG_MS / 1000})
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"done\\n")
class Server(http.server.HTTPServer):
    request_queue_size = 1
Server(("0.0.0.0", 80), Handler).serve_forever()
`;
const SLOW_REQUESTS = 3;

/** Judgements of servers that hang. */
async function hangs(site: Site): Promise<Record<string, unknown>[]> {
  return (await site.service("a")).judgements
    .filter(({ judgement }) => judgement === "app-hangs")
    .map(({ evidence }) => evidence);
}

netTest("clients do not notice a server that is stopped for good", [], async (context) => {
  const { random } = context;
  await withSite(context, { ...ONE_HOST, run: mixedServer() }, async (site) => {
    await site.waitPrimary("a");
    const rounds = repetitions(50, 0.02);
    for (let round = 0; round < rounds; round++) {
      const capture = await site.startCapture();
      const momentMs = Math.round(random.between(100, 4500));
      const workload = await site.startWorkload({ ...WORKLOAD, momentMs, seed: random.seed() });
      console.log(`round ${round + 1} of ${rounds}: SIGSTOP after ${momentMs} ms`);
      await workload.go();
      await sleep(momentMs);
      const faultMs = await site.signalServer("a", "SIGSTOP");
      await workload.mustSucceed(60_000);
      const dropped = await capture.stop();
      assertUnbroken(traceTcp(capture.path, site.address), { faultMs, dropped });
      await Deno.remove(capture.path);
      const judged = await until(async () => {
        const found = await hangs(site);
        return found.length > round ? found : undefined;
      }, { what: "the server to be judged", timeoutMs: 10_000 });
      const { act, seen } = judged[round];
      assert.equal(act, "replay");
      const [, stoodMs] = /^processes \d+ were stopped for (\d+) ms$/.exec(String(seen)) ?? [];
      assert.ok(Number(stoodMs) >= LAG_MS, String(seen));
      await site.waitPrimary("a");
      const { app, recovery, warnings } = await until(async () => {
        const service = await site.service("a");
        return service.recovery?.state === "live" ? service : undefined;
      }, { what: "connections to be live", timeoutMs: 10_000 });
      assert.deepEqual([app.lastExit, app.restarts], ["SIGKILL", round + 1]);
      assert.equal(recovery?.reason, "app-hangs");
      assert.deepEqual(warnings, []);
      assert.match(site.log("a"), /app-hangs/);
    }
  });
});

netTest("a stopped server that others have started is reported", [], async (context) => {
  await withSite(context, ONE_HOST, async (site) => {
    await site.startServer("a", mixedServer().a);
    await site.waitPrimary("a");
    const held = await site.startHeldConnection();
    await held.exchange();
    await site.signalServer("a", "SIGSTOP");
    const warned = async (warnings: string[]) =>
      await until(
        async () => `${(await site.service("a")).warnings}` === `${warnings}` || undefined,
        { what: `warnings to be [${warnings}]`, timeoutMs: 10_000 },
      );
    await warned(["its server hangs"]);
    assert.deepEqual((await hangs(site)).map(({ act }) => act), ["none"]);
    await site.signalServer("a", "SIGCONT");
    await held.exchange();
    await held.close();
    await warned([]);
  });
});

netTest("a server that is slow, idle or stopped for a moment is not judged", [
  "python3",
  "curl",
], async (context) => {
  const command = ["python3", "-c", SLOW_SERVER];
  await withSite(context, { ...ONE_HOST, run: { a: command, b: command } }, async (site) => {
    await site.waitPrimary("a");
    const before = (await site.service("a")).app.pid;
    const args = ["--silent", "--show-error", "--max-time", "60", site.url("/")];
    const clients = Array.from(
      { length: SLOW_REQUESTS },
      () => site.startInClient("curl", args, { hashOutput: true }),
    );
    await sleep(LAG_MS);
    await site.signalServer("a", "SIGSTOP");
    await sleep(LAG_MS / 3);
    await site.signalServer("a", "SIGCONT");
    for (const client of clients) {
      await client.mustSucceed(60_000);
      assert.equal(client.outputHash().octets, "done\n".length);
    }
    const { app, warnings } = await site.service("a");
    assert.deepEqual([app.pid, app.restarts, warnings], [before, 0, []]);
    assert.deepEqual(await hangs(site), []);
  });
});
