/**
 * etcd_test.ts - registers in a real etcd, one member and three, and a fence that is a real command
 *
 * Needs the program etcd (Debian package etcd-server); without it the tests of etcd are skipped. Each
 * test starts its own cluster on ports of the loopback interface that the kernel chooses.
 */
import { deepStrictEqual, ok, rejects, strictEqual } from "node:assert/strict";
import { EtcdArbiter } from "../../runtime/arbiter/etcd.ts";
import { FenceArbiter } from "../../runtime/arbiter/fence.ts";
import type { Claim } from "../../runtime/protocol/register.ts";
import { answerTo } from "./patience.ts";

const START_TIMEOUT_MS = 30_000;

function hasEtcd(): boolean {
  try {
    return new Deno.Command("etcd", { args: ["--version"], stdout: "null", stderr: "null" })
      .outputSync().success;
  } catch {
    return false;
  }
}

const ignore = !hasEtcd();
const canPing = Deno.uid() === 0;

interface Member {
  url: string;
  process: Deno.ChildProcess;
}

/** Runs a test with an etcd cluster of its own. */
async function withEtcd(
  members: number,
  body: (members: Member[]) => Promise<void>,
): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-etcd-" });
  const names = Array.from({ length: members }, (_, i) => `m${i}`);
  const ports = freePorts(2 * members);
  const peers = names.map((name, i) => `${name}=http://127.0.0.1:${ports[2 * i + 1]}`).join();
  const running = names.map((name, i): Member => {
    const url = `http://127.0.0.1:${ports[2 * i]}`;
    const peer = `http://127.0.0.1:${ports[2 * i + 1]}`;
    const args = [
      ...["--name", name, "--data-dir", `${directory}/${name}`, "--logger", "zap"],
      ...["--listen-client-urls", url, "--advertise-client-urls", url],
      ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
      ...["--initial-cluster", peers, "--initial-cluster-state", "new"],
    ];
    const process = new Deno.Command("etcd", { args, stdout: "null", stderr: "null" }).spawn();
    return { url, process };
  });
  try {
    for (const { url } of running) await untilHealthy(url);
    await body(running);
  } finally {
    for (const { process } of running) {
      try {
        process.kill("SIGKILL");
      } catch {
        // The test has ended it.
      }
      await process.status;
    }
    await Deno.remove(directory, { recursive: true });
  }
}

function freePorts(count: number): number[] {
  const listeners = Array.from(
    { length: count },
    () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
  );
  const ports = listeners.map(({ addr }) => (addr as Deno.NetAddr).port);
  for (const listener of listeners) listener.close();
  return ports;
}

async function untilHealthy(url: string): Promise<void> {
  const deadlineMs = performance.now() + START_TIMEOUT_MS;
  for (;;) {
    try {
      const response = await fetch(`${url}/health`);
      if ((await response.json()).health === "true") return;
    } catch {
      // Not listening yet.
    }
    if (performance.now() > deadlineMs) throw new Error(`etcd at ${url} is not healthy in time`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function claim(expect: number, owner = "a", token = "1"): Claim {
  return { expect, voids: [], epoch: expect + 1, owner, token };
}

/** fetch keeps connections, which the sanitizer of resources would count. */
function etcdTest(name: string, members: number, body: (members: Member[]) => Promise<void>): void {
  Deno.test({
    name,
    ignore,
    sanitizeResources: false,
    sanitizeOps: false,
    fn: () => withEtcd(members, body),
  });
}

etcdTest(
  "EtcdArbiter: of many claims for an epoch at once one is granted",
  1,
  async ([{ url }]) => {
    const arbiters = Array.from({ length: 8 }, () => new EtcdArbiter([url], "c"));
    strictEqual(await arbiters[0].read("web"), null);
    for (let epoch = 0; epoch < 10; epoch++) {
      const answers = await Promise.all(
        arbiters.map((arbiter, i) => answerTo(() => arbiter.claim("web", claim(epoch, `n${i}`)))),
      );
      const winners = answers.flatMap(({ granted }, i) => granted ? [`n${i}`] : []);
      strictEqual(winners.length, 1, `epoch ${epoch + 1}`);
      for (const { value } of answers) deepStrictEqual(value?.owner, winners[0]);
    }
    const value = await answerTo(() => arbiters[3].read("web"));
    strictEqual(value.epoch, 10);
    const again = { ...claim(9, value.owner), token: value.token };
    ok(
      (await answerTo(() => arbiters[5].claim("web", again))).granted,
      "the same claim is granted again",
    );
    ok(!(await answerTo(() => arbiters[5].claim("web", { ...again, token: "2" }))).granted);
    const void9 = { ...claim(9, "z"), epoch: 11, voids: [{ token: value.token, epoch: 10 }] };
    ok((await answerTo(() => arbiters[6].claim("web", void9))).granted, "over a void value");
    strictEqual(await arbiters[6].read("db"), null, "services do not touch each other");
    strictEqual(arbiters[6].reachable, true);
    for (const arbiter of arbiters) arbiter.close();
  },
);

etcdTest("EtcdArbiter goes on while a majority lives, and not without", 3, async (members) => {
  const arbiter = new EtcdArbiter(members.map(({ url }) => url), "c");
  ok((await answerTo(() => arbiter.claim("web", claim(0)))).granted);
  members[0].process.kill("SIGKILL");
  await members[0].process.status;
  const epoch = await answerTo(async () => {
    const { granted, value } = await arbiter.claim("web", claim(1));
    return granted ? value!.epoch : null;
  });
  strictEqual(epoch, 2);
  members[1].process.kill("SIGKILL");
  await members[1].process.status;
  await rejects(arbiter.claim("web", claim(2)), /no answer from etcd/);
  strictEqual(arbiter.reachable, false);
  arbiter.close();
});

etcdTest("EtcdArbiter refuses a key that is not Holdfast's", 1, async ([{ url }]) => {
  const arbiter = new EtcdArbiter([`${url}/`], "c");
  await fetch(`${url}/v3/kv/put`, {
    method: "POST",
    body: JSON.stringify({ key: btoa("holdfast/c/web"), value: btoa("mine") }),
  }).then((response) => response.json());
  await rejects(arbiter.claim("web", claim(0)), /not Holdfast's/);
  arbiter.close();
});

Deno.test({
  name: "FenceArbiter grants when the gateway answers and the command ends with status 0",
  ignore: !canPing,
  fn: async () => {
    const shoot = new FenceArbiter(
      ["sh", "-c", 'test "$HOLDFAST_SERVICE/$HOLDFAST_NODE/$HOLDFAST_EPOCH" = web/a/3'],
      "127.0.0.1",
    );
    const { granted, value } = await shoot.claim("web", claim(2));
    deepStrictEqual([granted, value], [true, { epoch: 3, owner: "a", token: "1", follows: 2 }]);
    strictEqual(shoot.reachable, true);
    strictEqual(await shoot.read(), undefined);
    const miss = new FenceArbiter(["sh", "-c", "echo no such outlet >&2; exit 7"], "::1");
    await rejects(miss.claim("web", claim(0)), /status 7: no such outlet/);
    strictEqual(miss.reachable, false);
    const absent = new FenceArbiter(["/nonexistent"], "127.0.0.1");
    await rejects(absent.claim("web", claim(0)));
  },
});
