/**
 * cluster.ts - the two hosts of a topology with the lab's server under Holdfast's care
 *
 * Theory of operation
 * Each host runs `holdfast up` with one service, "web", whose server is servers.ts. Servers and client are
 * programs of their own: as scripts under Deno, or, where this is a compiled program, as itself (see main.ts).
 */

import { inNamespace } from "../io/netns.ts";
import type { ServiceStatus } from "../status.ts";
import { type DaemonProcess, holdfastCommand, scriptPath } from "./daemon_process.ts";
import { PORT_OFFSETS, type ServerKind } from "./servers.ts";
import type { Topology } from "./topology.ts";

/** How long it may take until a standby is ready, milliseconds. */
const READY_TIMEOUT_MS = 20_000;
/** Port of the first kind of server. */
export const FIRST_PORT = 80;
const PORTS = Object.values(PORT_OFFSETS).map((offset) => FIRST_PORT + offset);

/** State of a listening socket in `/proc/net/tcp`; proc_net(5). */
const LISTENING = "0A";

/** The daemons of a topology. */
export class Cluster {
  readonly #topology: Topology;
  readonly #daemons = new Map<string, DaemonProcess>();

  /** Nothing is started yet. */
  constructor(topology: Topology) {
    this.#topology = topology;
  }

  /** Names of the hosts. */
  get hosts(): string[] {
    return Object.keys(this.#topology.hosts);
  }

  /** Starts the daemon of one host, and with it all kinds of servers. */
  async start(host: string): Promise<void> {
    const { serviceAddress } = this.#topology;
    const kind: ServerKind = "all";
    const configPath = await this.#topology.writeConfig(host, {
      service: {
        ports: PORTS,
        run: labCommand("server", [kind, "--address", serviceAddress, "--port", `${FIRST_PORT}`]),
      },
    });
    this.#daemons.set(host, await this.#topology.startDaemon(host, configPath));
  }

  /**
   * Starts all daemons, and resolves when the first host is primary, the second could take over, and the
   * servers of both listen.
   */
  async startAll(): Promise<void> {
    if (this.#topology.witness !== null) await this.#topology.startWitness();
    await Promise.all(this.hosts.map((host) => this.start(host)));
    await Promise.all(
      this.hosts.map((host) =>
        this.daemon(host).until(
          ({ services: [service] }) => isReady(service) && this.#isListening(host),
          { what: "a primary and a standby with servers that listen", timeoutMs: READY_TIMEOUT_MS },
        )
      ),
    );
  }

  /** Whether a host's server listens on all its ports; a process that runs may take a while to. */
  #isListening(host: string): boolean {
    const rows = inNamespace(
      this.#topology.appNamespace(host),
      () =>
        ["tcp", "tcp6"].flatMap((table) =>
          Deno.readTextFileSync(`/proc/thread-self/net/${table}`).split("\n")
        ),
    ).map((row) => row.trim().split(/\s+/));
    return PORTS.every((port) => {
      const end = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
      return rows.some(([, local, , state]) => state === LISTENING && local.endsWith(end));
    });
  }

  /**
   * The daemon of a host.
   *
   * @throws {Error} When none was started there.
   */
  daemon(host: string): DaemonProcess {
    const daemon = this.#daemons.get(host);
    if (daemon === undefined) {
      throw new Error(`Cannot ask host ${host}: no daemon was started there`);
    }
    return daemon;
  }

  /** Whether a daemon runs on a host. */
  isRunning(host: string): boolean {
    return this.#daemons.get(host)?.hasEnded === false;
  }

  /** What the daemon of a host says about the service. */
  async service(host: string): Promise<ServiceStatus> {
    return (await this.daemon(host).status()).services[0];
  }

  /** The host whose daemon is primary; null when there is none. */
  async primary(): Promise<string | null> {
    for (const host of this.hosts) {
      if (this.isRunning(host) && (await this.service(host)).role === "primary") return host;
    }
    return null;
  }
}

/** The words that run a server or a client of the lab. */
export function labCommand(program: "server" | "client", args: readonly string[]): string[] {
  if (Deno.build.standalone) return holdfastCommand([`lab-${program}`, ...args]);
  const script = program === "server" ? "./servers.ts" : "./client.ts";
  return [Deno.execPath(), "run", "-A", scriptPath(script), ...args];
}

function isReady(service: ServiceStatus): boolean {
  const { role } = service;
  return service.protected && (role === "primary" || role === "standby") &&
    service.app.state === "running";
}
