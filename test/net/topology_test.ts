/**
 * topology_test.ts - the lab's network does what a test may rely on, and leaves nothing behind
 *
 * Claims: machines reach each other in both IP versions from the first packet on; a crash ends what is on
 * one host and nothing else; links go and come; two topologies do not meet; when a run ends, be it by
 * destroy(), SIGINT, an error or SIGKILL, its namespaces, processes and files go.
 */

import assert from "node:assert/strict";
import { namespaceNames } from "../../runtime/lab/namespaces.ts";
import { type Node, Topology } from "../../runtime/lab/topology.ts";
import { netTest, until } from "./conditions.ts";

const TIMEOUT_MS = 10_000;

for (const ipv6 of [false, true]) {
  const version = ipv6 ? "IPv6" : "IPv4";

  netTest(`Topology.create() joins all machines over ${version} at once`, [], async () => {
    const topology = await Topology.create({ ipv6, clients: 2, links: 2 });
    try {
      const { a, b } = topology.hosts;
      await mustReach(topology.client, a.address);
      await mustReach(topology.clients[1], b.address);
      await mustReach(topology.clients[1], topology.client.address);
      await mustReach(a, ipv6 ? "fd78::2" : "10.78.0.2");
      await mustReach(b, ipv6 ? "fd78:0:0:1::1" : "10.78.1.1");
      assert.equal(await reaches(topology.client, topology.serviceAddress), false);
      const { stdout } = await topology.switch.exec(["ip", "-o", "address"]);
      assert.equal(stdout, "", "the switch has an address");
    } finally {
      await topology.destroy();
    }
  });

  netTest(`Topology.setLink() cuts and restores one link over ${version}`, [], async () => {
    const topology = await Topology.create({ ipv6, links: 2 });
    try {
      const { a } = topology.hosts;
      const [peer0, peer1] = ipv6 ? ["fd78::2", "fd78:0:0:1::2"] : ["10.78.0.2", "10.78.1.2"];
      await topology.setLink("a", "client", false);
      assert.equal(await reaches(topology.client, a.address), false);
      await mustReach(a, peer0);
      await topology.setLink("a", "client", true);
      await mustReachAgain(topology.client, a.address);
      await topology.setLink("a", "repl1", false);
      assert.equal(await reaches(a, peer1), false);
      await mustReach(a, peer0);
      await topology.setLink("a", "repl1", true);
      await mustReachAgain(a, peer1);
    } finally {
      await topology.destroy();
    }
  });

  netTest(`Topology.crashHost() ends one host and nothing else over ${version}`, [], async () => {
    const topology = await Topology.create({ ipv6 });
    const other = await Topology.create({ ipv6 });
    try {
      const { a, b } = topology.hosts;
      const victims = [a.spawn(["sleep", "1000"]), a.spawn(["sh", "-c", "sleep 1000; exit"])];
      const inApp = a.spawn(["ip", "netns", "exec", topology.appNamespace("a"), "sleep", "1000"]);
      const survivors = [
        b.spawn(["sleep", "1000"]),
        topology.client.spawn(["sleep", "1000"]),
        other.hosts.a.spawn(["sleep", "1000"]),
      ];
      await until(() => readCommand(inApp.pid) === "sleep", {
        what: "the process in the service's namespace",
        timeoutMs: TIMEOUT_MS,
      });
      const before = Date.now();
      const { atMs } = await topology.crashHost("a");
      assert(atMs >= before - 1 && atMs <= Date.now() + 1, `${atMs} is not now`);
      for (const victim of [...victims, inApp]) {
        assert.equal((await victim.status).signal, "SIGKILL");
      }
      for (const survivor of survivors) assert.equal(readCommand(survivor.pid), "sleep");
      assert.equal(await reaches(topology.client, a.address), false);
      assert.equal(await reaches(b, ipv6 ? "fd78::1" : "10.78.0.1"), false);
      await mustReach(other.client, other.hosts.a.address);
      await topology.restoreHost("a");
      await mustReachAgain(topology.client, a.address);
      await mustReachAgain(b, ipv6 ? "fd78::1" : "10.78.0.1");
    } finally {
      await topology.destroy();
      await other.destroy();
    }
  });
}

netTest("Topology.create() gives interfaces the MTU asked for", [], async () => {
  const topology = await Topology.create({ mtu: 9000, clientMtu: 1280 });
  try {
    assert.equal(await mtuOf(topology.client, "eth0"), 1280);
    assert.equal(await mtuOf(topology.hosts.a, "eth0"), 9000);
    assert.equal(await mtuOf(topology.hosts.b, "repl0"), 9000);
  } finally {
    await topology.destroy();
  }
});

Deno.test("Topology.create() refuses what it cannot make", async () => {
  await assert.rejects(Topology.create({ clients: 0 }), {
    name: "RangeError",
    message: "Cannot use 0 as number of clients: allowed is a whole number from 1 to 80",
  });
  await assert.rejects(Topology.create({ mtu: 500 }), RangeError);
  await assert.rejects(Topology.create({ hosts: ["a", "switch"] }), RangeError);
  await assert.rejects(Topology.create({ hosts: ["a", "b", "c", "d", "e"] }), RangeError);
});

netTest("Topology.destroy() leaves no namespace, process or file", [], async () => {
  const topology = await Topology.create();
  const child = topology.client.spawn(["sh", "-c", "sleep 1000 & sleep 1000"]);
  await topology.writeConfig("a");
  await topology.destroy();
  assert.equal((await child.status).signal, "SIGKILL");
  await mustBeGone(topology.id, topology.directory);
  await topology.destroy();
});

const ENDINGS = [
  { how: "SIGINT", end: "await new Promise((resolve) => setTimeout(resolve, 60_000))", code: 130 },
  { how: "an error", end: "throw new Error('as planned')", code: 1 },
  { how: "Deno.exit()", end: "Deno.exit(7)", code: 7 },
  { how: "its end", end: "", code: 0 },
];
for (const { how, end, code } of ENDINGS) {
  netTest(`Topology leaves nothing when its process ends by ${how}`, [], async ({ directory }) => {
    const { child, id, place } = await startOwner(directory, end);
    if (how === "SIGINT") child.kill("SIGINT");
    assert.equal((await child.status).code, code);
    await mustBeGone(id, place);
  });
}

netTest("Topology.sweep() removes what a killed run has left", [], async ({ directory }) => {
  const { child, id, place } = await startOwner(directory, ENDINGS[0].end);
  Topology.sweep();
  assert(namespacesOf(id).length > 0, "a run that lives was swept");
  child.kill("SIGKILL");
  await child.status;
  assert(namespacesOf(id).length > 0);
  assert.deepEqual(Topology.sweep(), [id]);
  await mustBeGone(id, place);
});

netTest("Topology.keep() outlives the process and every sweep", [], async ({ directory }) => {
  const { child, id, place } = await startOwner(
    directory,
    "await topology.keep(); console.log(topology.removalCommand());",
  );
  const output = await child.status;
  assert.equal(output.code, 0);
  assert.deepEqual(Topology.sweep(), []);
  assert(namespacesOf(id).length > 0);
  const command = (await Deno.readTextFile(`${directory}/output`)).split("\n")[1];
  const removed = await new Deno.Command("sh", { args: ["-c", command] }).output();
  assert.equal(removed.code, 0, new TextDecoder().decode(removed.stderr));
  await mustBeGone(id, place);
});

/** Starts a process that makes a topology with a process in it, and then does `end`. */
async function startOwner(directory: string, end: string) {
  const script = `${directory}/owner.ts`;
  const module = new URL("../../runtime/lab/topology.ts", import.meta.url);
  await Deno.writeTextFile(
    script,
    `import { Topology } from ${JSON.stringify(module)};
     const topology = await Topology.create();
     topology.client.spawn(["sleep", "1000"]).unref();
     console.log(topology.id + " " + topology.directory);
     ${end}`,
  );
  const child = new Deno.Command("sh", {
    args: [
      "-c",
      'exec "$0" run -A --config "$1" "$2" > "$3"',
      Deno.execPath(),
      new URL("../../deno.json", import.meta.url).pathname,
      script,
      `${directory}/output`,
    ],
    stderr: "null",
  }).spawn();
  const line = await until(
    async () => /^(\S+) (\S+)\n/.exec(await Deno.readTextFile(`${directory}/output`)),
    { what: "the other process's topology", timeoutMs: TIMEOUT_MS },
  );
  return { child, id: line[1], place: line[2] };
}

async function mustBeGone(id: string, directory: string): Promise<void> {
  assert.deepEqual(namespacesOf(id), []);
  await assert.rejects(Deno.stat(directory), Deno.errors.NotFound);
}

function namespacesOf(id: string): string[] {
  return namespaceNames().filter((name) => name.startsWith(`${id}-`));
}

async function reaches(node: Node, address: string): Promise<boolean> {
  const { code } = await node.exec(["ping", "-c", "1", "-W", "1", address]);
  return code === 0;
}

async function mustReach(node: Node, address: string): Promise<void> {
  assert(await reaches(node, address), `${node.name} does not reach ${address}`);
}

/**
 * As mustReach(), after a link was down: a kernel may take a second to notice that it is up
 * (linkwatch), and another one to ask again for a neighbour it asked for in vain (RETRANS_TIMER).
 */
async function mustReachAgain(node: Node, address: string): Promise<void> {
  await until(() => reaches(node, address), {
    what: `${node.name} to reach ${address}`,
    timeoutMs: TIMEOUT_MS,
  });
}

async function mtuOf(node: Node, name: string): Promise<number> {
  const { stdout } = await node.exec(["ip", "-j", "link", "show", name]);
  return JSON.parse(stdout)[0].mtu;
}

/** Name of a process; empty when it is gone. */
function readCommand(pid: number): string {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/comm`).trim();
  } catch {
    return "";
  }
}
