/**
 * harness.ts - a topology with daemons, a server behind them and a client: where network tests happen
 *
 * Theory of operation
 * `withSite()` makes a Topology, writes a configuration for each host, starts the daemons, runs the
 * test's body and removes everything. When the body fails, what the daemons say about themselves and
 * the ends of their logs are printed before they are gone; HOLDFAST_KEEP=1 keeps the captures too.
 *
 *   client0 ---- switch ---- host a: daemon, server in its namespace
 *                     \----- host b: daemon, server in its namespace
 *
 * The server is started by the daemon (`run` in its configuration). Ready means three things, all of
 * them waited for by `waitProtected()`: the servers of all living hosts listen, one host is primary,
 * and it says `protected`.
 *
 * Every wait has a deadline; times of faults are wall clock, to be compared with captures.
 */

import { inNamespace } from "../../runtime/io/netns.ts";
import { writeSysctl } from "../../runtime/io/sysctl.ts";
import { holdfastCommand } from "../../runtime/lab/daemon_process.ts";
import {
  type ConfigOverrides,
  type DaemonProcess,
  Topology,
  type TopologyOptions,
} from "../../runtime/lab/topology.ts";
import type {
  ConnectionInfo,
  PeerStatus,
  RestartResult,
  ServiceStatus,
} from "../../runtime/status.ts";
import { Capture } from "./capture.ts";
import { type NetTestContext, until } from "./conditions.ts";
import type { ForgedSegment } from "./inject.ts";
import { type ProcessOptions, runProcess, startProcess, type TestProcess } from "./process.ts";
import { type HopOptions, type SplicedHop, spliceHop } from "./splice.ts";
import type { Kind, WorkloadResult } from "./workload.ts";

/**
 * Heartbeats of 10 ms that may be missed. Two cores run two hosts, two servers and the client here, so
 * a daemon may well not be scheduled for 30 ms, and until arbitration exists a false alarm means two
 * primaries (seen at 100 ms with other work on the machine); these tests are about what is lost, not how soon.
 */
const DETECT = 25;
/** Until daemons and servers are ready, and until a survivor speaks. */
const READY_TIMEOUT_MS = 20_000;
/** Characters of a daemon's log that a failure prints. */
const LOG_LENGTH_MAX = 6000;
/** Lines of it that the error itself quotes, and characters of each. */
const WORDS_LINES_MAX = 15;
const WORDS_LENGTH_MAX = 180;
/** Connections of a daemon that a failure prints. */
const CONNECTIONS_PRINTED_MAX = 10;
/** Failed connections that a workload's failure quotes. */
const FAILURES_QUOTED_MAX = 8;
/** How long an exchange over a held connection may take: the client's own retransmissions included. */
const EXCHANGE_TIMEOUT_MS = 30_000;
/** How `/proc/net/tcp` shows a socket's state; proc_net(5). */
const LISTENING = "0A";
const ESTABLISHED = "01";

/** The hosts of a site: two, or with `third` three. */
export type HostName = "a" | "b" | "c";

/** The servers' commands; without one of its own the third host has the first one's. */
export type Commands = Record<"a" | "b", string[]> & { c?: string[] };

/** What a site is like. */
export interface SiteOptions {
  /** Address family of every network; default 4. */
  family?: 4 | 6;
  /**
   * The command of each host's server, or a function of what addresses the site has. Without it the
   * daemons start none: the test does, with {@linkcode Site.startServer}.
   */
  run?: Commands | ((addresses: { address: string; clientAddress: string }) => Commands);
  /** There is a third host, c. */
  third?: boolean;
  /** Hosts know of no peer: each is alone. */
  alone?: boolean;
  /** Hosts whose daemon is started at once; default all. */
  hosts?: HostName[];
  /** MTU of hosts and switch; default 1500. */
  mtu?: number;
  /** MTU of the clients' interface of single hosts, at most `mtu`; default `mtu`. */
  hostMtu?: Partial<Record<HostName, number>>;
  /** MTU of the client; default `mtu`. */
  clientMtu?: number;
  /** Further keys of the service in the configuration. */
  service?: Record<string, unknown>;
  /** The same of single hosts. */
  hostService?: Partial<Record<HostName, Record<string, unknown>>>;
  /** Further keys of the cluster in the configuration. */
  cluster?: ConfigOverrides["cluster"];
  /** A witness on a machine of its own is the arbiter; default none. */
  witness?: boolean;
  /** Replication links between the hosts; default 1. */
  links?: 1 | 2;
  /** Plain text between the hosts. */
  insecure?: boolean;
}

/** What the mixed client is to do; see workload.ts. */
export interface WorkloadOptions {
  /** Seed of its random choices. */
  seed: number;
  /** Number of connections. */
  connections: number;
  /** Kinds that take turns; default all of the usual mix. */
  mix?: readonly Kind[];
  /** When transfers end, milliseconds after the start. */
  durationMs?: number;
  /** When the fault strikes, milliseconds after the start. */
  momentMs?: number;
  /** Silence of silent connections, milliseconds. */
  silentMs?: number;
  /** How long after the fault a stalled reader still reads nothing, milliseconds; default 2500. */
  stallMs?: number;
  /** Octets per second of the fastest paced transfer. */
  rate?: number;
  /** Octets of a bulk transfer. */
  bulkOctets?: number;
}

/**
 * Runs a test at a site of its own.
 *
 * @param context The test's context.
 * @param options What the site is like.
 * @param body The test.
 */
export async function withSite(
  context: NetTestContext,
  options: SiteOptions,
  body: (site: Site) => Promise<void>,
): Promise<void> {
  const all: HostName[] = options.third === true ? ["a", "b", "c"] : ["a", "b"];
  const { family = 4, mtu, clientMtu, hosts = all } = options;
  const { witness, links, insecure } = options;
  const topologyOptions: TopologyOptions = {
    hosts: all,
    ipv6: family === 6,
    mtu,
    clientMtu,
    witness,
    links,
    insecure,
  };
  const topology = await Topology.create(topologyOptions);
  const site = new Site(topology, context.directory, options);
  try {
    await site.setHostMtu();
    if (witness === true && options.cluster?.arbiter === undefined) await site.startWitness();
    for (const host of hosts) await site.startDaemon(host);
    await body(site);
  } catch (error) {
    await site.printState();
    // A report of failures keeps errors, not what was printed.
    throw new Error(`${error}\n${await site.lastWords()}`, { cause: error });
  } finally {
    await site.removeHop();
    await topology.destroy();
  }
}

/** The commands of the mixed server on both hosts. */
export function mixedServer(): Commands {
  const command = [Deno.execPath(), "run", "-A", scriptPath("./mixed_server.ts"), "--port", "80"];
  return { a: command, b: command };
}

/** A running site. */
export class Site {
  /** The namespaces. */
  readonly topology: Topology;
  /** The service address. */
  readonly address: string;
  /** The client's address. */
  readonly clientAddress: string;
  readonly #directory: string;
  readonly #options: SiteOptions;
  readonly #daemons = new Map<HostName, DaemonProcess>();
  readonly #servers = new Map<HostName, TestProcess>();
  #hop?: SplicedHop;
  #witness?: Deno.ChildProcess;

  /** Use {@linkcode withSite}. */
  constructor(topology: Topology, directory: string, options: SiteOptions) {
    this.topology = topology;
    this.address = topology.serviceAddress;
    this.clientAddress = topology.client.address;
    this.#directory = directory;
    this.#options = options;
  }

  /** The other one of the first two hosts. */
  other(host: HostName): HostName {
    return host === "a" ? "b" : "a";
  }

  /** URL of a path at the service. */
  url(path: string): string {
    return `http://${this.address.includes(":") ? `[${this.address}]` : this.address}${path}`;
  }

  // Daemons ---------------------------------------------------------------------------------------

  /** Starts a host's daemon, with further variables, and waits until it answers. */
  async startDaemon(host: HostName, env: Record<string, string> = {}): Promise<void> {
    const { alone, run, service, hostService, cluster } = this.#options;
    const commands = typeof run === "function" ? run(this) : run;
    const configPath = await this.topology.writeConfig(host, {
      cluster: { detect: DETECT, ...cluster },
      peers: alone === true ? [] : undefined,
      service: {
        ...(commands === undefined ? {} : { run: commands[host] ?? commands.a }),
        ...service,
        ...hostService?.[host],
      },
    });
    this.#daemons.set(host, await this.topology.startDaemon(host, configPath, { env }));
  }

  /** Gives hosts the MTU they are to have, before their daemons look at it. */
  async setHostMtu(): Promise<void> {
    for (const [host, mtu] of Object.entries(this.#options.hostMtu ?? {})) {
      const { netns } = this.topology.hosts[host];
      await runProcess("ip", ["-n", netns, "link", "set", "eth0", "mtu", String(mtu)]);
    }
  }

  /** Starts a server in a host's namespace that no daemon ends. */
  async startServer(host: HostName, [program, ...args]: string[]): Promise<void> {
    const namespace = this.topology.appNamespace(host);
    const server = startProcess(program, args, { namespace });
    this.#servers.set(host, server);
    await this.#waitListening(host, server);
  }

  /**
   * Sends a signal to a host's server, whoever started it; one that the daemon started leads a process group,
   * which may be meant as a whole.
   *
   * @returns Wall clock of the fault, milliseconds since 1970.
   */
  async signalServer(
    host: HostName,
    signal: Deno.Signal,
    { wholeGroup = false } = {},
  ): Promise<number> {
    const server = this.#servers.get(host);
    if (server !== undefined) server.signal(signal);
    else {
      const { pid } = (await this.service(host)).app;
      if (pid === null) {
        throw new Error(`Cannot send ${signal}: the server of ${host} does not run`);
      }
      Deno.kill(wholeGroup ? -pid : pid, signal);
    }
    return Date.now();
  }

  /** Starts the witness, with what it knew before. */
  async startWitness(): Promise<void> {
    this.#witness = await this.topology.startWitness();
  }

  /** Ends the witness by SIGKILL. */
  async killWitness(): Promise<void> {
    this.#witness?.kill("SIGKILL");
    await this.#witness?.status;
    this.#witness = undefined;
  }

  /** Process id of a host's daemon. */
  daemonPid(host: HostName): number {
    return this.#daemon(host).pid;
  }

  /** What a host's daemon says about the service. */
  async service(host: HostName): Promise<ServiceStatus> {
    return (await this.#daemon(host).status()).services[0];
  }

  /** What a host's daemon says about its peer. */
  async peer(host: HostName): Promise<PeerStatus> {
    return (await this.#daemon(host).status()).peers[0];
  }

  /** What a host's daemon has logged. */
  log(host: HostName): string {
    return this.#daemon(host).log;
  }

  /** What a host's daemon says about the connections. */
  async connections(host: HostName): Promise<ConnectionInfo[]> {
    return await this.#daemon(host).control.connections();
  }

  /** The living host that is primary in the highest epoch; waits until there is one. */
  async primary(): Promise<HostName> {
    return await until(async () => {
      let found: { host: HostName; epoch: number } | undefined;
      for (const host of this.#livingHosts()) {
        const { role, epoch } = await this.service(host);
        if (role === "primary" && epoch >= (found?.epoch ?? 0)) found = { host, epoch };
      }
      return found?.host;
    }, { what: "a primary", timeoutMs: READY_TIMEOUT_MS });
  }

  /** Waits until a host is primary and its server listens, with or without a standby. */
  async waitPrimary(host: HostName): Promise<void> {
    await until(async () => (await this.service(host)).role === "primary", {
      what: `${host} to be primary`,
      timeoutMs: READY_TIMEOUT_MS,
    });
    await this.#waitListening(host);
  }

  /** Waits until a standby could take over and every living host's server listens. */
  async waitProtected(): Promise<void> {
    for (const host of this.#livingHosts()) await this.#waitListening(host);
    await until(async () => (await this.service(await this.primary())).protected, {
      what: "the service to be protected",
      timeoutMs: READY_TIMEOUT_MS,
    });
  }

  /** The same where only the primary needs to have a server (log mode); returns the primary. */
  async waitCovered(): Promise<HostName> {
    await this.waitPrimary(await this.primary());
    return await until(async () => {
      const primary = await this.primary();
      return (await this.service(primary)).protected ? primary : undefined;
    }, { what: "the service to be protected", timeoutMs: READY_TIMEOUT_MS });
  }

  /** Moves the service away from a host with `holdfast switch`. */
  async switchService(from: HostName): Promise<void> {
    const [program, ...args] = holdfastCommand(
      ["switch", "web", "--control", this.topology.controlPath(from)],
    );
    await runProcess(program, args, { timeoutMs: 15_000 });
  }

  /** Moves the service away from a host through its control socket, without a program of its own. */
  async requestSwitch(from: HostName): Promise<void> {
    await this.#daemon(from).control.switchService("web");
  }

  /** Restarts a host's server with `holdfast restart`. */
  async restartService(host: HostName): Promise<RestartResult> {
    const [program, ...args] = holdfastCommand(
      ["restart", "web", "--control", this.topology.controlPath(host), "--json"],
    );
    return JSON.parse(await runProcess(program, args, { timeoutMs: 45_000 }));
  }

  /**
   * Ends a host's daemon by SIGTERM.
   *
   * @returns Its exit status.
   */
  async terminateDaemon(host: HostName): Promise<number> {
    const { code } = await this.#daemon(host).stop();
    this.#daemons.delete(host);
    return code;
  }

  /** How many sockets on port 80 a host's servers have in a state; established when not given. */
  async countSockets(host: HostName, state = ESTABLISHED): Promise<number> {
    const tables = await runProcess("cat", ["/proc/net/tcp", "/proc/net/tcp6"], {
      namespace: this.topology.appNamespace(host),
    });
    const rows = tables.split("\n").map((row) => row.trim().split(/\s+/));
    return rows.filter(([, local, , its]) => its === state && local.endsWith(":0050")).length;
  }

  // Faults ----------------------------------------------------------------------------------------

  /**
   * Takes the power from a host.
   *
   * @returns Wall clock of the fault, milliseconds since 1970.
   */
  async crash(host: HostName): Promise<number> {
    const { atMs } = await this.topology.crashHost(host);
    this.#daemons.delete(host);
    return atMs;
  }

  /** Gives a crashed host its power back and starts its daemon. */
  async revive(host: HostName): Promise<void> {
    await this.topology.restoreHost(host);
    await this.startDaemon(host);
  }

  /**
   * Ends a host's daemon alone by SIGKILL.
   *
   * @returns Wall clock of the fault, milliseconds since 1970.
   */
  async killDaemon(host: HostName): Promise<number> {
    const daemon = this.#daemon(host);
    const atMs = Date.now();
    await daemon.kill9();
    this.#daemons.delete(host);
    return atMs;
  }

  /**
   * Ends the daemon of a host by SIGTERM.
   *
   * @returns Wall clock of the signal, milliseconds since 1970.
   */
  async stopDaemon(host: HostName): Promise<number> {
    const daemon = this.#daemon(host);
    const atMs = Date.now();
    await daemon.stop();
    this.#daemons.delete(host);
    return atMs;
  }

  // Client ----------------------------------------------------------------------------------------

  /** Puts a bad link between the client and the switch. */
  async spliceHop(options: HopOptions): Promise<SplicedHop> {
    this.#hop = await spliceHop(this.topology, options);
    return this.#hop;
  }

  /** Takes the hop away, if there is one. */
  async removeHop(): Promise<void> {
    await this.#hop?.remove();
    this.#hop = undefined;
  }

  /** Starts a program at the client. */
  startInClient(program: string, args: string[], options: ProcessOptions = {}): TestProcess {
    return startProcess(program, args, { ...options, namespace: this.topology.client.netns });
  }

  /** Starts a capture at the client's interface: TCP, ARP and neighbor discovery. */
  async startCapture(): Promise<Capture> {
    return await Capture.start({
      namespace: this.topology.client.netns,
      interfaceName: "eth0",
      directory: this.#directory,
      filter: "tcp or arp or icmp6",
    });
  }

  /** Waits until the client's kernel knows of no connection any more, but for those in TIME-WAIT. */
  async waitClientsGone(): Promise<void> {
    const connected = "ss -Htan state connected exclude time-wait".split(" ");
    const args = ["netns", "exec", this.topology.client.netns, ...connected];
    await until(async () => {
      return (await runProcess("ip", args)).trim() === "";
    }, { what: "the last ACKs of clients that have ended", timeoutMs: 30_000 });
  }

  /** Starts the mixed client; it waits for {@linkcode Workload.go}. */
  async startWorkload(options: WorkloadOptions): Promise<Workload> {
    const flags: Record<string, number | string | undefined> = {
      address: this.address,
      seed: options.seed,
      connections: options.connections,
      mix: options.mix?.join(","),
      "duration-ms": options.durationMs,
      "moment-ms": options.momentMs,
      "silent-ms": options.silentMs,
      "stall-ms": options.stallMs,
      rate: options.rate,
      "bulk-octets": options.bulkOctets,
    };
    const args = Object.entries(flags)
      .flatMap(([name, value]) => value === undefined ? [] : [`--${name}`, String(value)]);
    const process = this.#startScript("./workload.ts", args);
    await process.waitForOutput("workload ready", 15_000);
    return new Workload(process);
  }

  /** Opens a connection that stays open until it is told otherwise. */
  async startHeldConnection(): Promise<HeldConnection> {
    const process = this.#startScript("./holder.ts", [this.address, "80", "30000"]);
    await process.waitForOutput("holder connected", READY_TIMEOUT_MS);
    return new HeldConnection(process);
  }

  /**
   * Tries to open a connection.
   *
   * @param timeoutMs How long to try.
   * @returns Exit status 0 when it was made, and what the attempt printed.
   */
  async dialFromClient(timeoutMs: number): Promise<{ code: number; output: string }> {
    const process = this.#startScript("./holder.ts", [this.address, "80", String(timeoutMs)]);
    await process.closeInput();
    const { code } = await process.waitForExit(timeoutMs + 10_000);
    return { code, output: process.output() };
  }

  /** Puts forged segments on the client's wire, in order. */
  async injectFromClient(segments: ForgedSegment[]): Promise<void> {
    const process = this.#startScript("./inject.ts", [JSON.stringify(segments)]);
    await process.mustSucceed(10_000);
  }

  /** Makes the client ask anew who has an address. */
  async forgetClientNeighbors(): Promise<void> {
    await runProcess("ip", ["-n", this.topology.client.netns, "neighbor", "flush", "all"]);
  }

  /** Sets a kernel parameter of the client's network namespace, named as in sysctl(8). */
  setClientSysctl(name: string, value: number): void {
    inNamespace(
      this.topology.client.netns,
      () => writeSysctl(name.replaceAll(".", "/"), String(value)),
    );
  }

  /** Link-layer address of a host on the clients' network. */
  async hostMac(host: HostName): Promise<string> {
    const { netns } = this.topology.hosts[host];
    const text = await runProcess("ip", ["-n", netns, "-json", "link", "show", "dev", "eth0"]);
    return JSON.parse(text)[0].address;
  }

  /** Prints what a person needs to understand a failure. */
  async printState(): Promise<void> {
    for (const [host, daemon] of this.#daemons) {
      console.log(`---- host ${host}: ${daemon.hasEnded ? "daemon ended" : "daemon runs"}`);
      try {
        console.log(JSON.stringify(await daemon.status()));
        const connections = await this.connections(host);
        for (const connection of connections.slice(0, CONNECTIONS_PRINTED_MAX)) {
          console.log(JSON.stringify(connection));
        }
      } catch (error) {
        console.log(`no status: ${error}`);
      }
    }
    for (const host of Object.keys(this.topology.hosts)) {
      console.log(`---- log of host ${host}`);
      console.log(await readEnd(this.topology.logPath(host)));
    }
  }

  /** The end of each host's log, short enough for the message of an error. */
  async lastWords(): Promise<string> {
    const ends: string[] = [];
    for (const host of Object.keys(this.topology.hosts)) {
      const lines = (await readEnd(this.topology.logPath(host))).trimEnd().split("\n");
      ends.push(`The log of host ${host} ends`);
      for (const line of lines.slice(-WORDS_LINES_MAX)) ends.push(line.slice(0, WORDS_LENGTH_MAX));
    }
    return ends.join("\n");
  }

  #daemon(host: HostName): DaemonProcess {
    const daemon = this.#daemons.get(host);
    if (daemon === undefined) throw new Error(`Cannot ask host ${host}: its daemon does not run`);
    return daemon;
  }

  #livingHosts(): HostName[] {
    return [...this.#daemons.keys()];
  }

  #startScript(script: string, args: string[]): TestProcess {
    const words = ["run", "-A", scriptPath(script), ...args];
    return this.startInClient(Deno.execPath(), words, { input: true });
  }

  async #waitListening(host: HostName, server?: TestProcess): Promise<void> {
    await until(async () => server?.hasEnded || await this.countSockets(host, LISTENING) > 0, {
      what: `the server of ${host} to listen`,
      timeoutMs: READY_TIMEOUT_MS,
    });
    if (server?.hasEnded) throw new Error(`The server of ${host} ended: ${server.output()}`);
  }
}

/** A mixed client that was started. */
export class Workload {
  readonly #process: TestProcess;

  /** Use {@linkcode Site.startWorkload}. */
  constructor(process: TestProcess) {
    this.#process = process;
  }

  /** Lets it begin: this is its time 0. */
  async go(): Promise<void> {
    await this.#process.write("go\n");
    await this.#process.closeInput();
  }

  /**
   * Waits for its end and insists that every connection did all it should.
   *
   * @param timeoutMs How long.
   * @returns How the connections fared.
   * @throws {Error} Quoting the connections that failed.
   */
  async mustSucceed(timeoutMs: number): Promise<WorkloadResult> {
    await this.#process.waitForExit(timeoutMs);
    const last = this.#process.output().trim().split("\n").at(-1) ?? "";
    if (!last.startsWith("{")) {
      throw new Error(`The mixed client gave no result: ${this.#process.output().slice(-4000)}`);
    }
    const result = JSON.parse(last) as WorkloadResult;
    const { failures, connections } = result;
    if (failures.length === 0) return result;
    throw new Error(
      `${failures.length} of ${connections.length} connections failed:\n` +
        failures.slice(0, FAILURES_QUOTED_MAX).join("\n"),
    );
  }
}

/** A connection held open by a program at the client. */
export class HeldConnection {
  readonly #process: TestProcess;
  #exchanges = 0;

  /** Use {@linkcode Site.startHeldConnection}. */
  constructor(process: TestProcess) {
    this.#process = process;
  }

  /** Whether the program has ended, as it does when the connection breaks. */
  get hasEnded(): boolean {
    return this.#process.hasEnded;
  }

  /** Sends and receives some octets, each of them verified. */
  async exchange(): Promise<void> {
    this.#exchanges++;
    await this.#process.write("exchange\n");
    await this.#process.waitForOutput(`exchanged ${this.#exchanges}\n`, EXCHANGE_TIMEOUT_MS);
  }

  /** Begins an exchange that may never come to an end. */
  async tryExchange(): Promise<void> {
    await this.#process.write("exchange\n");
  }

  /** Ends the connection in good order. */
  async close(): Promise<void> {
    await this.#process.closeInput();
    await this.#process.mustSucceed(EXCHANGE_TIMEOUT_MS);
  }

  /** Ends the program and with it the connection. */
  async kill(): Promise<void> {
    await this.#process.kill();
  }
}

function scriptPath(script: string): string {
  return new URL(script, import.meta.url).pathname;
}

async function readEnd(path: string): Promise<string> {
  try {
    return (await Deno.readTextFile(path)).slice(-LOG_LENGTH_MAX);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "(none)";
    throw error;
  }
}
