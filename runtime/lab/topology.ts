/**
 * topology.ts - clients, a switch and hosts, made from network namespaces with iproute2 alone
 *
 * Theory of operation
 *
 *   client0 eth0 ──┐
 *   client1 eth0 ──┤ p-c1            p-a ┌── eth0  host a  repl0 ══ repl0  host b
 *                  └── switch (br0) ─────┤         app namespace   (repl1 ══ repl1)
 *                                    p-b └── eth0  host b
 *                    wit0 of each host ══ witness (only where asked for)
 *
 *               IPv4               IPv6
 *   hosts       10.77.0.1, .2      fd77::1, ::2
 *   clients     10.77.0.11, ...    fd77::11, ...
 *   service     10.77.0.100        fd77::100         belongs to no interface until a daemon claims it
 *   repl0       10.78.0.1, .2      fd78::1, ::2      a direct cable between the hosts
 *   repl1       10.78.1.1, .2      fd78:0:0:1::1, ::2
 *   wit0        10.79.N.N, .9      fd79:0:0:N::N, ::9     a direct cable from host N to the witness
 *
 * Interfaces are made inside their namespaces, so their names need not be unique. IPv6 addresses are
 * usable at once (nodad) and stay when their interface goes down, as IPv4 addresses do (see upCommands). The namespace of the
 * service is made here too, because one that the daemon makes would be seen by the daemon's children
 * only (see node.ts). veth keeps its offloads: packets between machines are super-segments.
 *
 * A name begins with the run's id, hf<owner's pid in base 36>_<number>, so two runs never meet and
 * what a killed run has left can be told from what is in use: {@linkcode Topology.sweep} removes the former.
 *
 *   crashHost()   links of the host down (a prepared ip process, about 1 ms), then SIGKILL for all on it: a
 *                 dying kernel says nothing, so the links must go before sockets are closed
 *   setLink()     "client": the switch's end goes down, as when a cable is pulled; "repl0", "repl1",
 *                 "wit0": the host's end
 *   setDeaf()     the switch's end leaves the bridge: a card that passes nothing, with its carrier on
 *
 * Limits: HOSTS_MAX hosts, CLIENTS_MAX clients.
 * Sources: ip-link(8), ip-netns(8), veth(4), bridge(8), Documentation/networking/ip-sysctl.rst.
 */

import { stringify } from "smol-toml";
import { createAuthority, type Credentials, issueCertificate } from "../certificates.ts";
import { inNamespace } from "../io/netns.ts";
import { writeSysctl } from "../io/sysctl.ts";
import { onProcessEnd } from "./cleanup.ts";
import { type DaemonProcess, startDaemonProcess, startWitnessProcess } from "./daemon_process.ts";
import {
  deleteNamespacesSync,
  inodeOf,
  ipBatch,
  isAlive,
  killAllIn,
  namespaceNames,
  prepareIpBatch,
  whyNoNamespaces,
} from "./namespaces.ts";
import { createNode, type Node, NodeProcesses } from "./node.ts";

export type { DaemonProcess } from "./daemon_process.ts";
export type { ExecOptions, ExecResult, Node } from "./node.ts";

/** Most clients; their addresses lie between the hosts' and the service's. */
const CLIENTS_MAX = 80;
const HOSTS_MAX = 4;
/** MTU of Ethernet, and the least that IPv6 allows. */
const MTU_DEFAULT = 1500;
const MTU_MIN = 1280;
const MTU_MAX = 65535;
const REPLICATION_PORT = 7946;
/** Last parts of addresses; the first host is 1, the first client 11. */
const FIRST_CLIENT = 11;
const SERVICE = 100;
const WITNESS = 9;
const WITNESS_PORT = 7950;
/** Beginning of the names of our temporary directories. */
const DIRECTORY_PREFIX = "holdfast-";
/** In a directory: this run is to be left alone. */
const KEEP_MARK = "keep";
const ID_PATTERN = /^hf([0-9a-z]+)_(\d+)-/;
/** Where ip(8) looks for files of a namespace; a daemon may put some there. */
const NAMESPACE_FILES = "/etc/netns";

/** Options of {@linkcode Topology.create}. */
export interface TopologyOptions {
  /** IPv6 in place of IPv4, on all networks. */
  ipv6?: boolean;
  /** MTU of hosts, switch and replication links, in octets; 1500 when not given. */
  mtu?: number;
  /** MTU of the clients, in octets; `mtu` when not given. */
  clientMtu?: number;
  /** Number of clients; 1 when not given. */
  clients?: number;
  /** Number of replication links; 1 when not given. */
  links?: 1 | 2;
  /** Names of the hosts; `["a", "b"]` when not given. */
  hosts?: string[];
  /** A further machine for a witness, which configurations then name as the arbiter. */
  witness?: boolean;
  /** Traffic between hosts in plain text instead of under certificates made for this run. */
  insecure?: boolean;
}

/** What {@linkcode Topology.writeConfig} puts in place of its defaults. */
export interface ConfigOverrides {
  /** Keys of the table `cluster`; those of `tls` beside the files. */
  cluster?: Record<string, unknown> & { tls?: object };
  /** Keys of the table `service`. */
  service?: Record<string, unknown>;
  /** Names of the peers; all other hosts when not given. */
  peers?: string[];
}

/** A link of a host. */
export type LinkName = "client" | "repl0" | "repl1" | "wit0";

/** Topologies made by this process. */
let created = 0;

/** A network of namespaces. */
export class Topology {
  /** Unique for this run; every name begins with it. */
  readonly id: string;
  /** What clients dial: 10.77.0.100 or fd77::100. */
  readonly serviceAddress: string;
  /** The clients. */
  readonly clients: Node[];
  /** The switch. */
  readonly switch: Node;
  /** The hosts by name. */
  readonly hosts: Record<string, Node>;
  /** The machine of the witness; null without one. */
  readonly witness: Node | null;
  /** Directory of configurations, states, logs and control sockets. */
  readonly directory: string;
  readonly #plan: Plan;
  readonly #processes = new NodeProcesses();
  /** Inodes of our namespaces by name. */
  readonly #inodes = new Map<string, number>();
  /** Made when the first configuration is written. */
  #authority: Promise<Credentials> | null = null;
  #unregister: () => void;
  #isRemoved = false;

  private constructor(plan: Plan, directory: string) {
    this.id = plan.id;
    this.#plan = plan;
    this.directory = directory;
    this.serviceAddress = plan.address("client", SERVICE);
    this.switch = createNode(
      { name: "switch", netns: plan.switchNetns, address: "" },
      this.#processes,
    );
    this.clients = plan.clients.map((client) => createNode(client, this.#processes));
    this.hosts = Object.fromEntries(
      plan.hosts.map((host) => [host.name, createNode(host, this.#processes)]),
    );
    this.witness = plan.witnessNetns === null ? null : createNode(
      { name: "witness", netns: plan.witnessNetns, address: "" },
      this.#processes,
    );
    this.#unregister = onProcessEnd(() => this.#remove());
  }

  /**
   * Makes a topology, in about 50 ms. What dead runs have left is removed first.
   *
   * @throws {RangeError} Naming the option, its value and what is allowed.
   * @throws {Error} Without Linux, root or iproute2; nothing stays behind.
   */
  static async create(options: TopologyOptions = {}): Promise<Topology> {
    const why = whyNoNamespaces();
    if (why !== null) throw new Error(`Cannot make network namespaces: ${why}`);
    Topology.sweep();
    const plan = new Plan(`hf${Deno.pid.toString(36)}_${created++}`, options);
    const directory = await Deno.makeTempDir({ prefix: `${DIRECTORY_PREFIX}${plan.id}-` });
    const topology = new Topology(plan, directory);
    try {
      await topology.#build();
      return topology;
    } catch (error) {
      await topology.destroy();
      throw error;
    }
  }

  /**
   * Removes what runs have left whose process is gone, except where they were told to keep it.
   *
   * @returns The ids of the runs that were removed.
   */
  static sweep(): string[] {
    const kept = new Set<string>();
    const directories = new Map<string, string[]>();
    for (const { id, path } of temporaryDirectories()) {
      directories.set(id, [...directories.get(id) ?? [], path]);
      if (exists(`${path}/${KEEP_MARK}`)) kept.add(id);
    }
    const dead = new Map<string, string[]>([...directories.keys()].map((id) => [id, []]));
    for (const name of namespaceNames()) {
      const id = idOf(name);
      if (id !== null) dead.set(id, [...dead.get(id) ?? [], name]);
    }
    for (const id of dead.keys()) {
      if (kept.has(id) || isAlive(ownerOf(id))) dead.delete(id);
    }
    for (const [id, names] of dead) {
      removeAll(names, names.map(inodeOf).filter((inode) => inode !== null));
      for (const path of directories.get(id) ?? []) removeDirectory(path);
    }
    return [...dead.keys()];
  }

  /** The first client. */
  get client(): Node {
    return this.clients[0];
  }

  /** Names of the links between the hosts. */
  get replicationLinks(): readonly LinkName[] {
    return this.#plan.links;
  }

  /** Path of the control socket of a host's daemon. */
  controlPath(host: string): string {
    return `${this.directory}/${this.#plan.host(host).name}.sock`;
  }

  /** Path of the log of a host's daemon. */
  logPath(host: string): string {
    return `${this.directory}/${this.#plan.host(host).name}.log`;
  }

  /** Path of the log of the witness. */
  get witnessLogPath(): string {
    return `${this.directory}/witness.log`;
  }

  /**
   * Starts `holdfast witness` on its machine and resolves when it listens.
   *
   * @throws {Error} When it does not, or there is no such machine.
   */
  async startWitness(): Promise<Deno.ChildProcess> {
    if (this.witness === null) throw new Error("Cannot start a witness: the topology has none");
    const listen = this.#plan.witnessListen();
    return await startWitnessProcess(this.witness, {
      listen,
      statePath: `${this.directory}/witness.state`,
      logPath: this.witnessLogPath,
    });
  }

  /** Name of the network namespace of the service on a host. */
  appNamespace(host: string): string {
    return this.#plan.host(host).appNetns;
  }

  /**
   * Writes the configuration of a host's daemon, for one service called "web" on ports 80, 81 and 82.
   *
   * @returns Its path.
   */
  async writeConfig(host: string, overrides: ConfigOverrides = {}): Promise<string> {
    const plan = this.#plan;
    const own = plan.host(host);
    const peers = overrides.peers ?? plan.hosts.map(({ name }) => name).filter((n) => n !== host);
    const { tls = {}, ...cluster } = overrides.cluster ?? {};
    const protection = await this.#protection(host, tls);
    const config = {
      node: {
        name: host,
        state_dir: `${this.directory}/${host}.state`,
        control: this.controlPath(host),
      },
      peer: peers.map((name) => ({
        name,
        links: plan.links.map((link) => ({
          local: plan.endpoint(link, own, plan.host(name)),
          remote: plan.endpoint(link, plan.host(name), own),
        })),
      })),
      cluster: {
        ...protection,
        heartbeat: "10ms",
        detect: 3,
        ...this.witness === null ? {} : { arbiter: plan.arbiterOf(own) },
        ...cluster,
      },
      service: [{
        name: "web",
        address: this.serviceAddress,
        ports: [80, 81, 82],
        interface: "eth0",
        prefer: plan.hosts[0].name,
        netns: own.appNetns,
        ...overrides.service,
      }],
    };
    const path = `${this.directory}/${host}.toml`;
    await Deno.writeTextFile(path, stringify(config) + "\n");
    return path;
  }

  /** The keys of `cluster` that say how traffic between hosts is protected. */
  async #protection(host: string, more: object): Promise<Record<string, unknown>> {
    if (this.#plan.insecure) return { insecure: true };
    this.#authority ??= createAuthority(`Holdfast ${this.id}`, { days: 1 });
    const authority = await this.#authority;
    const { cert, key } = await issueCertificate(host, authority, { days: 0.9 });
    const files = {
      ca: `${this.directory}/ca.pem`,
      cert: `${this.directory}/${host}.pem`,
      key: `${this.directory}/${host}.key`,
    };
    await Deno.writeTextFile(files.ca, authority.cert);
    await Deno.writeTextFile(files.cert, cert);
    await Deno.writeTextFile(files.key, key, { mode: 0o600 });
    return { tls: { ...files, ...more } };
  }

  /**
   * Starts `holdfast up` on a host and resolves when its control socket answers.
   *
   * @throws {Error} When it does not; the message holds the end of its log.
   */
  async startDaemon(
    host: string,
    configPath: string,
    options: { env?: Record<string, string> } = {},
  ): Promise<DaemonProcess> {
    const places = {
      configPath,
      controlPath: this.controlPath(host),
      logPath: this.logPath(host),
    };
    return await startDaemonProcess(this.hosts[host], places, options.env ?? {});
  }

  /**
   * Makes a host crash: its links go down, then all its processes and those of its service are killed, the
   * daemon's namespace first.
   *
   * @param options `link: false` leaves the links up, so that only the programs die.
   * @returns When it began, in milliseconds of the wall clock; the links are down about 1 ms later.
   */
  async crashHost(host: string, options: { link?: boolean } = {}): Promise<{ atMs: number }> {
    const { netns, appNetns } = this.#plan.host(host);
    const first = this.#inodes.get(netns);
    const takeDown = (options.link ?? true)
      ? await prepareIpBatch(this.#plan.linksOf().map((name) => `link set ${name} down`), netns)
      : null;
    const atMs = performance.timeOrigin + performance.now();
    await takeDown?.();
    killAllIn(this.#inodesOf([netns, appNetns]), first);
    return { atMs };
  }

  /**
   * Brings the links of a host up again, wherever they were taken down. Kernels may take a second to
   * believe it.
   */
  async restoreHost(host: string): Promise<void> {
    const plan = this.#plan;
    const own = plan.host(host);
    await ipBatch(plan.linksOf().flatMap((name) => plan.upCommands(own, name)), own.netns);
    await ipBatch([`link set ${own.port} up`], plan.switchNetns);
  }

  /**
   * Takes a link down or up.
   *
   * @throws {RangeError} When the topology has no such link.
   */
  async setLink(host: string, which: LinkName, up: boolean): Promise<void> {
    const own = this.#plan.host(host);
    const state = up ? "up" : "down";
    if (which === "client") {
      await ipBatch([`link set ${own.port} ${state}`], this.#plan.switchNetns);
      return;
    }
    if (!this.#plan.linksOf().includes(which)) {
      const known = this.#plan.linksOf().join(", ");
      throw new RangeError(`Cannot set link ${which} ${state}: a host has ${known}`);
    }
    const commands = up ? this.#plan.upCommands(own, which) : [`link set ${which} down`];
    await ipBatch(commands, own.netns);
  }

  /** The switch gives a host nothing any more, and takes nothing from it; the carrier stays. */
  async setDeaf(host: string, deaf: boolean): Promise<void> {
    const { port } = this.#plan.host(host);
    const change = deaf ? "nomaster" : "master br0";
    await ipBatch([`link set ${port} ${change}`], this.#plan.switchNetns);
  }

  /** Leaves everything as it is when this process ends; {@linkcode removalCommand} removes it. */
  async keep(): Promise<void> {
    await Deno.writeTextFile(`${this.directory}/${KEEP_MARK}`, "");
    this.#unregister();
  }

  /** A shell command that removes a topology that was kept. */
  removalCommand(): string {
    const names = this.#plan.namespaces();
    return `for n in ${names.join(" ")}; do ip netns pids $n | xargs -r kill -9; ` +
      `ip netns delete $n; done; rm -r ${this.directory}`;
  }

  /** Ends every process inside and removes everything; a second call does nothing. */
  async destroy(): Promise<void> {
    this.#unregister();
    this.#remove();
    await this.#processes.ended();
  }

  #remove(): void {
    if (this.#isRemoved) return;
    this.#isRemoved = true;
    removeAll(this.#plan.namespaces(), [...this.#inodes.values()]);
    removeDirectory(this.directory);
  }

  async #build(): Promise<void> {
    const plan = this.#plan;
    const names = plan.namespaces();
    await ipBatch(names.map((name) => `netns add ${name}`));
    for (const name of names) {
      const inode = inodeOf(name);
      if (inode === null) throw new Error(`Cannot find network namespace ${name} after making it`);
      this.#inodes.set(name, inode);
      inNamespace(name, () => writeSysctl("net/ipv6/conf/default/keep_addr_on_down", "1"));
    }
    await ipBatch(plan.switchCommands(), plan.switchNetns);
    await ipBatch(plan.replicationCommands(), plan.switchNetns);
    if (plan.witnessNetns !== null) await ipBatch(plan.witnessCommands(), plan.witnessNetns);
    await Promise.all([
      ...plan.clients.map((client) => ipBatch(plan.clientCommands(client), client.netns)),
      ...plan.hosts.map((host) => ipBatch(plan.hostCommands(host), host.netns)),
    ]);
  }

  #inodesOf(names: readonly string[]): Set<number> {
    return new Set(names.map((name) => this.#inodes.get(name)!));
  }
}

interface PlannedClient {
  name: string;
  netns: string;
  address: string;
  /** Interface of the switch that leads here. */
  port: string;
  /** Last part of its addresses. */
  number: number;
}

interface PlannedHost extends PlannedClient {
  appNetns: string;
}

/** Names and addresses of a topology, and the commands that make it. */
class Plan {
  readonly id: string;
  readonly switchNetns: string;
  readonly clients: PlannedClient[];
  readonly hosts: PlannedHost[];
  readonly links: LinkName[];
  /** Namespace of the witness; null for none. */
  readonly witnessNetns: string | null;
  readonly insecure: boolean;
  readonly #ipv6: boolean;
  readonly #mtu: number;
  readonly #clientMtu: number;

  constructor(id: string, options: TopologyOptions) {
    const { ipv6 = false, mtu = MTU_DEFAULT, clients = 1, links = 1, hosts = ["a", "b"] } = options;
    this.id = id;
    this.insecure = options.insecure ?? false;
    this.switchNetns = `${id}-switch`;
    this.witnessNetns = options.witness === true ? `${id}-witness` : null;
    this.#ipv6 = ipv6;
    this.#mtu = inRange("mtu", mtu, [MTU_MIN, MTU_MAX]);
    this.#clientMtu = inRange("clientMtu", options.clientMtu ?? mtu, [MTU_MIN, MTU_MAX]);
    inRange("number of clients", clients, [1, CLIENTS_MAX]);
    inRange("number of links", links, [1, 2]);
    inRange("number of hosts", hosts.length, [1, HOSTS_MAX]);
    this.links = hosts.length === 1 ? [] : (["repl0", "repl1"] as const).slice(0, links);
    this.clients = Array.from({ length: clients }, (_, index) => ({
      name: `client${index}`,
      netns: `${id}-client${index}`,
      address: this.address("client", FIRST_CLIENT + index),
      port: `p-c${index}`,
      number: FIRST_CLIENT + index,
    }));
    this.hosts = hosts.map((name, index) => {
      if (!/^[a-z][a-z0-9]{0,7}$/.test(name) || /^(switch|witness|client\d*|c\d+)$/.test(name)) {
        throw new RangeError(
          `Cannot call a host "${name}": allowed are a letter and up to 7 letters and digits, but not ` +
            `"switch", "client0" or "c0"`,
        );
      }
      return {
        name,
        netns: `${id}-${name}`,
        appNetns: `${id}-${name}-app`,
        address: this.address("client", index + 1),
        port: `p-${name}`,
        number: index + 1,
      };
    });
  }

  host(name: string): PlannedHost {
    const host = this.hosts.find((host) => host.name === name);
    if (host !== undefined) return host;
    const known = this.hosts.map(({ name }) => name).join(", ");
    throw new RangeError(`Cannot find a host called "${name}": there are ${known}`);
  }

  namespaces(): string[] {
    return [
      this.switchNetns,
      ...this.witnessNetns === null ? [] : [this.witnessNetns],
      ...this.clients.map(({ netns }) => netns),
      ...this.hosts.flatMap(({ netns, appNetns }) => [netns, appNetns]),
    ];
  }

  /** Interfaces of a host. */
  linksOf(): string[] {
    return ["eth0", ...this.links, ...this.witnessNetns === null ? [] : ["wit0"]];
  }

  address(network: LinkName, number: number): string {
    if (network === "client") return this.#ipv6 ? `fd77::${number}` : `10.77.0.${number}`;
    if (network === "repl0") return this.#ipv6 ? `fd78::${number}` : `10.78.0.${number}`;
    return this.#ipv6 ? `fd78:0:0:1::${number}` : `10.78.1.${number}`;
  }

  /** Address on the cable between host `host` and the witness. */
  #witnessAddress(host: number, number: number): string {
    return this.#ipv6 ? `fd79:0:0:${host}::${number}` : `10.79.${host}.${number}`;
  }

  witnessListen(): string {
    return `${this.#ipv6 ? "[::]" : "0.0.0.0"}:${WITNESS_PORT}`;
  }

  /** What a host's configuration says of the witness. */
  arbiterOf({ number }: PlannedHost): { kind: "witness"; address: string } {
    const address = this.#witnessAddress(number, WITNESS);
    const port = `:${WITNESS_PORT}`;
    return { kind: "witness", address: (this.#ipv6 ? `[${address}]` : address) + port };
  }

  /** Run on the witness. */
  witnessCommands(): string[] {
    const bits = this.#ipv6 ? "64 nodad" : "24";
    return [
      "link set lo up",
      ...this.hosts.flatMap(({ name, netns, number }) => [
        `link add wit-${name} type veth peer name wit0 netns ${netns}`,
        `address add ${this.#witnessAddress(number, WITNESS)}/${bits} dev wit-${name}`,
        `link set wit-${name} up`,
      ]),
    ];
  }

  /** Where a host meets another one on a link: each pair has a port, and the one above it. */
  endpoint(link: LinkName, host: PlannedHost, other: PlannedHost): string {
    const address = this.address(link, host.number);
    const port = REPLICATION_PORT + 2 * (host.number + other.number - 3);
    return this.#ipv6 ? `[${address}]:${port}` : `${address}:${port}`;
  }

  switchCommands(): string[] {
    const commands = [`link add br0 mtu ${this.#mtu} type bridge mcast_snooping 0`];
    const add = ({ netns, port }: PlannedClient, mtu: number) => {
      commands.push(
        `link add ${port} mtu ${mtu} type veth peer name eth0 mtu ${mtu} netns ${netns}`,
        `link set ${port} master br0 addrgenmode none up`,
      );
    };
    for (const client of this.clients) add(client, this.#clientMtu);
    for (const host of this.hosts) add(host, this.#mtu);
    commands.push("link set br0 addrgenmode none up");
    return commands;
  }

  /** Run on the switch: two hosts have a cable between them, more have a switch for each link. */
  replicationCommands(): string[] {
    const mtu = `mtu ${this.#mtu}`;
    if (this.hosts.length === 2) {
      const [{ netns: one }, { netns: other }] = this.hosts;
      return this.links.map((link) =>
        `link add ${link} ${mtu} netns ${one} type veth peer name ${link} ${mtu} netns ${other}`
      );
    }
    return this.links.flatMap((link) => [
      `link add br-${link} ${mtu} type bridge mcast_snooping 0`,
      ...this.hosts.flatMap(({ netns, number }) => [
        `link add ${link}-${number} ${mtu} type veth peer name ${link} ${mtu} netns ${netns}`,
        `link set ${link}-${number} master br-${link} addrgenmode none up`,
      ]),
      `link set br-${link} addrgenmode none up`,
    ]);
  }

  clientCommands(client: PlannedClient): string[] {
    return ["link set lo up", ...this.#interfaceCommands(client, "client")];
  }

  hostCommands(host: PlannedHost): string[] {
    const networks = ["client", ...this.links] as LinkName[];
    return [
      "link set lo up",
      ...networks.flatMap((network) => this.#interfaceCommands(host, network)),
      ...this.witnessNetns === null ? [] : this.#witnessLink(host),
    ];
  }

  #witnessLink({ number }: PlannedHost): string[] {
    const bits = this.#ipv6 ? "64" : "24";
    const address = `${this.#witnessAddress(number, number)}/${bits}`;
    return [
      "link set wit0 addrgenmode none",
      `address add ${address} dev wit0${this.#ipv6 ? " nodad" : ""}`,
      ...this.upCommands({ number }, "wit0"),
    ];
  }

  #interfaceCommands({ number }: PlannedClient, network: LinkName): string[] {
    const name = network === "client" ? "eth0" : network;
    const bits = this.#ipv6 ? "64" : "24";
    const address = `${this.address(network, number)}/${bits}`;
    return [
      `link set ${name} addrgenmode none`,
      `address add ${address} dev ${name}${this.#ipv6 ? " nodad" : ""}`,
      ...this.upCommands({ number }, name),
    ];
  }

  /** A link-local address does not outlive its interface's going down; the others do. */
  upCommands({ number }: { number: number }, name: string): string[] {
    const commands = [`link set ${name} up`];
    if (this.#ipv6) commands.push(`address replace fe80::${number}/64 dev ${name} nodad`);
    return commands;
  }
}

function inRange(what: string, value: number, [least, most]: [number, number]): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new RangeError(
    `Cannot use ${value} as ${what}: allowed is a whole number from ${least} to ${most}`,
  );
}

/** Ends what runs in namespaces and removes them with the files that belong to them. */
function removeAll(names: readonly string[], inodes: readonly number[]): void {
  killAllIn(new Set(inodes));
  deleteNamespacesSync(names);
  for (const name of names) removeDirectory(`${NAMESPACE_FILES}/${name}`);
}

/** Removes a directory, and what a test that was killed has left mounted in it. */
function removeDirectory(path: string): void {
  for (const mount of Deno.readTextFileSync("/proc/self/mounts").split("\n")) {
    const at = mount.split(" ")[1];
    if (!at?.startsWith(`${path}/`)) continue;
    new Deno.Command("umount", { args: ["--lazy", at] }).outputSync();
  }
  try {
    Deno.removeSync(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** The id at the beginning of a name; null when it is none of ours. */
function idOf(name: string): string | null {
  const match = ID_PATTERN.exec(name);
  return match === null ? null : `hf${match[1]}_${match[2]}`;
}

/** Process id of the run with this id. */
function ownerOf(id: string): number {
  return parseInt(id.slice(2).split("_")[0], 36);
}

function temporaryDirectories(): { id: string; path: string }[] {
  const parent = Deno.env.get("TMPDIR") ?? "/tmp";
  const found: { id: string; path: string }[] = [];
  for (const { name } of Deno.readDirSync(parent)) {
    const id = name.startsWith(DIRECTORY_PREFIX) ? idOf(name.slice(DIRECTORY_PREFIX.length)) : null;
    if (id !== null) found.push({ id, path: `${parent}/${name}` });
  }
  return found;
}
