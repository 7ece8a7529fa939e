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
 *   alone     Holdfast on host a, without a peer
 *   hot       Holdfast on both hosts, hot standby, commit = "strict"
 *   hot ack   the same with commit = "ack"
 *   log       Holdfast on host a in log mode, without a peer
 *
 * The server is server.ts, or nginx with one small file for requests per second.
 * Namespaces, links, MTU, offloads, server and client are the same for all. A site is made for one round
 * and removed after it, so nothing of another path runs meanwhile; the topology removes itself however
 * this process ends.
 */

import { inNamespace } from "../runtime/io/netns.ts";
import { writeSysctl } from "../runtime/io/sysctl.ts";
import type { DaemonProcess } from "../runtime/lab/daemon_process.ts";
import { Topology } from "../runtime/lab/topology.ts";
import type { NodeStatus, ServiceStatus, SwitchResult } from "../runtime/status.ts";
import { type Measurement, STARTED } from "./client.ts";
import { nginx } from "../test/net/nginx.ts";
import { PORTS } from "./wire.ts";

/** The paths that are compared. */
export const PATHS = ["plain", "haproxy", "socat", "alone", "hot", "hot ack", "log"] as const;
/** One of them. */
export type PathName = typeof PATHS[number];

/** Until servers listen, a standby is ready, or a survivor speaks, milliseconds; heartbeats may be seconds apart. */
const READY_TIMEOUT_MS = 60_000;
/** How long one measurement of the client may take, milliseconds. */
const CLIENT_TIMEOUT_MS = 180_000;
const POLL_MS = 20;
/** `/proc/net/tcp` shows a listening socket's state as 0A; proc_net(5). */
const LISTENING = / 0A /g;
/** What nginx serves: so many octets, at this port. */
const FILE_OCTETS = 1024;
const HTTP_PORT = 80;
/** How wrk asks: threads, connections. */
const WRK = ["-t1", "-c50"];
/** Room for the largest log that is measured. */
const LOG_MODE = { mode: "log", log: { limit: "1GiB" }, memory: "3GiB" };
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
}

/** How a site's daemons are configured. */
export interface SiteOptions {
  /** Heartbeats that may be missed. */
  detect: number;
  /** Time from one to the next, milliseconds; 10 if not given. */
  heartbeatMs?: number;
  /** What serves: the benchmark's own server if not given. */
  server?: "nginx";
  /** Whether a witness on a machine of its own decides who may go on alone. */
  witness?: boolean;
}

/** A topology with one path. */
export class Site {
  readonly #topology: Topology;
  readonly #path: PathName;
  readonly #options: SiteOptions;
  readonly #daemons = new Map<string, DaemonProcess>();
  /** What the client dials. */
  #dialed: string;

  private constructor(topology: Topology, path: PathName, options: SiteOptions) {
    this.#topology = topology;
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
      if (options.witness) await site.#topology.startWitness();
      if (options.server === "nginx") await site.#writeFile();
      if (path === "plain" || path === "haproxy" || path === "socat") await site.#route();
      if (path === "haproxy") await site.#startHaproxy();
      if (path === "socat") await site.#startSocat();
      if (path === "alone" || path === "log") await site.#startDaemon("a", []);
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
    await this.#topology.destroy();
  }

  /** Starts a measurement at the client; see client.ts. */
  measure<T>(measurement: Measurement, ...numbers: number[]): ClientRun<T> {
    const child = this.#topology.client.spawn([
      ...script("./client.ts"),
      measurement,
      this.#dialed,
      ...numbers.map(String),
    ], { stdin: "piped", stdout: "piped", stderr: "piped" });
    const timer = setTimeout(() => child.kill("SIGKILL"), CLIENT_TIMEOUT_MS);
    const started = Promise.withResolvers<void>();
    const said = readAll(child.stderr, (text) => {
      if (text.includes(STARTED)) started.resolve();
    });
    const output = readAll(child.stdout, () => {});
    const input = child.stdin.getWriter();
    const result = (async () => {
      const { success, signal } = await child.status;
      clearTimeout(timer);
      if (success) return JSON.parse(await output) as T;
      const how = signal === null ? "failed" : `was ended by ${signal}`;
      throw new Error(
        `Client ${measurement} ${numbers.join(" ")} ${how}: ${(await said).slice(-1000)}`,
      );
    })();
    result.catch(started.reject);
    started.promise.catch(() => {}); // A caller may wait for the result alone.
    return {
      started: started.promise,
      result,
      proceed: () => input.write(new TextEncoder().encode("go\n")),
    };
  }

  /**
   * Has so many programs compute, without end, beside all others. Each has a session of its own: where
   * the kernel groups by session, all of one would count as one (sched(7)).
   */
  keepBusy(programs: number): void {
    const command = ["setsid", "sh", "-c", "while :; do :; done"];
    for (let i = 0; i < programs; i++) this.#topology.client.spawn(command, { stdout: "null" });
  }

  /**
   * Has wrk ask nginx for its file.
   *
   * @returns Answers per second.
   * @throws {Error} When wrk fails, or an answer was not what was asked for.
   */
  async requests(seconds: number): Promise<number> {
    const url = `http://${this.#dialed}/file`;
    const command = ["wrk", ...WRK, `-d${seconds}s`, url];
    const { code, stdout, stderr } = await this.#topology.client.exec(command);
    const rate = /^Requests\/sec:\s+([0-9.]+)$/m.exec(stdout);
    const isWrong = /Non-2xx|Socket errors/.test(stdout);
    if (code === 0 && rate !== null && !isWrong) return Number(rate[1]);
    throw new Error(`wrk ended with ${code}: ${`${stdout}${stderr}`.slice(-500)}`);
  }

  /** Seconds of CPU that a host's daemon has used so far. */
  async cpuSeconds(host: string): Promise<number> {
    const stat = await Deno.readTextFile(`/proc/${this.#daemon(host).pid}/stat`);
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / TICKS;
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

  /** What a host's daemon says about itself. */
  async status(host: string): Promise<NodeStatus> {
    return await this.#daemon(host).status();
  }

  /** Octets of main memory that a host's daemon uses now (VmRSS of proc(5)). */
  async residentOctets(host: string): Promise<number> {
    const status = await Deno.readTextFile(`/proc/${this.#daemon(host).pid}/status`);
    const found = /^VmRSS:\s+(\d+) kB$/m.exec(status);
    if (found === null) throw new Error("Cannot read the daemon's memory: no VmRSS in its status");
    return Number(found[1]) * 1024;
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
    const { atMs } = await this.#topology.crashHost(host);
    this.#daemons.delete(host);
    return atMs;
  }

  /** Ends a host's server by SIGKILL; its daemon lives. */
  async killServer(host: string): Promise<void> {
    const { app: { pid } } = await this.service(host);
    if (pid === null) throw new Error(`Cannot kill the server of host ${host}: it does not run`);
    Deno.kill(pid, "SIGKILL");
  }

  /** Gives a crashed host its power back and waits until it is a standby. */
  async revive(host: string): Promise<void> {
    await this.#topology.restoreHost(host);
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
    const configPath = await this.#topology.writeConfig(host, {
      peers,
      cluster: { heartbeat: `${this.#options.heartbeatMs ?? 10}ms`, detect: this.#options.detect },
      service: {
        ports: this.#ports(),
        commit: this.#path === "hot ack" ? "ack" : "strict",
        run: await this.#server(host),
        ...(this.#path === "log" ? LOG_MODE : {}),
      },
    });
    this.#daemons.set(host, await this.#topology.startDaemon(host, configPath));
    await this.#waitListening(host);
  }

  /** Has the kernel of host a route the service address to a server, as it would without Holdfast. */
  async #route(): Promise<void> {
    const { serviceAddress } = this.#topology;
    const { netns } = this.#topology.hosts.a;
    const app = this.#topology.appNamespace("a");
    inNamespace(netns, () => writeSysctl("net/ipv4/ip_forward", "1"));
    await this.#ip(netns, `link add app0 type veth peer name app0 netns ${app}`);
    await this.#ip(netns, `address add ${HOST_END}/30 dev app0`);
    await this.#ip(netns, "link set app0 up");
    await this.#ip(app, "link set lo up");
    await this.#ip(app, "link set app0 up");
    await this.#ip(app, `address add ${SERVICE_END}/30 dev app0`);
    await this.#ip(app, `address add ${serviceAddress}/32 dev lo`);
    await this.#ip(app, `route add default via ${HOST_END}`);
    await this.#ip(netns, `route add ${serviceAddress}/32 via ${SERVICE_END}`);
    await this.#ip(netns, `neighbor add proxy ${serviceAddress} dev eth0`);
    this.#topology.hosts.a.spawn(
      ["ip", "netns", "exec", app, ...await this.#server("a")],
      { stdout: "null", stderr: "inherit" },
    );
    await this.#waitListening("a");
  }

  /** The command that starts a host's server. */
  async #server(host: string): Promise<string[]> {
    const { directory, serviceAddress } = this.#topology;
    if (this.#options.server === "nginx") return await nginx(host, directory);
    return [...script("./server.ts"), serviceAddress];
  }

  /** Ports that the server listens at. */
  #ports(): number[] {
    return this.#options.server === "nginx" ? [HTTP_PORT] : Object.values(PORTS);
  }

  async #writeFile(): Promise<void> {
    const directory = `${this.#topology.directory}/files`;
    await Deno.mkdir(directory);
    await Deno.writeFile(`${directory}/file`, new Uint8Array(FILE_OCTETS).fill(0x2e));
  }

  /** Has HAProxy at host a's own address pass connections on to the service address. */
  async #startHaproxy(): Promise<void> {
    const { directory, serviceAddress, hosts: { a } } = this.#topology;
    const path = `${directory}/haproxy.cfg`;
    await Deno.writeTextFile(path, proxyConfig(a.address, serviceAddress, this.#ports()));
    a.spawn(["haproxy", "-db", "-f", path], { stdout: "null", stderr: "null" });
    await this.#waitListeners(a.netns, "HAProxy");
    this.#dialed = a.address;
  }

  /** Has socat do the same, with a process for each connection and large buffers. */
  async #startSocat(): Promise<void> {
    const { serviceAddress, hosts: { a } } = this.#topology;
    for (const port of this.#ports()) {
      a.spawn([
        "socat",
        "-b262144",
        `TCP4-LISTEN:${port},bind=${a.address},fork,reuseaddr,nodelay,backlog=128`,
        `TCP4:${serviceAddress}:${port},nodelay`,
      ], { stdout: "null", stderr: "null" });
    }
    await this.#waitListeners(a.netns, "socat");
    this.#dialed = a.address;
  }

  async #waitListening(host: string): Promise<void> {
    await this.#waitListeners(this.#topology.appNamespace(host), `the server of host ${host}`);
  }

  async #waitListeners(netns: string, what: string): Promise<void> {
    const deadlineMs = performance.now() + READY_TIMEOUT_MS;
    while (performance.now() < deadlineMs) {
      const { stdout } = await this.#topology.hosts.a.exec(
        ["ip", "netns", "exec", netns, "cat", "/proc/net/tcp"],
      );
      const listeners = stdout.match(LISTENING)?.length ?? 0;
      if (listeners >= this.#ports().length) return;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    throw new Error(`Waited for ${what} to listen: not within ${READY_TIMEOUT_MS} ms`);
  }

  async #ip(netns: string, words: string): Promise<void> {
    const command = ["ip", "-n", netns, ...words.split(" ")];
    const { code, stderr } = await this.#topology.switch.exec(command);
    if (code !== 0) throw new Error(`Cannot run "${command.join(" ")}": ${stderr.trim()}`);
  }
}

/** HAProxy as a TCP proxy, with kernel splicing and large pipes. */
function proxyConfig(address: string, server: string, ports: readonly number[]): string {
  return `global
  nbthread 1
  maxconn 1000
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
