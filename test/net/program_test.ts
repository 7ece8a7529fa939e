/**
 * program_test.ts - one host, no standby: the program from `up` to SIGTERM
 *
 *   namespace hft-...:  hft-in 10.77.0.1/24 ---- hft-out          service address 10.77.0.100
 *
 * Claim: `check` finds nothing to mend; `up` tells the service manager when it serves, answers
 * `status`, `connections` and `switch` on its control socket, and refuses to run twice; after SIGTERM it
 * exits with 0 and leaves no socket, namespace, process or route behind.
 */
import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";
import { check, closeAll, libc, Memory } from "../../runtime/io/libc.ts";
import { MSG_DONTWAIT } from "../../runtime/io/socket.ts";
import { netTest, until } from "./conditions.ts";
import { runProcess, startProcess, type TestProcess } from "./process.ts";

const MAIN = new URL("../../runtime/main.ts", import.meta.url).pathname;
const TIMEOUT_MS = 20_000;
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const memory = new Memory(256);

/** One host: a namespace with an interface, and a configuration for it. */
interface Host {
  netns: string;
  appNetns: string;
  directory: string;
  configPath: string;
  controlPath: string;
}

async function withHost(directory: string, body: (host: Host) => Promise<void>): Promise<void> {
  const id = crypto.randomUUID().slice(0, 8);
  const host: Host = {
    netns: `hft-${id}`,
    appNetns: `hft-${id}-app`,
    directory,
    configPath: `${directory}/a.toml`,
    controlPath: `${directory}/a.sock`,
  };
  await Deno.writeTextFile(
    host.configPath,
    `[node]
name = "a"
state_dir = "state"
control = "a.sock"
[[service]]
name = "web"
address = "10.77.0.100"
ports = [80]
interface = "hft-in"
run = ["sleep", "600"]
user = "nobody"
netns = "${host.appNetns}"
uplink = false
memory = "64MiB"
max_connections = 1000
`,
  );
  await runProcess("ip", ["netns", "add", host.netns]);
  try {
    const ip = (...args: string[]) => runProcess("ip", ["-n", host.netns, ...args]);
    await ip("link", "set", "lo", "up");
    await ip("link", "add", "hft-in", "type", "veth", "peer", "name", "hft-out");
    await ip("address", "add", "10.77.0.1/24", "dev", "hft-in");
    for (const name of ["hft-in", "hft-out"]) await ip("link", "set", name, "up");
    await body(host);
  } finally {
    await runProcess("ip", ["netns", "delete", host.netns]);
  }
}

function holdfast(host: Host, args: string[], env: Record<string, string> = {}): TestProcess {
  const words = ["run", "-A", MAIN, ...args];
  return startProcess(Deno.execPath(), words, { namespace: host.netns, env });
}

/** Runs a command to its end and gives its exit status and what it printed. */
async function run(host: Host, ...args: string[]): Promise<[code: number, output: string]> {
  const process = holdfast(host, args);
  const { code } = await process.waitForExit(TIMEOUT_MS);
  return [code, process.output()];
}

/** A socket as a service manager has one. */
function listenAsManager(path: string): number {
  const name = new TextEncoder().encode(path);
  memory.bytes.fill(0);
  memory.view.setUint16(0, AF_UNIX, true);
  memory.bytes.set(name, 2);
  const fd = check(libc.socket(AF_UNIX, SOCK_DGRAM, 0), "socket", "make a manager's socket");
  check(libc.bind(fd, memory.address, 2 + name.length), "bind", "bind a manager's socket");
  return fd;
}

/** Effective capabilities of each of a process's threads. */
function threadMasks(pid: number): bigint[] {
  return [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name }) => {
    const status = Deno.readTextFileSync(`/proc/${pid}/task/${name}/status`);
    return BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)![1]}`);
  });
}

/** What the manager was told next; empty when nothing. */
function nextState(fd: number): string {
  const length = libc.recv(fd, memory.address, 256, MSG_DONTWAIT);
  return new TextDecoder().decode(memory.bytes.subarray(0, Math.max(0, length)));
}

/** CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_SYS_NICE; capabilities(7). */
const DATA_PLANE_MASK = 1n << 1n | 1n << 12n | 1n << 23n;

netTest(
  "holdfast runs one node from up to SIGTERM and leaves nothing behind",
  [],
  async (context) => {
    await withHost(context.directory, async (host) => {
      const { configPath, controlPath } = host;
      const [checked, report] = await run(host, "check", "-c", configPath);
      strictEqual(checked, 0, report);
      match(report, /, 0 to mend\n$/);

      const manager = listenAsManager(`${host.directory}/notify`);
      const env = { NOTIFY_SOCKET: `${host.directory}/notify` };
      const node = holdfast(host, ["up", "-c", configPath, "--log-format", "json"], env);
      try {
        const ready = await until(() => nextState(manager) || null, {
          what: "READY",
          timeoutMs: TIMEOUT_MS,
        });
        strictEqual(ready, "READY=1");
        const status = await until(async () => {
          const [code, text] = await run(host, "status", "-c", configPath, "--json");
          strictEqual(code, 0, text);
          const status = JSON.parse(text);
          return status.services[0].app.state === "running" && status;
        }, { what: "the server to run", timeoutMs: TIMEOUT_MS });
        const [service] = status.services;
        deepStrictEqual([status.node, service.name, service.role], ["a", "web", "primary"]);
        deepStrictEqual([service.protected, service.epoch >= 1, status.peers], [false, true, []]);
        deepStrictEqual(service.connections, { total: 0, hot: 0, log: 0, unprotected: 0 });

        const loops = threadMasks(node.pid).filter((mask) => mask === DATA_PLANE_MASK);
        strictEqual(loops.length, 1, "one thread is the data plane, and keeps what it needs");

        const [code, list] = await run(host, "connections", "--control", controlPath, "--json");
        deepStrictEqual([code, JSON.parse(list)], [0, []]);
        const [switched, why] = await run(host, "switch", "web", "--control", controlPath);
        strictEqual(switched, 1);
        match(why, /^holdfast: /);
        const [second, refusal] = await run(host, "up", "-c", configPath);
        strictEqual(second, 1);
        match(refusal, /a daemon is listening there; stop it first/);

        node.signal("SIGTERM");
        deepStrictEqual(await node.waitForExit(TIMEOUT_MS), { code: 0, signal: null });
        strictEqual(nextState(manager), "STOPPING=1");
        await until(() => !isRunning(service.app.pid), {
          what: "the server's end",
          timeoutMs: 1000,
        });
        ok(node.output().split("\n").every((line) => line === "" || JSON.parse(line).event));
        for (const path of [controlPath, `/run/netns/${host.appNetns}`]) ok(!exists(path), path);
        strictEqual(await runProcess("ip", ["-n", host.netns, "route", "show", "10.77.0.100"]), "");
      } finally {
        await node.kill();
        closeAll(manager);
      }
    });
  },
);

netTest(
  "holdfast up that cannot run says why, exits with 1 and leaves nothing behind",
  [],
  async (context) => {
    await withHost(context.directory, async (host) => {
      const text = await Deno.readTextFile(host.configPath);
      await Deno.writeTextFile(host.configPath, text.replace('"hft-in"', '"hft-none"'));
      const [code, output] = await run(host, "up", "-c", host.configPath);
      strictEqual(code, 1);
      match(output, /cannot run why=".*hft-none/);
      for (const path of [host.controlPath, `/run/netns/${host.appNetns}`]) ok(!exists(path), path);
    });
  },
);

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Whether a process runs; one that nobody has waited for yet does not. */
function isRunning(pid: number): boolean {
  return exists(`/proc/${pid}`) &&
    !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
}
