/**
 * lab.ts - `holdfast lab`: the demo's network kept up, with a menu of faults
 *
 * Theory of operation
 * Two hosts serve a file, an upload and an echo server under one address. Commands are read line by
 * line from standard input, be it a terminal or a pipe, and carried out one after the other; one that
 * fails says why and the lab goes on. The end of the input, "quit" or Ctrl-C removes everything.
 *
 * {@linkcode COMMANDS} is the list of commands: their words, their help and what they do.
 */

import { renderConnections, renderStatus, renderSwitch } from "../status.ts";
import { Cluster, FIRST_PORT } from "./cluster.ts";
import { holdfastCommand } from "./daemon_process.ts";
import { whyNoNamespaces } from "./namespaces.ts";
import { PORT_OFFSETS } from "./servers.ts";
import { type LinkName, Topology } from "./topology.ts";

const LINKS: readonly LinkName[] = ["client", "repl0", "repl1", "wit0"];

/** What a command works on. */
interface Lab {
  topology: Topology;
  cluster: Cluster;
}

interface Command {
  /** Its words after the name. */
  words: readonly (readonly string[])[];
  help: string;
  /** Returns what is to be said. */
  run(lab: Lab, words: string[]): Promise<string>;
}

const HOSTS = ["a", "b"] as const;

/** Every command but "help" and "quit", by name. */
const COMMANDS: Record<string, Command> = {
  status: {
    words: [],
    help: "what each daemon says",
    run: async ({ cluster }) => {
      const running = cluster.hosts.filter((host) => cluster.isRunning(host));
      const texts = await Promise.all(
        running.map(async (host) => renderStatus(await cluster.daemon(host).status())),
      );
      return texts.join("\n") || "no daemon is running";
    },
  },
  connections: {
    words: [],
    help: "what the primary knows about each connection",
    run: async ({ cluster }) => {
      const primary = await mustHavePrimary(cluster);
      return renderConnections(await cluster.daemon(primary).control.connections());
    },
  },
  switch: {
    words: [],
    help: "move the service with all its connections to the standby",
    run: async ({ cluster }) => {
      const primary = await mustHavePrimary(cluster);
      return renderSwitch(await cluster.daemon(primary).control.switchService("web"));
    },
  },
  crash: {
    words: [HOSTS],
    help: "take a host's links down and kill every process on it",
    run: async ({ topology, cluster }, [host]) => {
      await topology.crashHost(host);
      await cluster.daemon(host).kill9();
      return `host ${host} has crashed; "start ${host}" brings it back`;
    },
  },
  kill: {
    words: [HOSTS],
    help: "kill a host's daemon alone (SIGKILL)",
    run: async ({ cluster }, [host]) => {
      await cluster.daemon(host).kill9();
      return `the daemon of host ${host} is dead; "start ${host}" starts another`;
    },
  },
  stop: {
    words: [HOSTS],
    help: "end a host's daemon in order (SIGTERM): it hands over first",
    run: async ({ cluster }, [host]) => {
      const { code } = await cluster.daemon(host).stop();
      return `the daemon of host ${host} ended with status ${code}`;
    },
  },
  start: {
    words: [HOSTS],
    help: "bring a host's links up and start its daemon",
    run: async ({ topology, cluster }, [host]) => {
      if (cluster.isRunning(host)) throw new Error(`The daemon of host ${host} is running`);
      await topology.restoreHost(host);
      await cluster.start(host);
      return `the daemon of host ${host} runs`;
    },
  },
  link: {
    words: [HOSTS, LINKS, ["up", "down"]],
    help: "pull or plug a cable of a host",
    run: async ({ topology }, [host, link, state]) => {
      await topology.setLink(host, link as LinkName, state === "up");
      return `link ${link} of host ${host} is ${state}`;
    },
  },
  log: {
    words: [HOSTS],
    help: "the end of a host's log",
    run: ({ cluster }, [host]) => Promise.resolve(cluster.daemon(host).log.slice(-4000)),
  },
};

/**
 * Runs the lab until the end of standard input, "quit" or a signal.
 *
 * @returns Exit status: 0, 1 when it could not be set up, 2 when it cannot run here.
 */
export async function lab(options: { ipv6: boolean }): Promise<number> {
  const why = whyNoNamespaces();
  if (why !== null) {
    console.error(`Cannot run the lab: ${why}`);
    return 2;
  }
  const topology = await Topology.create({ ipv6: options.ipv6, links: 2, witness: true });
  try {
    const cluster = new Cluster(topology);
    await cluster.startAll();
    console.log(introduction(topology));
    await obey({ topology, cluster });
    return 0;
  } catch (error) {
    console.error(`The lab failed: ${(error as Error).message}`);
    return 1;
  } finally {
    await topology.destroy();
  }
}

async function obey(lab: Lab): Promise<void> {
  prompt();
  for await (const line of lines(Deno.stdin.readable)) {
    const [name = "", ...words] = line.trim().split(/\s+/);
    if (name === "quit" || name === "exit") return;
    if (name !== "") console.log((await perform(lab, name, words)).trimEnd());
    prompt();
  }
}

async function perform(lab: Lab, name: string, words: string[]): Promise<string> {
  if (name === "help") return helpText();
  if (!Object.hasOwn(COMMANDS, name)) return `There is no command "${name}"\n${helpText()}`;
  const command = COMMANDS[name];
  const isRight = words.length === command.words.length &&
    words.every((word, index) => command.words[index].includes(word));
  if (!isRight) return `Cannot do "${[name, ...words].join(" ")}": allowed is ${usage(name)}`;
  try {
    return await command.run(lab, words);
  } catch (error) {
    return `${(error as Error).message}`;
  }
}

function usage(name: string): string {
  return [name, ...COMMANDS[name].words.map((words) => words.join("|"))].join(" ");
}

function helpText(): string {
  const rows = Object.keys(COMMANDS).map((name) => [usage(name), COMMANDS[name].help]);
  rows.push(["quit", "remove everything"]);
  return rows.map(([words, help]) => `  ${words.padEnd(36)} ${help}`).join("\n");
}

function introduction(topology: Topology): string {
  const { client, serviceAddress, hosts } = topology;
  const { file, upload, echo } = PORT_OFFSETS;
  const place = serviceAddress.includes(":") ? `[${serviceAddress}]` : serviceAddress;
  const inClient = `ip netns exec ${client.netns}`;
  const machines = [client, topology.switch, ...Object.values(hosts)];
  return [
    `Service "web" at ${serviceAddress}: files on port ${FIRST_PORT + file}, uploads on ` +
    `${FIRST_PORT + upload}, echo on ${FIRST_PORT + echo}`,
    "",
    "To enter a machine:",
    ...machines.map(({ name, netns }) => `  ${name.padEnd(8)} ip netns exec ${netns} bash`),
    ...Object.keys(hosts).map((host) =>
      `  web on ${host} ip netns exec ${topology.appNamespace(host)} bash`
    ),
    "",
    "To try from the client, in another terminal:",
    `  ${inClient} curl http://${place}/4GiB/1 | sha256sum`,
    `  ${inClient} curl -T FILE http://${place}:${FIRST_PORT + upload}/`,
    `  ${inClient} nc ${serviceAddress} ${FIRST_PORT + echo}`,
    "To ask a daemon:",
    ...Object.keys(hosts).map((host) =>
      `  ${holdfastCommand(["status", "--control", topology.controlPath(host)]).join(" ")}`
    ),
    "",
    "Commands:",
    helpText(),
  ].join("\n");
}

async function mustHavePrimary(cluster: Cluster): Promise<string> {
  const primary = await cluster.primary();
  if (primary === null) throw new Error("No host is primary now");
  return primary;
}

/** A person is asked for the next command; a pipe is not. */
function prompt(): void {
  if (Deno.stdin.isTerminal()) Deno.stdout.writeSync(new TextEncoder().encode("lab> "));
}

async function* lines(input: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
  let rest = "";
  for await (const piece of input.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + piece).split("\n");
    rest = parts.pop()!;
    yield* parts;
  }
  if (rest !== "") yield rest;
}
