/**
 * replicas.ts - clients, two replicas and their servers in one process, one pass at a time
 *
 * Theory of operation
 * Everything between a client's and a server's TCP is the real core; the wires are arrays. One `step()`
 * is one pass of every replica: what clients and servers have to say goes in, what comes out is carried
 * on, message bodies reach the other replica in the next step and are confirmed in the one after.
 *
 *   Endpoint (client) ── net ──> primary core ── app ──> Endpoint (server)
 *                                    │ bodies     ^ committed
 *                                    v            │
 *                                standby core ── app ──> Endpoint (server)
 *
 * A third replica may follow the standby, which hands on to it what it is told itself (runtime/protocol/chain.ts):
 *
 *                                standby core ── the same bodies ──> next core ── app ──> Endpoint (server)
 *
 * In log mode a standby has no servers, unless its host is warm; `killServers()` and `startServers()` do what the
 * loop's recoverer does, and probes are answered here.
 *
 * The servers' programs are functions of their input, as Holdfast asks of them, unless a test means
 * them not to be. `fate()` decides what becomes of each packet on the clients' wire, `isDropped()` of
 * each from a server to its core. Checked at every step: a standby says nothing to clients, and no
 * client is reset, unless a test lets it.
 */
import { ok, strictEqual } from "node:assert/strict";
import { RecordFlag, Staying } from "../../runtime/core.ts";
import { Keepers } from "../../runtime/protocol/keepers.ts";
import {
  CLIENT_V4,
  CLIENT_V6,
  Driver,
  on,
  PORT,
  Reason,
  SERVICE_V4,
  SERVICE_V6,
} from "./core_driver.ts";
import type { DiskHost } from "./disk_host.ts";
import { clientPortOf, Endpoint } from "./endpoint.ts";
import { buildPacket, packetOf, parsePacket, TcpFlag } from "./twin.ts";

/** Steps after which timers run out though something moves all the time. */
const TIMERS_AFTER = 500;

/** One host: its core, and what its kernel holds. */
export interface Host {
  /** The core. */
  driver: Driver;
  /** The server's ends, by the client's port. */
  servers: Map<number, Endpoint>;
  /** Bodies that are on their way here. */
  inbox: { seq: number; body: Uint8Array }[];
  /** What the one that follows it has said. */
  reports: Uint8Array[];
  /** The next body is that of another primary. */
  isLed: boolean;
  /** Number of the last message applied here. */
  applied: number;
  /** Number of the last one that is kept as it must be: durable, with a disk. */
  kept: number;
  /** Where its log is; null for in memory. */
  disk: DiskHost | null;
  /** Primary: who must have what it tells. */
  keepers: Keepers;
  /** Messages not read for so many steps: a slow standby. */
  lag: number;
  /** Its servers are dead. */
  down: boolean;
  /** Log mode: its servers are fed while it stands by, too. */
  isWarm: boolean;
  /** What its kernel has answered to probes. */
  answers: Uint8Array[];
}

/** What the program behind a new server's end does. */
export type Program = (server: Endpoint, clientPort: number) => void;

/** How a service is made. */
export interface ReplicasOptions {
  /** Address family. */
  family?: 4 | 6;
  /** When client-bound segments may leave. */
  commit?: "strict" | "ack";
  /** The server's program. */
  program: Program;
  /** False for servers' kernels that wait for no ACK; true if not given. */
  slowStart?: boolean;
  /** Octets of input kept for one connection. */
  logLimit?: number;
  /** Hot mode: octets of each connection that are kept for a standby that comes later; default 0. */
  keep?: number;
  /** Both streams of a connection are HTTP/1.1: the log is cut. */
  hint?: boolean;
  /** What becomes of a packet on the clients' wire: copies that arrive, and after how many steps. */
  fate?: () => number[];
  /** First sequence number and timestamp of the next server's end. */
  number?: () => number;
  /** Log mode; `warm` says of the first, second ... host that is made whether it is warm, none if not given. */
  log?: { holds: boolean; warm?: readonly boolean[] };
  /** Without a standby. */
  alone?: boolean;
  /** More than two replicas: a third one may follow the standby. */
  chained?: boolean;
  /** The first host's log is on a disk, in log mode. */
  disk?: DiskHost;
  /** And the second host's on another one. */
  standbyDisk?: DiskHost;
  /** Habits of the two hosts' servers. */
  scale?: [number, number];
  /** Octets of their segments. */
  mss?: [number, number];
  /** What becomes of connections whose servers wrote different octets. */
  divergence?: "reset" | "unprotect" | "ignore";
  /** A packet from a server never reaches the core. */
  isDropped?: () => boolean;
  /** Octets of a message that bring a standby what it has missed. */
  tellOctets?: number;
  /** Replicas that must have what leaves, beside the primary; default 1. */
  copies?: 1 | 2;
  /** Clients may be reset; "late": those that have read all, and only lack the ACK of their FIN. */
  mayReset?: boolean | "late";
  /** Records of each core; the more there are, the less memory is left for what is parked. */
  capacity?: number;
}

/** A service on two hosts. */
export class Replicas {
  /** Milliseconds. */
  nowMs = 1_000_000;
  /** The clients. */
  readonly clients = new Map<number, Endpoint>();
  /** Who speaks. */
  primary: Host;
  /** Who follows, if anybody does. */
  standby: Host | null;
  /** Who follows the standby, if anybody does. */
  next: Host | null = null;
  /** What is being told again to the latter: see core.retell(); 0 for nothing. */
  #tellBelow = 0;
  readonly #options: ReplicasOptions;
  readonly #family: 4 | 6;
  #made = 0;
  #hosts = 0;
  #wire: { dueStep: number; packet: Uint8Array; to: "client" | "service" }[] = [];
  #step = 0;

  /** Starts a primary and, unless told otherwise, its standby. */
  constructor(options: ReplicasOptions) {
    this.#options = options;
    this.#family = options.family ?? 4;
    this.primary = this.#host(options.disk ?? null);
    this.standby = null;
    options.disk?.start(this.primary.driver, this.nowMs);
    this.#lead(this.primary);
    this.primary.driver.core.wasm.promote(Staying[options.disk === undefined ? "nobody" : "store"]);
    if (options.log !== undefined) this.primary.driver.core.wasm.replay();
    if (options.alone !== true) this.join();
  }

  /** The standby has all connections that it can be told of, whole. */
  get isWhole(): boolean {
    const { wasm } = this.primary.driver.core;
    return wasm.bringing() === 0 && wasm.joining() === 0;
  }

  /** A new standby joins: connections that begin from now on are protected, and older ones that are kept. */
  join(): void {
    const { disk = null, standbyDisk = null } = this.#options;
    this.standby = this.#host(this.primary.disk === disk ? standbyDisk : disk);
    const { driver, disk: own } = this.standby;
    if (own !== null) {
      own.start(driver, this.nowMs);
      own.log.beginAnew();
      while (!own.log.isClear) own.after();
      driver.core.wasm.forgetAll(1);
      own.log.noteForgotten();
      own.log.changeSource(false);
    }
    driver.core.wasm.setRole(1);
    driver.core.wasm.setPeerLogLimit(this.#logLimit);
    const { keepers, driver: { core: { wasm } } } = this.primary;
    wasm.standbyJoined(this.#logLimit);
    keepers.add("standby", wasm.messageSeq());
  }

  /** A host is primary from now on, with a standby that has confirmed the messages up to `confirmed`, or none. */
  #lead(host: Host, confirmed: number | null = null): void {
    const { disk, driver, keepers } = host;
    const next = driver.core.wasm.messageSeq();
    keepers.clear();
    if (confirmed !== null) keepers.add("standby", confirmed + 1);
    else {
      // Whoever joins counts its messages anew.
      host.applied = 0;
      host.kept = 0;
    }
    if (disk === null) return;
    disk.log.changeSource(true);
    keepers.add("disk", next);
  }

  /** The standby is gone, and the primary goes on. */
  dropStandby(): void {
    const { keepers, driver: { core: { wasm } } } = this.primary;
    this.standby = null;
    keepers.remove("standby");
    if (keepers.isEmpty) wasm.standbyLost();
    else wasm.standbyLeft();
  }

  /** Both logs on disk hold all connections, as far as clients have been told of them. */
  get isStored(): boolean {
    return this.isWhole && this.primary.disk!.log.keepsAll && this.standby!.disk!.log.keepsAll;
  }

  /** A third replica follows the standby. */
  joinNext(): void {
    const { primary, standby } = this;
    if (standby === null) throw new Error("Cannot follow: there is no standby");
    this.next = this.#host(null);
    const { wasm } = this.next.driver.core;
    wasm.setRole(1);
    wasm.setPeerLogLimit(this.#logLimit);
    this.next.applied = standby.applied;
    this.next.kept = standby.applied;
    standby.driver.core.wasm.loseNext();
    this.#tellBelow = primary.driver.core.wasm.retell();
  }

  /** The third replica has been told of all that lives, its servers are as far, and nothing is on its way to it. */
  get isNextWhole(): boolean {
    const { next, standby } = this;
    if (next === null || this.#tellBelow > 0 || standby!.inbox.length > 0) return false;
    const { driver } = next;
    const reasons = Array.from(
      { length: driver.core.wasm.highWater() },
      (_, i) => driver.core.wasm.recordAt(i) === 0 ? Reason.none : driver.field(i, "reason"),
    );
    const isBehind = reasons.some((reason) =>
      reason === Reason.joining || reason === Reason.pending
    );
    return next.inbox.length === 0 && !isBehind && standby!.reports.length === 0;
  }

  /** Clients' ports of the connections that are protected, as the primary sees it. */
  keptPorts(): number[] {
    return this.#ports(() => true);
  }

  /** The same of those that the standby's servers follow, and could serve at once, where whole logs are kept. */
  warmPorts(): number[] {
    const { driver } = this.primary;
    return this.#ports((index) => driver.field(index, "warm") === 1);
  }

  #ports(isMeant: (index: number) => boolean): number[] {
    const { driver } = this.primary;
    const ports = [];
    for (let i = 0; i < driver.core.wasm.highWater(); i++) {
      if (driver.core.wasm.recordAt(i) === 0 || driver.field(i, "reason") !== Reason.none) continue;
      if ((driver.field(i, "flags") & RecordFlag.hot) !== 0 && isMeant(i)) {
        ports.push(driver.field(i, "ports") & 0xffff);
      }
    }
    return ports;
  }

  /** A client begins to connect. */
  connect(
    port: number,
    options: { stamps?: boolean; sack?: boolean; scale?: number | null; window?: number } = {},
  ): Endpoint {
    const { stamps = true, sack = true, scale = 7, window = 65535 } = options;
    const client = new Endpoint({
      local: this.#family === 4 ? CLIENT_V4 : CLIENT_V6,
      localPort: port,
      remote: this.#family === 4 ? SERVICE_V4 : SERVICE_V6,
      remotePort: PORT,
      iss: this.#number(),
      scale,
      window,
      stampOffset: stamps ? this.#number() : null,
      sack,
      mss: 1448,
      slowStart: true,
      clock: () => this.nowMs,
      forgets: true,
    });
    client.connect();
    this.clients.set(port, client);
    return client;
  }

  /** One pass of everything; true when anything moved. */
  step(): boolean {
    this.#step++;
    this.nowMs++;
    for (const client of this.clients.values()) {
      for (const packet of client.take()) this.#send(packet, "service");
    }
    const arrived = this.#wire.filter(({ dueStep }) => dueStep <= this.#step);
    this.#wire = this.#wire.filter(({ dueStep }) => dueStep > this.#step);
    const toService = arrived.filter(({ to }) => to === "service").map(({ packet }) => packet);
    let moved = arrived.length > 0 || this.#wire.length > 0;
    for (const { to, packet } of arrived) {
      if (to === "client") this.clients.get(clientPortOf(packet))?.receive(packet);
    }
    const { primary, standby } = this;
    if (this.#pass(primary, standby, toService)) moved = true;
    if (standby !== null && this.#pass(standby, primary, [])) moved = true;
    if (this.next !== null && this.#pass(this.next, standby, [])) moved = true;
    const { mayReset = false } = this.#options;
    for (const { state, ended, lacksOnlyAck } of mayReset === true ? [] : this.clients.values()) {
      const isLate = mayReset === "late" && ended && lacksOnlyAck;
      strictEqual(state === "reset" && !isLate, false);
    }
    return moved;
  }

  /**
   * Steps until `done` says so; when nothing moves, time passes and timers run out.
   *
   * @throws {Error} When that takes more than `limit` steps.
   */
  run(done: () => boolean, limit = 20000): void {
    for (let i = 0, idle = 0; i < limit; i++) {
      if (done()) return;
      idle = this.step() ? 0 : idle + 1;
      // A disk that is told again of all that lives, as soon as a segment is full, never rests.
      if (idle < 4 && (i + 1) % TIMERS_AFTER !== 0) continue;
      this.#timeouts();
      idle = 0;
    }
    throw new Error(`Cannot finish within ${limit} steps: ${this.describe()}`);
  }

  /** Lets time pass without anything being sent. */
  wait(ms: number): void {
    this.nowMs += ms;
    this.step();
  }

  /**
   * The primary's host vanishes; its standby goes on alone. What is on the wire still arrives, but for
   * the last `lost` messages between the replicas: nothing can have been released for them.
   */
  crash(lost = 0): void {
    const { next, standby } = this;
    if (standby === null) throw new Error("Cannot take over: there is no standby");
    standby.inbox.splice(Math.max(0, standby.inbox.length - lost));
    // What had been received is applied first (drain), then the address is claimed.
    this.#settle(standby);
    this.primary = standby;
    this.standby = next;
    this.next = null;
    this.#tellBelow = 0;
    standby.driver.nowMs = this.nowMs;
    this.#lead(standby, next?.kept ?? null);
    if (next === null) {
      const staying = standby.disk === null ? "nobody" : "store";
      return this.#deliver(standby, standby.driver.takeOver(staying));
    }
    standby.driver.core.wasm.goOnAfter(standby.applied, next.kept);
    next.isLed = true;
    this.#deliver(standby, standby.driver.takeOver("next"));
  }

  /** Primary and standby vanish at one moment; the last `lost` messages to the third replica are lost too. */
  crashBoth(lost = 0): void {
    const { next } = this;
    if (next === null) throw new Error("Cannot take over: there is no third replica");
    this.standby = next;
    this.next = null;
    this.crash(lost);
  }

  /**
   * All daemons and servers die, or their hosts lose their power, and one host starts again after `awayMs`
   * with what is on its disk: the primary's, or with `swaps` the standby's. What is on the wire to the
   * service is lost.
   */
  startAgain(
    how: "killed" | "power",
    { awayMs, calls, swaps = false }: { awayMs: number; calls: number; swaps?: boolean },
  ): void {
    const { primary, standby } = this;
    primary.disk!.fail(how);
    standby?.disk?.fail(how);
    const disk = (swaps ? standby!.disk : primary.disk)!;
    this.#wire = this.#wire.filter(({ to }) => to === "client");
    this.nowMs += awayMs;
    this.primary = this.#host(disk);
    this.standby = null;
    this.primary.down = true;
    const { driver } = this.primary;
    driver.nowMs = this.nowMs;
    disk.start(driver, this.nowMs, calls);
    this.#lead(this.primary);
    this.#deliver(this.primary, driver.takeOver("store"));
  }

  /** A planned switch: both hosts stay, in exchanged roles. */
  switchOver(): void {
    const { primary, standby } = this;
    if (standby === null) throw new Error("Cannot switch: there is no standby");
    const { wasm } = primary.driver.core;
    for (let i = 0; wasm.heldCount() > 0 || wasm.isInputCommitted() === 0; i++) {
      if (i === 100) throw new Error("Cannot switch: output is still held after 100 passes");
      this.#exchange(primary, standby);
    }
    wasm.markAll();
    while (wasm.dirty() !== 0) this.#exchange(primary, standby);
    wasm.demote();
    primary.keepers.clear();
    primary.disk?.log.changeSource(false);
    wasm.relay(1);
    this.#settle(standby);
    [this.primary, this.standby] = [standby, primary];
    standby.driver.nowMs = this.nowMs;
    this.#lead(standby, standby.driver.core.wasm.messageSeq() - 1);
    this.#deliver(standby, standby.driver.takeOver("peer"));
    wasm.relay(0);
    // In log mode only the primary runs servers.
    if (this.#options.log !== undefined && !primary.isWarm) primary.servers.clear();
  }

  /**
   * Log mode: a host's servers die. Their kernel ends the connections of some before the daemon knows.
   *
   * @param ends Says how: with FIN, or in silence.
   * @param host Default the primary.
   */
  killServers(ends: () => boolean = () => false, host: Host = this.primary): void {
    for (const server of host.servers.values()) if (ends()) server.end();
    host.down = true;
    this.step();
    host.servers.clear();
    host.answers = [];
    const { wasm } = host.driver.core;
    let more: boolean;
    do {
      wasm.begin(this.nowMs >>> 0);
      more = wasm.detach() !== 0;
      this.#deliver(host, host.driver.outputs(wasm.settle()));
    } while (more);
  }

  /** Log mode: a host, the primary if not given, has new servers. */
  startServers(host: Host = this.primary): void {
    host.down = false;
    const { wasm } = host.driver.core;
    wasm.begin(this.nowMs >>> 0);
    wasm.replay();
    this.#deliver(host, host.driver.outputs(wasm.settle()));
  }

  /** Numbers of all connections, for a failure's message. */
  describe(): string {
    const about = (name: string, host: Host | null) => {
      if (host === null) return `${name}: none`;
      const { driver } = host;
      const lines = [];
      for (let i = 0; i < driver.core.wasm.highWater(); i++) {
        if (driver.core.wasm.recordAt(i) === 0) continue;
        const fields = [
          "phase",
          "leg",
          "reason",
          "warm",
          "cold",
          "flags",
          "rcvNxt",
          "legAck",
          "cliAck",
          "sndNxt",
        ]
          .map((field) => `${field}=${driver.field(i, field as "phase")}`);
        lines.push(`  ${i}: ${fields.join(" ")}`);
      }
      return [`${name}: held ${driver.core.wasm.heldCount()}`, ...lines].join("\n");
    };
    return [about("primary", this.primary), about("standby", this.standby)].join("\n");
  }

  get #logLimit(): number {
    return this.#options.logLimit ?? 1 << 18;
  }

  #number(): number {
    return this.#options.number?.() ?? 1000 * ++this.#made;
  }

  #host(disk: DiskHost | null): Host {
    const { commit = "strict", divergence = "reset", capacity = 64, log } = this.#options;
    const driver = new Driver({
      family: this.#family,
      commit,
      divergence,
      capacity,
      logLimit: this.#logLimit,
      chained: this.#options.chained,
    });
    const isWarm = log?.warm?.[this.#hosts++] === true;
    if (log !== undefined) driver.core.wasm.setLogMode(log.holds ? 1 : 0, isWarm ? 1 : 0);
    if (isWarm) driver.core.wasm.replay();
    driver.core.wasm.setKeep(this.#options.keep ?? 0);
    driver.core.wasm.setHint(this.#options.hint === true ? 1 : 0);
    const fresh = { applied: 0, kept: 0, lag: 0, down: false, isLed: false, isWarm };
    const queues = { inbox: [], reports: [], answers: [] };
    return { driver, disk, servers: new Map(), keepers: new Keepers(), ...queues, ...fresh };
  }

  #send(packet: Uint8Array, to: "client" | "service"): void {
    for (const steps of this.#options.fate?.() ?? [0]) {
      this.#wire.push({ dueStep: this.#step + steps, packet, to });
    }
  }

  /** One pass of one host; true when anything moved. */
  #pass(host: Host, peer: Host | null, net: Uint8Array[] | "frozen"): boolean {
    const { driver } = host;
    driver.nowMs = this.nowMs;
    const frozen = net === "frozen";
    const said = frozen ? [] : [...host.servers.values()].flatMap((server) => server.take());
    // What was answered in the last pass stands before what is said now, as in a device's queue.
    const app = (frozen ? [] : host.answers).concat(
      said.filter(() => !this.#options.isDropped?.()),
    );
    host.answers = [];
    let messages: Host["inbox"] = [];
    if (host.lag > 0) host.lag--;
    else {
      messages = host.inbox;
      if (host === this.standby) this.next?.inbox.push(...messages);
      host.applied = messages.at(-1)?.seq ?? host.applied;
      host.inbox = [];
    }
    const bodies = messages.map(({ body }) => body);
    this.#hearKeepers(host, peer);
    if (host.isLed && bodies.length > 0) {
      host.isLed = false;
      driver.core.wasm.noteNewPrimary();
    }
    for (const body of host.reports.splice(0)) driver.applyNext(body);
    const outputs = driver.pass({ net: frozen ? [] : net, app, bodies });
    const isPrimary = host === this.primary;
    const isTelling = driver.core.wasm.bringing() !== 0 || this.#tellBelow > 0;
    if (isPrimary && peer !== null && isTelling) {
      const octets = this.#options.tellOctets ?? 1 << 17;
      if (driver.core.wasm.tellAgain(this.#tellBelow, octets) === 0) this.#tellBelow = 0;
    }
    const { disk } = host;
    if (disk === null || isPrimary) host.kept = host.applied;
    else for (const message of messages) ok(disk.put({ ...message, urgent: true }));
    const own = isPrimary ? disk?.message() ?? null : null;
    const isHeld = own !== null && !disk!.put(own);
    const message = isHeld ? null : driver.takeBody();
    if (message !== null && host === this.next) peer?.reports.push(message.body);
    else if (message !== null && peer !== null) peer.inbox.push(message);
    const isStoring = disk?.after() ?? false;
    this.#deliver(host, outputs);
    if (isStoring) return true;
    if (driver.core.wasm.endsHeld() !== 0) this.#askAboutEnds(host);
    const isSaid = message !== null && peer !== null;
    return outputs.length > 0 || bodies.length > 0 || isSaid || host.inbox.length > 0;
  }

  /** Before a pass: what is kept by now, here and at the other host. */
  #hearKeepers(host: Host, peer: Host | null): void {
    const { disk, keepers, driver: { core: { wasm } } } = host;
    const news = disk?.before(this.nowMs) ?? null;
    const isPrimary = host === this.primary;
    if (news === "moved" && !isPrimary) host.kept = disk!.log.storedSeq!;
    if (!isPrimary) return;
    switch (news) {
      case "lost":
        keepers.remove("disk");
        if (keepers.isEmpty) wasm.storeLost();
        break;
      case "rejoins":
        if (keepers.isEmpty) wasm.standbyJoined(this.#logLimit);
        keepers.add("disk", wasm.messageSeq());
        break;
      case "moved":
        keepers.confirm("disk", disk!.log.storedSeq!, wasm.messageSeq());
    }
    if (peer !== null) {
      const isBoth = this.next !== null && this.#options.copies === 2;
      const kept = isBoth ? Math.min(peer.kept, this.next!.kept) : peer.kept;
      keepers.confirm("standby", kept, wasm.messageSeq());
    }
    const { committed } = keepers;
    if (committed !== null) wasm.committed(committed);
  }

  #deliver(host: Host, outputs: ReturnType<Driver["pass"]>): void {
    const toClients = on("net", outputs);
    if (host !== this.primary) strictEqual(toClients.length, 0, "a standby spoke to a client");
    for (const packet of toClients) this.#send(packet, "client");
    for (const packet of on("app", outputs)) this.#serverOf(host, packet)?.receive(packet);
  }

  /** What the loop does while ends are held: confirms them, or asks whether anybody listens. */
  #askAboutEnds(host: Host): void {
    const { wasm } = host.driver.core;
    wasm.begin(this.nowMs >>> 0);
    if (wasm.probeAnswer() === 1) wasm.confirmEnds();
    if (wasm.endsHeld() !== 0) wasm.probe(PORT, 0);
    this.#deliver(host, host.driver.outputs(wasm.settle()));
  }

  /** What a kernel answers to a probe. */
  #answer(host: Host, packet: Uint8Array): void {
    const { source, destination, sourcePort, destinationPort, seq, flags } = parsePacket(packet);
    if ((flags & TcpFlag.syn) === 0) return;
    host.answers.push(buildPacket(packetOf({
      source: destination,
      destination: source,
      sourcePort: destinationPort,
      destinationPort: sourcePort,
      ack: (seq + 1) >>> 0,
      flags: TcpFlag.ack | (host.down ? TcpFlag.rst : TcpFlag.syn),
    })));
  }

  /** Else it is from the one that does not exist, core/segment/probe.ts. */
  #isFromClient(packet: Uint8Array): boolean {
    const client = this.#family === 4 ? CLIENT_V4 : CLIENT_V6;
    const { source } = parsePacket(packet);
    return client.every((octet, index) => source[index] === octet);
  }

  #serverOf(host: Host, packet: Uint8Array): Endpoint | undefined {
    const port = clientPortOf(packet);
    const known = host.servers.get(port);
    if (!this.#isFromClient(packet)) {
      this.#answer(host, packet);
      return undefined;
    }
    if (host.down || (known !== undefined && !known.isFollowedBy(packet))) return known;
    const mayServe = this.#options.log === undefined || host.isWarm || host === this.primary;
    ok(mayServe, "a standby has a server");
    const index = host === this.primary ? 0 : 1;
    const server = new Endpoint({
      local: this.#family === 4 ? SERVICE_V4 : SERVICE_V6,
      localPort: PORT,
      remote: this.#family === 4 ? CLIENT_V4 : CLIENT_V6,
      remotePort: port,
      iss: this.#number(),
      scale: this.#options.scale?.[index] ?? 7,
      window: 65535,
      stampOffset: this.#number(),
      sack: true,
      slowStart: this.#options.slowStart ?? true,
      mss: this.#options.mss?.[index] ?? 1448,
      clock: () => this.nowMs,
    });
    server.listen();
    this.#options.program(server, port);
    host.servers.set(port, server);
    return server;
  }

  /** Applies all that is on its way to `host`. */
  #settle(host: Host): void {
    host.lag = 0;
    this.#pass(host, null, "frozen");
  }

  /** A pass of both while the primary reads nothing, neither from clients nor from its servers. */
  #exchange(primary: Host, standby: Host): void {
    this.nowMs++;
    standby.lag = 0;
    this.#pass(primary, standby, "frozen");
    this.#pass(standby, primary, []);
  }

  #timeouts(): void {
    this.nowMs += 250;
    const hosts = [this.primary, this.standby, this.next].filter((host) => host !== null);
    for (
      const end of [...this.clients.values(), ...hosts.flatMap((h) => [...h.servers.values()])]
    ) {
      end.timeout();
    }
  }
}
