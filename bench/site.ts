/**
 * site.ts - one topology, with one of the paths between client and server that are compared
 *
 * Theory of operation
 *
 *   client0 ---- switch ---- host a ---- service namespace: server.ts at the service address V
 *                     \----- host b ---- service namespace: the same, with a hot standby
 *
 *   plain     host a routes V over a veth pair: what the kernel alone does; nothing of Holdfast runs
 *   haproxy   the same, and HAProxy on host a in TCP mode between the client and V
 *   socat     the same, and socat in its place
 *   qemu      as plain, but the cable to V is two TAPs that QEMU joins with a filter-rewriter between them, which
 *             follows connections to translate their sequence numbers, as its COLO does for a guest; no guest runs
 *   alone     Holdfast on host a, without a peer
 *   hot       Holdfast on both hosts, hot standby, commit = "strict"
 *   hot ack   the same with commit = "ack"
 *   log       Holdfast on host a in log mode, without a peer
 *   disk      the same with the log on disk, where temporary files lie
 *
 * The server is server.ts, or what the suite says, such as nginx for requests per second. A peer that
 * is not installed is skipped by name; on Debian all come with
 *
 *   apt-get install --no-install-recommends haproxy socat qemu-system-x86 wrk nginx-light
 *
 * Namespaces, links, MTU, offloads, server and client are the same for all. A site is made for one round
 * and removed after it, so nothing of another path runs meanwhile; the topology removes itself however
 * this process ends.
 */

import { inNamespace } from "../runtime/io/netns.ts";
import { writeSysctl } from "../runtime/io/sysctl.ts";
import { ControlError } from "../runtime/control.ts";
import type { DaemonProcess } from "../runtime/lab/daemon_process.ts";
import { inodeOf, processesIn } from "../runtime/lab/namespaces.ts";
import { wallClockMs } from "../runtime/lab/recorder.ts";
import { type Node, Topology } from "../runtime/lab/topology.ts";
import type { ConnectionInfo, NodeStatus, ServiceStatus, SwitchResult } from "../runtime/status.ts";
import type { ClientKind, ClientResult } from "../runtime/lab/client.ts";
import { nginx } from "../test/net/nginx.ts";
import { type Measurement, STARTED } from "./client.ts";
import { hasProgram } from "./report.ts";
import { PORTS } from "./wire.ts";

/** The paths that are compared. */
export const PATHS = [
  "plain",
  "haproxy",
  "socat",
  "qemu",
  "alone",
  "hot",
  "hot ack",
  "log",
  "disk",
] as const;
/** One of them. */
export type PathName = typeof PATHS[number];
/** The program that stands in a path, where it is none of ours. */
const PEERS: Partial<Record<PathName, string>> = {
  haproxy: "haproxy",
  socat: "socat",
  qemu: "qemu-system-x86_64",
};
/** Paths without Holdfast. */
const ROUTED: readonly PathName[] = ["plain", "haproxy", "socat", "qemu"];
/** Paths with Holdfast on one host alone. */
const SINGLE: readonly PathName[] = ["alone", "log", "disk"];

/** The program that a path needs and that is not installed; null when nothing is missing. */
export function missingPeer(path: PathName): string | null {
  const program = PEERS[path];
  return program === undefined || hasProgram(program) ? null : program;
}

/** Connections that a path can have at a time, by the descriptors that a process may have here. */
export function connectionsMost(path: PathName): number {
  // proc(5); Deno raises what it may.
  const limits = Deno.readTextFileSync("/proc/self/limits");
  const found = /^Max open files +(\d+)/m.exec(limits);
  if (found === null) throw new Error("Cannot read the limit of open files in /proc/self/limits");
  const most = Number(found[1]) - DESCRIPTORS_BESIDE;
  return path === "haproxy" ? Math.floor(most / HAPROXY_DESCRIPTORS) : most;
}

/** What serves at a site. */
export interface ServerPlan {
  /** Ports that it may serve. */
  ports: readonly number[];
  /** At how many of them it listens from its start on, if not at all. */
  listeners?: number;
  /** Writes what the server of a host needs, and gives the command that runs it in the foreground. */
  command(place: ServerPlace): Promise<string[]> | string[];
}

/** Where a server runs. */
export interface ServerPlace {
  /** Name of the host. */
  host: string;
  /** Directory of the site, the same for all hosts. */
  directory: string;
  /** The service address. */
  address: string;
}

/** server.ts. */
const OWN_SERVER: ServerPlan = {
  ports: Object.values(PORTS),
  command: ({ address }) => [...script("./server.ts"), address],
};

/** nginx, with one file of so many octets called "file". */
export function nginxWith(octets: number): ServerPlan {
  return {
    ports: [HTTP_PORT],
    command: async ({ host, directory }) => {
      await Deno.mkdir(`${directory}/files`, { recursive: true });
      await Deno.writeFile(`${directory}/files/file`, new Uint8Array(octets).fill(0x2e));
      return await nginx(host, directory);
    },
  };
}

/** Ports of the lab's servers: file, upload, echo. */
const LAB_PORTS: Record<ClientKind, number> = { file: 80, upload: 81, echo: 82 };
/** The lab's servers, whose clients check every octet. */
export const LAB_SERVERS: ServerPlan = {
  ports: Object.values(LAB_PORTS),
  command: ({ address }) => [
    ...script("../runtime/lab/servers.ts"),
    ...["all", "--address", address, "--port", `${HTTP_PORT}`],
  ],
};

/** Until servers listen, a standby is ready, or a survivor speaks, milliseconds; heartbeats may be seconds apart. */
const READY_TIMEOUT_MS = 60_000;
/** How long one measurement of the client may take, milliseconds. */
const CLIENT_TIMEOUT_MS = 180_000;
const POLL_MS = 20;
/** `/proc/net/tcp` shows a listening socket's state as 0A; proc_net(5). */
const LISTENING = / 0A /g;
const HTTP_PORT = 80;
/** Room for the largest log that is measured. */
const LOG_LIMIT = "1GiB";
const LOG_MODE = { mode: "log", memory: "3GiB" };
/** Descriptors that a program needs beside those of its connections. */
const DESCRIPTORS_BESIDE = 200;
/** Descriptors of HAProxy for each connection: two sockets, and its share of the pipes for splicing. */
const HAPROXY_DESCRIPTORS = 2.6;
/** Clock ticks of a second in /proc; proc_pid_stat(5), sysconf(_SC_CLK_TCK). */
const TICKS = 100;
/** Ends of the cable between host a and the service namespace, where the kernel routes. */
const [HOST_END, SERVICE_END] = ["10.79.0.1", "10.79.0.2"];

/** A measurement in progress. */
export interface ClientRun<T> {
  /** Resolves when octets have begun to move, or all connections are held. */
  started: Promise<void>;
  /** Resolves with what was seen, rejects when anything went wrong. */
  result: Promise<T>;
  /** Sends the client a line. */
  proceed(): Promise<void>;
  /** What it has said on standard error so far. */
  said(): string;
}

/** How a site's daemons are configured. */
export interface SiteOptions {
  /** Heartbeats that may be missed. */
  detect: number;
  /** Time from one to the next, milliseconds; 10 if not given. */
  heartbeatMs?: number;
  /** What serves: the benchmark's own server if not given. */
  server?: ServerPlan;
  /** Further keys of the service. */
  service?: Record<string, unknown>;
  /** Whether a witness on a machine of its own decides who may go on alone. */
  witness?: boolean;
}

/** A topology with one path. */
export class Site {
  /** Its network. */
  readonly topology: Topology;
  readonly #path: PathName;
  readonly #options: SiteOptions;
  readonly #daemons = new Map<string, DaemonProcess>();
  /** Processes of ours that are in the path, without Holdfast's. */
  readonly #hops: Deno.ChildProcess[] = [];
  /** What the client dials. */
  #dialed: string;

  private constructor(topology: Topology, path: PathName, options: SiteOptions) {
    this.topology = topology;
    this.#path = path;
    this.#options = options;
    this.#dialed = topology.serviceAddress;
  }

  /**
   * Makes a site and waits until its servers can be measured.
   *
   * @throws {Error} When they do not become ready; nothing stays behind.
   */
  static async create(path: PathName, options: SiteOptions): Promise<Site> {
    const site = new Site(await Topology.create({ witness: options.witness }), path, options);
    try {
      if (options.witness) await site.topology.startWitness();
      if (ROUTED.includes(path)) await site.#route();
      if (path === "haproxy") await site.#startHaproxy();
      if (path === "socat") await site.#startSocat();
      if (SINGLE.includes(path)) await site.#startDaemon("a", []);
      if (path === "hot" || path === "hot ack") {
        await Promise.all([site.#startDaemon("a", ["b"]), site.#startDaemon("b", ["a"])]);
        await site.waitProtected();
      }
      return site;
    } catch (error) {
      await site.destroy();
      throw error;
    }
  }

  /** Removes everything. */
  async destroy(): Promise<void> {
    await this.topology.destroy();
  }

  /** Starts a measurement at the client; see client.ts. */
  measure<T>(measurement: Measurement, ...numbers: number[]): ClientRun<T> {
    const words = [...script("./client.ts"), measurement, this.#dialed, ...numbers.map(String)];
    return this.#startClient(words, { started: STARTED, statuses: [0] });
  }

  /** The same from the server's own namespace: what loopback gives, without any path. */
  measureBeside<T>(measurement: Measurement, ...numbers: number[]): ClientRun<T> {
    const words = [...script("./client.ts"), measurement, this.#dialed, ...numbers.map(String)];
    const app = this.topology.appNamespace("a");
    return this.#startClient(["ip", "netns", "exec", app, ...words], {
      started: STARTED,
      statuses: [0],
      at: this.topology.hosts.a,
    });
  }

  /** Starts a client of the lab's servers; it says itself whether all went well, and checks every octet. */
  startChecked(kind: ClientKind, octets: number): ClientRun<ClientResult> {
    const options = { address: this.#dialed, port: LAB_PORTS[kind], octets, seed: 1 };
    const words = Object.entries(options).flatMap(([name, value]) => [`--${name}`, `${value}`]);
    return this.#startClient([...script("../runtime/lab/client.ts"), kind, ...words], {
      started: '"progress"',
      statuses: [0, 1],
    });
  }

  /** A program's run whose last line is JSON; it has started when it has said `started`. */
  #startClient<T>(
    command: string[],
    { started: mark, statuses, at = this.topology.client }: {
      started: string;
      statuses: number[];
      at?: Node;
    },
  ): ClientRun<T> {
    const child = at.spawn(command, { stdin: "piped", stdout: "piped", stderr: "piped" });
    const timer = setTimeout(() => child.kill("SIGKILL"), CLIENT_TIMEOUT_MS);
    const started = Promise.withResolvers<void>();
    const look = (text: string) => {
      if (text.includes(mark)) started.resolve();
    };
    let complaint = "";
    const said = readAll(child.stderr, (text) => look(complaint = text));
    const output = readAll(child.stdout, look);
    const input = child.stdin.getWriter();
    const result = (async () => {
      const { code, signal } = await child.status;
      clearTimeout(timer);
      const last = (await output).trimEnd().split("\n").at(-1) ?? "";
      if (statuses.includes(code) && last !== "") return JSON.parse(last) as T;
      const how = signal === null ? `ended with ${code}` : `was ended by ${signal}`;
      throw new Error(`"${command.join(" ")}" ${how}: ${(await said).slice(-1000)}`);
    })();
    result.catch(started.reject);
    started.promise.catch(() => {}); // A caller may wait for the result alone.
    return {
      started: started.promise,
      result,
      proceed: () => input.write(new TextEncoder().encode("go\n")),
      said: () => complaint,
    };
  }

  /**
   * Has so many programs compute, without end, beside all others. Each has a session of its own: where
   * the kernel groups by session, all of one would count as one (sched(7)).
   */
  keepBusy(programs: number): void {
    const command = ["setsid", "sh", "-c", "while :; do :; done"];
    for (let i = 0; i < programs; i++) this.topology.client.spawn(command, { stdout: "null" });
  }

  /**
   * Has wrk ask nginx for its file over so many connections.
   *
   * @returns Answers per second.
   * @throws {Error} When wrk fails, or an answer was not what was asked for.
   */
  async requests(seconds: number, connections: number): Promise<number> {
    const url = `http://${this.#dialed}/file`;
    const command = ["wrk", "-t1", `-c${connections}`, `-d${seconds}s`, url];
    const { code, stdout, stderr } = await this.topology.client.exec(command);
    const rate = /^Requests\/sec:\s+([0-9.]+)$/m.exec(stdout);
    const isWrong = /Non-2xx|Socket errors/.test(stdout);
    if (code === 0 && rate !== null && !isWrong) return Number(rate[1]);
    throw new Error(`wrk ended with ${code}: ${`${stdout}${stderr}`.slice(-500)}`);
  }

  /** Seconds of CPU used so far, by hop: a peer, or each daemon; nothing for plain routing. */
  async hopCpuSeconds(): Promise<Record<string, number>> {
    // Only a peer's children pass octets on: a daemon's is the server.
    return await this.#byHop((pid) => cpuSecondsOf(pid, ROUTED.includes(this.#path)));
  }

  /** Octets of main memory at most so far, by hop. */
  async hopMostOctets(): Promise<Record<string, number>> {
    return await this.#byHop((pid) => memoryOf(pid, "VmHWM"));
  }

  /** What the processes of each hop have, in sum. */
  async #byHop(measure: (pid: number) => Promise<number>): Promise<Record<string, number>> {
    const hops: Record<string, number[]> = {};
    if (ROUTED.includes(this.#path)) hops[this.#path] = this.#hops.map(({ pid }) => pid);
    else if (SINGLE.includes(this.#path)) hops.daemon = [this.#daemon("a").pid];
    else {
      const primary = await this.primary();
      hops["primary's daemon"] = [this.#daemon(primary).pid];
      hops["standby's daemon"] = [this.#daemon(this.other(primary)).pid];
    }
    const sums = Object.entries(hops).filter(([, pids]) => pids.length > 0).map(
      async ([name, pids]) => {
        const values = await Promise.all(pids.map(measure));
        return [name, values.reduce((sum, value) => sum + value, 0)] as const;
      },
    );
    return Object.fromEntries(await Promise.all(sums));
  }

  /** Octets of the files that a host's daemon keeps. */
  async storedOctets(host: string): Promise<number> {
    return await octetsIn(`${this.topology.directory}/${host}.state`);
  }

  /** The host that is primary in the highest epoch. */
  async primary(): Promise<string> {
    let found: { host: string; epoch: number } | undefined;
    for (const host of this.#daemons.keys()) {
      const { role, epoch } = await this.service(host);
      if (role === "primary" && epoch >= (found?.epoch ?? 0)) found = { host, epoch };
    }
    if (found === undefined) throw new Error("No living host is primary");
    return found.host;
  }

  /** The other host. */
  other(host: string): string {
    return host === "a" ? "b" : "a";
  }

  /** What a host's daemon says about the service. */
  async service(host: string): Promise<ServiceStatus> {
    return (await this.status(host)).services[0];
  }

  /** What the daemons that can still say so have judged, in words. */
  async judged(): Promise<string> {
    const said: string[] = [];
    for (const host of this.#daemons.keys()) {
      try {
        const { role, judgements, counters, lastTakeover } = await this.service(host);
        const words = judgements.map(({ judgement }) => judgement);
        const hasTakenOver = lastTakeover !== null && lastTakeover.reason !== "start";
        if (hasTakenOver) words.push(`took over: ${lastTakeover.reason}`);
        for (const name of ["diverged", "unprotected"]) {
          if (counters[name] > 0) words.push(`${counters[name]} ${name}`);
        }
        said.push(`${host} is ${role} (${words.join(", ") || "nothing judged"})`);
      } catch (error) {
        if (!(error instanceof ControlError)) throw error;
        said.push(`${host} is silent`);
      }
    }
    return said.join("; ");
  }

  /** What a host's daemon says about its connections. */
  async connections(host: string): Promise<ConnectionInfo[]> {
    return await this.#daemon(host).control.connections();
  }

  /** What a host's daemon says about itself. */
  async status(host: string): Promise<NodeStatus> {
    return await this.#daemon(host).status();
  }

  /** Octets of main memory that a host's daemon uses now. */
  async residentOctets(host: string): Promise<number> {
    return await memoryOf(this.#daemon(host).pid, "VmRSS");
  }

  /** Waits until so many connections are followed by the standby's server. */
  async waitHot(host: string, count: number): Promise<void> {
    await this.#daemon(host).until(({ services: [{ connections }] }) => connections.hot >= count, {
      what: `${count} protected connections`,
      timeoutMs: READY_TIMEOUT_MS,
    });
  }

  /** Waits until both hosts say that a standby could take over. */
  async waitProtected(): Promise<void> {
    for (const host of ["a", "b"]) {
      await this.#daemon(host).until(({ services: [service] }) => {
        return service.protected && (service.role === "primary" || service.role === "standby");
      }, { what: "the service to be protected", timeoutMs: READY_TIMEOUT_MS });
    }
  }

  /** Waits until a host is primary for a reason, and gives the service's state there. */
  async waitTakeover(host: string, reason = "peer-silent"): Promise<ServiceStatus> {
    const { services } = await this.#daemon(host).until(
      ({ services: [{ role, lastTakeover }] }) =>
        role === "primary" && lastTakeover?.reason === reason,
      { what: "a takeover", timeoutMs: READY_TIMEOUT_MS },
    );
    return services[0];
  }

  /**
   * Takes the power from a host.
   *
   * @returns Wall clock of the fault, milliseconds.
   */
  async crash(host: string): Promise<number> {
    const { atMs } = await this.topology.crashHost(host);
    this.#daemons.delete(host);
    return atMs;
  }

  /**
   * Sends a signal to all processes of a host's server; its daemon lives.
   *
   * @returns Wall clock of the fault, milliseconds.
   */
  signalServer(host: string, signal: Deno.Signal): number {
    const pids = this.serverPids(host);
    const atMs = wallClockMs();
    for (const pid of pids) Deno.kill(pid, signal);
    return atMs;
  }

  /** Process ids of a host's server, at least one. */
  serverPids(host: string): number[] {
    const inode = inodeOf(this.topology.appNamespace(host));
    // A daemon's main thread is in there for a moment whenever it looks for who listens.
    const daemons = Array.from(this.#daemons.values(), ({ pid }) => pid);
    const pids = processesIn(new Set(inode === null ? [] : [inode])).map(({ pid }) => pid)
      .filter((pid) => !daemons.includes(pid));
    if (pids.length === 0) throw new Error(`Cannot find the server of host ${host}: no process`);
    return pids;
  }

  /**
   * Sends a signal to a host's daemon.
   *
   * @returns Wall clock of the fault, milliseconds.
   */
  signalDaemon(host: string, signal: Deno.Signal): number {
    const atMs = wallClockMs();
    Deno.kill(this.#daemon(host).pid, signal);
    return atMs;
  }

  /** Gives a crashed host its power back and waits until it is a standby. */
  async revive(host: string): Promise<void> {
    await this.topology.restoreHost(host);
    await this.#startDaemon(host, [this.other(host)]);
    await this.waitProtected();
  }

  /** Moves the service away from its primary. */
  async switchService(from: string): Promise<SwitchResult> {
    return await this.#daemon(from).control.switchService("web");
  }

  #daemon(host: string): DaemonProcess {
    const daemon = this.#daemons.get(host);
    if (daemon === undefined) throw new Error(`Cannot ask host ${host}: its daemon does not run`);
    return daemon;
  }

  async #startDaemon(host: string, peers: string[]): Promise<void> {
    const isLog = this.#path === "log" || this.#path === "disk";
    const log = { limit: LOG_LIMIT, store: this.#path === "disk" ? "disk" : "memory" };
    const configPath = await this.topology.writeConfig(host, {
      peers,
      cluster: { heartbeat: `${this.#options.heartbeatMs ?? 10}ms`, detect: this.#options.detect },
      service: {
        ports: this.#server.ports,
        commit: this.#path === "hot ack" ? "ack" : "strict",
        run: await this.#serverCommand(host),
        ...(isLog ? { ...LOG_MODE, log } : {}),
        ...this.#options.service,
      },
    });
    this.#daemons.set(host, await this.topology.startDaemon(host, configPath));
    await this.#waitListening(host);
  }

  /** Has the kernel of host a route the service address to a server, as it would without Holdfast. */
  async #route(): Promise<void> {
    const { serviceAddress } = this.topology;
    const { netns } = this.topology.hosts.a;
    const app = this.topology.appNamespace("a");
    inNamespace(netns, () => writeSysctl("net/ipv4/ip_forward", "1"));
    if (this.#path === "qemu") await this.#startQemu(netns, app);
    else await this.#ip(netns, `link add app0 type veth peer name app0 netns ${app}`);
    await this.#ip(netns, `address add ${HOST_END}/30 dev app0`);
    await this.#ip(netns, "link set app0 up");
    await this.#ip(app, "link set lo up");
    await this.#ip(app, "link set app0 up");
    await this.#ip(app, `address add ${SERVICE_END}/30 dev app0`);
    await this.#ip(app, `address add ${serviceAddress}/32 dev lo`);
    await this.#ip(app, `route add default via ${HOST_END}`);
    await this.#ip(netns, `route add ${serviceAddress}/32 via ${SERVICE_END}`);
    await this.#ip(netns, `neighbor add proxy ${serviceAddress} dev eth0`);
    this.topology.hosts.a.spawn(
      ["ip", "netns", "exec", app, ...await this.#serverCommand("a")],
      { stdout: "null", stderr: "inherit" },
    );
    await this.#waitListening("a");
  }

  get #server(): ServerPlan {
    return this.#options.server ?? OWN_SERVER;
  }

  /** The command that starts a host's server. */
  async #serverCommand(host: string): Promise<string[]> {
    const { directory, serviceAddress: address } = this.topology;
    return await this.#server.command({ host, directory, address });
  }

  /** Has QEMU join app0 of host a with app0 of the service namespace. */
  async #startQemu(netns: string, app: string): Promise<void> {
    const ends = ["app0", "app1"];
    for (const end of ends) await this.#ip(netns, `tuntap add ${end} mode tap`);
    const tap = (name: string) =>
      `tap,id=${name},ifname=${name},script=no,downscript=no,vnet_hdr=off`;
    const filter = "filter-rewriter,id=rewriter,netdev=app1,queue=all";
    this.#hops.push(this.topology.hosts.a.spawn([
      ...["qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none"],
      ...ends.flatMap((end) => ["-netdev", tap(end)]),
      ...ends.flatMap((end) => ["-netdev", `hubport,id=hub-${end},hubid=0,netdev=${end}`]),
      ...["-object", filter],
    ], { stdout: "null", stderr: "inherit" }));
    await this.#ip(netns, "link set app1 up");
    // A TAP has a carrier while a program holds it; it is held wherever it goes.
    await this.#until("QEMU to hold its TAPs", async () => {
      const { stdout } = await this.topology.hosts.a.exec(["ip", "link", "show", "app1"]);
      return stdout.includes("LOWER_UP");
    });
    await this.#ip(netns, `link set app1 netns ${app} name app0`);
  }

  /** Has HAProxy at host a's own address pass connections on to the service address. */
  async #startHaproxy(): Promise<void> {
    const { directory, serviceAddress, hosts: { a } } = this.topology;
    const path = `${directory}/haproxy.cfg`;
    await Deno.writeTextFile(path, proxyConfig(a.address, serviceAddress, this.#server.ports));
    const command = ["haproxy", "-q", "-db", "-f", path];
    this.#hops.push(a.spawn(command, { stdout: "null", stderr: "inherit" }));
    await this.#waitListeners(a.netns, "HAProxy");
    this.#dialed = a.address;
  }

  /** Has socat do the same, with a process for each connection and large buffers. */
  async #startSocat(): Promise<void> {
    const { serviceAddress, hosts: { a } } = this.topology;
    for (const port of this.#server.ports) {
      this.#hops.push(a.spawn([
        "socat",
        "-b262144",
        `TCP4-LISTEN:${port},bind=${a.address},fork,reuseaddr,nodelay,backlog=128`,
        `TCP4:${serviceAddress}:${port},nodelay`,
      ], { stdout: "null", stderr: "null" }));
    }
    await this.#waitListeners(a.netns, "socat");
    this.#dialed = a.address;
  }

  async #waitListening(host: string): Promise<void> {
    await this.#waitListeners(this.topology.appNamespace(host), `the server of host ${host}`);
  }

  async #waitListeners(netns: string, what: string): Promise<void> {
    await this.#until(`${what} to listen`, async () => {
      const { stdout } = await this.topology.hosts.a.exec(
        ["ip", "netns", "exec", netns, "cat", "/proc/net/tcp"],
      );
      const { ports, listeners = ports.length } = this.#server;
      return (stdout.match(LISTENING)?.length ?? 0) >= listeners;
    });
  }

  async #until(what: string, condition: () => Promise<boolean>): Promise<void> {
    const deadlineMs = performance.now() + READY_TIMEOUT_MS;
    while (performance.now() < deadlineMs) {
      if (await condition()) return;
      for (const hop of this.#hops) {
        const { code } = await Promise.race([hop.status, Promise.resolve({ code: null })]);
        if (code !== null) throw new Error(`Waited for ${what}: it ended with ${code}`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    throw new Error(`Waited for ${what}: not within ${READY_TIMEOUT_MS} ms`);
  }

  async #ip(netns: string, words: string): Promise<void> {
    const command = ["ip", "-n", netns, ...words.split(" ")];
    const { code, stderr } = await this.topology.switch.exec(command);
    if (code !== 0) throw new Error(`Cannot run "${command.join(" ")}": ${stderr.trim()}`);
  }
}

/** HAProxy as a TCP proxy, with kernel splicing and large pipes. */
function proxyConfig(address: string, server: string, ports: readonly number[]): string {
  return `global
  nbthread 1
  maxconn ${connectionsMost("haproxy")}
  tune.pipesize 1048576
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 60s
  timeout server 60s
${
    ports.map((port) =>
      `listen p${port}\n  bind ${address}:${port}\n  server s ${server}:${port}\n`
    ).join("")
  }`;
}

/** CPU that a process has used, and the children that it has waited for, seconds; proc_pid_stat(5). */
async function cpuSecondsOf(pid: number, children: boolean): Promise<number> {
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`);
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const ticks = fields.slice(11, children ? 15 : 13).map(Number);
  return ticks.reduce((sum, one) => sum + one, 0) / TICKS;
}

/** Octets of main memory that a process uses now, or at most so far; proc_pid_status(5). */
async function memoryOf(pid: number, what: "VmRSS" | "VmHWM"): Promise<number> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  const found = new RegExp(`^${what}:\\s+(\\d+) kB$`, "m").exec(status);
  if (found === null) throw new Error(`Cannot read the memory of process ${pid}: no ${what}`);
  return Number(found[1]) * 1024;
}

/** Octets of all files in a directory and below. */
async function octetsIn(directory: string): Promise<number> {
  let octets = 0;
  for await (const { name, isDirectory } of Deno.readDir(directory)) {
    const path = `${directory}/${name}`;
    octets += isDirectory ? await octetsIn(path) : (await Deno.lstat(path)).size;
  }
  return octets;
}

/** Waits until a path is ready, uses it, and removes it however that ends. */
export async function withSite(
  path: PathName,
  options: SiteOptions,
  act: (site: Site) => Promise<void>,
): Promise<void> {
  const site = await Site.create(path, options);
  try {
    await act(site);
  } finally {
    await site.destroy();
  }
}

/** The words that run a script beside this one. */
function script(relative: string): string[] {
  return [
    Deno.execPath(),
    "run",
    "-A",
    decodeURIComponent(new URL(relative, import.meta.url).pathname),
  ];
}

async function readAll(
  stream: ReadableStream<Uint8Array>,
  look: (text: string) => void,
): Promise<string> {
  let text = "";
  for await (
    const piece of stream.pipeThrough(
      new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>,
    )
  ) {
    text += piece;
    look(text);
  }
  return text;
}
