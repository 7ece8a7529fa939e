/**
 * app_test.ts - real processes in a network namespace of their own
 *
 * Skipped without root or without iproute2. The namespace has a name of its own per run and is
 * removed at the end; every process is waited for.
 */
import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";
import { type AppExit, type AppOptions, AppRunner, OUTPUT_LINES_PER_S } from "../../runtime/app.ts";
import { createLogger } from "../../runtime/log.ts";
import { netTest, until } from "../net/conditions.ts";
import { runProcess, startProcess } from "../net/process.ts";

const USER = "nobody";

/** A namespace, and runners of servers in it that are stopped at the end. */
async function withRunner(
  options: Pick<AppOptions, "command"> & Partial<AppOptions>,
  body: (runner: AppRunner, events: Record<string, unknown>[]) => Promise<void>,
): Promise<void> {
  await withNamespace(async (netns) => {
    const events: Record<string, unknown>[] = [];
    const log = createLogger({ format: "json", write: (line) => events.push(JSON.parse(line)) });
    const runner = new AppRunner({ service: "web", netns, user: null, log, ...options });
    try {
      await body(runner, events);
    } finally {
      await runner.stop();
    }
  });
}

async function withNamespace(body: (name: string) => Promise<void>): Promise<void> {
  const name = `hft-${Deno.pid}-${crypto.randomUUID().slice(0, 8)}`;
  await runProcess("ip", ["netns", "add", name]);
  try {
    await body(name);
  } finally {
    await runProcess("ip", ["netns", "delete", name]);
  }
}

function linesOf(events: Record<string, unknown>[]): string[] {
  return events.filter((event) => event.event === "server output").map((event) => `${event.line}`);
}

/** Whether a process runs; one that nobody has waited for yet does not. */
function runs(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

netTest(
  "AppRunner leaves a server that is root what it needs to become another user",
  [],
  async () => {
    const script =
      "grep -E '^Cap(Prm|Eff|Bnd|Inh)' /proc/self/status; echo ready >&2; exec sleep 600";
    await withRunner({ command: ["sh", "-c", script] }, async (runner, events) => {
      runner.start();
      await until(() => linesOf(events).includes("ready"), { what: "its output", timeoutMs: 5000 });
      const masks = linesOf(events).slice(0, 4).map((line) => line.split(/\s+/)[1]);
      // Bits of capabilities(7): 0 chown, 1 dac_override, 3 fowner, 5 to 7 kill, setgid, setuid,
      // 10 net_bind_service, 18 sys_chroot.
      const kept = [0, 1, 3, 5, 6, 7, 10, 18].reduce((mask, bit) => mask + 2 ** bit, 0);
      const text = kept.toString(16).padStart(16, "0");
      deepStrictEqual(masks, ["0".repeat(16), text, text, text]);
      await runner.stop();
    });
  },
);

netTest(
  "AppRunner runs the server in its namespace as its user, without capabilities",
  [],
  async () => {
    const script = "echo $$ $(id -u) $USER $(readlink /proc/self/ns/net); " +
      "grep -E '^Cap(Prm|Eff|Bnd|Inh)' /proc/self/status; " +
      "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo ready >&2; exec sleep 600";
    await withRunner({ command: ["sh", "-c", script], user: USER }, async (runner, events) => {
      deepStrictEqual(runner.status(), {
        state: "stopped",
        pid: null,
        restarts: 0,
        lastExit: null,
      });
      runner.start();
      await until(() => linesOf(events).includes("ready"), { what: "its output", timeoutMs: 5000 });
      const { state, pid } = runner.status();
      strictEqual(state, "running");
      const lines = linesOf(events);
      const uid = (await runProcess("id", ["-u", USER])).trim();
      match(lines[0], new RegExp(`^${pid} ${uid} ${USER} net:`));
      ok(!lines[0].endsWith(Deno.readLinkSync("/proc/self/ns/net")));
      deepStrictEqual(
        lines.slice(1, 5).map((line) => line.split(/\s+/)[1]),
        Array(4).fill("0".repeat(16)),
      );
      strictEqual(lines[5], "0");
      await runner.stop();
      strictEqual(runs(pid!), false);
      deepStrictEqual(runner.status().state, "stopped");
    });
  },
);

netTest("AppRunner starts a server that ends again, each time later", [], async () => {
  const exits: AppExit[] = [];
  const options = { command: ["sh", "-c", "exit 3"], onExit: (exit: AppExit) => exits.push(exit) };
  await withRunner(options, async (runner, events) => {
    runner.start();
    // The exit is told before it is logged: clients of the dead server wait.
    const pauses = () =>
      events.filter(({ event }) => event === "server ended").map(({ restartMs }) => restartMs);
    await until(() => pauses().length >= 3, { what: "three exits", timeoutMs: 30_000 });
    ok(exits.every(({ how }) => how === "status 3"));
    deepStrictEqual(pauses().slice(0, 3), [200, 400, 800]);
    ok(runner.status().restarts! >= 2);
    strictEqual(runner.status().lastExit, "status 3");
    await runner.stop();
    strictEqual(runner.status().state, "stopped");
  });
});

netTest("AppRunner kills what a dead server has left in its group", [], async () => {
  const command = ["sh", "-c", "sleep 600 & echo $!; kill -SEGV $$"];
  await withRunner({ command }, async (runner, events) => {
    runner.start();
    await until(() => runner.status().lastExit, { what: "its end", timeoutMs: 5000 });
    strictEqual(runner.status().lastExit, "SIGSEGV");
    const child = Number(linesOf(events)[0]);
    await until(() => !runs(child), { what: `the end of ${child}`, timeoutMs: 2000 });
  });
});

netTest("AppRunner.stop() kills a server that ignores SIGTERM", [], async () => {
  const command = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"];
  await withRunner({ command, stopGraceMs: 200 }, async (runner, events) => {
    runner.start();
    await until(() => linesOf(events).includes("ready"), { what: "its output", timeoutMs: 5000 });
    const pid = runner.status().pid!;
    await runner.stop();
    strictEqual(runs(pid), false);
    ok(events.some(({ event }) => event === "server killed, it took too long to end"));
  });
});

netTest("AppRunner says why a server cannot be started and tries again", [], async () => {
  await withRunner({ command: ["sleep", "1"], user: "no-such-user" }, async (runner) => {
    runner.start();
    await until(() => runner.status().restarts === 1, { what: "a restart", timeoutMs: 5000 });
    match(runner.status().lastExit!, /^Cannot run a server as user "no-such-user"/);
  });
  await withRunner({ command: ["/no/such/program"] }, async (runner, events) => {
    runner.start();
    await until(() => runner.status().lastExit, { what: "its end", timeoutMs: 5000 });
    strictEqual(runner.status().lastExit, "status 127");
    ok(linesOf(events).some((line) => line.includes("/no/such/program")));
  });
});

netTest("AppRunner leaves out what a talkative server says too fast", [], async ({ directory }) => {
  const said = `${directory}/said`;
  const command = ["sh", "-c", `seq 1 5000; : > "${said}"; exec sleep 600`];
  await withRunner({ command }, async (runner, events) => {
    runner.start();
    const isSaid = () => Deno.stat(said).then(() => true, () => false);
    await until(isSaid, { what: "all its output", timeoutMs: 10_000 });
    await runner.stop();
    const leftOut = events.filter(({ event }) => event === "server output left out")
      .reduce((sum, { lines }) => sum + Number(lines), 0);
    strictEqual(linesOf(events).length + leftOut, 5000);
    ok(linesOf(events).length <= 3 * OUTPUT_LINES_PER_S);
  });
});

netTest(
  "AppRunner: neither the server nor its children outlive a daemon that is killed",
  [],
  async () => {
    await withNamespace(async (netns) => {
      const script = "sleep 600 & echo pids $$ $!; wait";
      const program = `
      import { AppRunner } from "${new URL("../../runtime/app.ts", import.meta.url)}";
      import { createLogger } from "${new URL("../../runtime/log.ts", import.meta.url)}";
      new AppRunner({
        service: "web",
        netns: "${netns}",
        command: ["sh", "-c", ${JSON.stringify(script)}],
        user: "${USER}",
        log: createLogger(),
      }).start();
      await new Promise((resolve) => setTimeout(resolve, 60_000));
    `;
      const daemon = startProcess(Deno.execPath(), ["eval", "--ext=ts", program]);
      try {
        const [, ...pids] = (await until(
          () => /pids (\d+) (\d+)/.exec(daemon.output()),
          { what: "the server's output", timeoutMs: 10_000 },
        )).map(Number);
        ok(pids.every(runs));
        await daemon.kill();
        await until(() => !pids.some(runs), { what: `the end of ${pids}`, timeoutMs: 2000 });
      } finally {
        await daemon.kill();
      }
    });
  },
);
