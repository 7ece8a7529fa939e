/**
 * world.ts - one simulated run: two hosts, a register, clients, the networks between, and faults
 *
 * Theory of operation
 * Everything random comes from the seed, everything timed from clock.ts, so a seed repeats a run to
 * the last packet; `digest` sums up all that was noted on the way.
 *
 *   calm     the hosts find their roles
 *   storm    clients come and go; faults of faults.ts at random moments; safety is checked
 *   healed   everything is mended; every connection must end well, or have an excuse
 *   quiet    long enough for records of ended connections to go: nothing may be left
 *
 * Simulated: the clients' and servers' kernels (endpoint.ts), clocks that drift, both networks, the
 * switch that learns from announcements who has the address, the daemons' TCP (stream.ts), the
 * register's way and time (its rule is the real one), disks. Real: core and protocol.
 *
 * An excuse: a connection whose speaker had no standby for it, or no longer, may be lost with that
 * speaker: then both replicas have failed (DESIGN 1). With one single failure nobody has an excuse.
 */
import { decide, type RegisterValue } from "../../runtime/protocol/register.ts";
import type { Claim } from "../../runtime/protocol/register.ts";
import { Random } from "../net/random.ts";
import { CLIENT_V4, PORT, SERVICE_V4 } from "../unit/core_driver.ts";
import { clientPortOf } from "../unit/endpoint.ts";
import { buildPacket, packetOf, parsePacket, TcpFlag } from "../unit/twin.ts";
import { Bounded } from "./checks/bounded.ts";
import { type Check, type Scene, type Told, Violation } from "./checks/check.ts";
import { Epochs } from "./checks/epochs.ts";
import { Gapless } from "./checks/gapless.ts";
import { NoEarlyEnd } from "./checks/no_early_end.ts";
import { OneVoice } from "./checks/one_voice.ts";
import { OutputCommit } from "./checks/output_commit.ts";
import { Progress } from "./checks/progress.ts";
import { StateFirst } from "./checks/state_first.ts";
import { Clock } from "./clock.ts";
import { type Mutant, SimHost, type Surroundings, type TakeoverStep } from "./host.ts";
import { End, type Path } from "./stream.ts";
import { Client, type Plan, runProgram, Socket } from "./traffic.ts";

const HEARTBEAT_MS = 10;
const DETECT = 3;
/** A question to the register is given up after so long. */
const ANSWER_MS = 350;
/** Steps of one pass; the core's output list has 4096 entries. */
const STEPS_MAX = 20_000;
/** Lines of the trace that are kept. */
const TRACE_LINES = 120;
const FIRST_PORT = 40000;
/** How often the switch makes sure of who has the address, milliseconds. */
const NEIGHBOUR_MS = 200;

/** How bad one network is. */
export interface Weather {
  /** Share of packets that are lost. */
  lossRatio: number;
  /** Share of packets that come twice. */
  doubleRatio: number;
  /** Longest time on the way, milliseconds; its spread reorders. */
  delayMsMax: number;
}

/** What happens to a daemon between two steps of a pass. */
export interface Strike {
  /** The step after which it happens; null for any. */
  step: string | null;
  /** So many such steps later. */
  left: number;
  /** It ends, or stops for a while. */
  act: () => void;
  /** It ends the daemon: allowed even right before the wire. */
  ends: boolean;
}

/** What kind of run it is. */
export interface Kind {
  /** The rule that its hosts break. */
  mutant: Mutant | null;
  /** Some clients ask over HTTP/1.1, and logs are cut. */
  hint: boolean;
  /** Hosts keep whole logs, each is hot or not, and servers die. */
  mixed: boolean;
}

/** What a run found. */
export interface Outcome {
  /** What was violated; null when everything held. */
  violation: Error | null;
  /** Sums up the run: equal for equal seeds. */
  digest: string;
  /** Connections that ended well. */
  done: number;
  /** Connections that were lost with an excuse. */
  lost: number;
  /** Takeovers and switches. */
  takeovers: number;
  /** The last lines of the trace. */
  trace: string[];
}

/** All of one run. */
export class World implements Surroundings, Path, Scene {
  readonly clock = new Clock();
  readonly random: Random;
  readonly hosts: [SimHost, SimHost];
  readonly commit: "strict" | "ack";
  /** Both streams of a connection are HTTP/1.1. */
  readonly hint: boolean;
  /** Whole logs are kept, and hosts may differ in mode. */
  readonly mixed: boolean;
  readonly clients = new Map<number, Client>();
  readonly told = new Map<number, Told>();
  /** The newest in which a host took over. */
  #newestEpoch = 0;
  /** Networks: clients', and between the replicas. */
  readonly weather = { clients: CALM, replicas: CALM };
  /**
   * Cut directions, "ab" and "ba" with the link's number or "*"; of one host "clients", "register",
   * "clog" (its frames wait) or "beats" (its datagrams alone are lost).
   */
  readonly cuts = new Set<string>();
  /** Longest time that the register takes, milliseconds. */
  registerMsMax = 3;
  /** Longest pause between two passes, milliseconds. */
  passMsMax = 0.5;
  /** By host. */
  readonly strikes = new Map<SimHost, Strike>();
  readonly trace: string[] = [];
  takeovers = 0;
  /** Faults are over. */
  isMended = false;
  /** The schedule lasts until records of ended connections must be gone. */
  awaitsRecords = false;
  readonly #checks: Check[];
  readonly #servers = new Map<string, Map<number, Socket>>();
  /** By host: its server's process, and which start of it that is. */
  readonly #programs = new Map<SimHost, { isWanted: boolean; runs: boolean; start: number }>();
  readonly #plans = new Map<SimHost, { atMs: number; version: number }>();
  readonly #mutant: Mutant | null;
  #register: RegisterValue | null = null;
  /** Whom the switch sends the service's packets to. */
  #owner: SimHost | null = null;
  #hash = 0x811c9dc5;

  /** Makes a world in which both hosts have just started. */
  constructor(
    seed: number,
    { mutant = null, hint = false, mixed = false }: Partial<Kind> = {},
  ) {
    this.random = new Random(seed);
    this.#mutant = mutant;
    this.hint = hint;
    this.mixed = mixed;
    const links = 1 + this.random.integer(2);
    this.commit = this.random.next() < 0.7 ? "strict" : "ack";
    const options = {
      heartbeatMs: HEARTBEAT_MS,
      detect: DETECT,
      commit: this.commit,
      arbiter: { answerMs: 1000, grantMs: 400, patienceMs: 0 },
      links,
      mutant,
      hint,
    } as const;
    const trueMs = () => this.clock.nowMs;
    const log = () => mixed ? { isWarm: this.random.next() < 0.6 } : null;
    this.hosts = [
      new SimHost("a", { ...options, log: log() }, { around: this, peer: "b", trueMs }),
      new SimHost("b", { ...options, log: log() }, { around: this, peer: "a", trueMs }),
    ];
    this.#checks = [
      new Gapless(),
      new OneVoice(this),
      new OutputCommit(this),
      new NoEarlyEnd(),
      new StateFirst(),
      new Bounded(this),
      new Epochs(),
      new Progress(this),
    ];
    for (const host of this.hosts) {
      host.rate = 1 + (this.random.next() - 0.5) * 0.004;
      this.boot(host);
    }
    this.#askNeighbours();
  }

  /** Now. */
  get nowMs(): number {
    return this.clock.nowMs;
  }

  /** Sums up all that was noted. */
  get digest(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, "0");
  }

  /** The other host. */
  other(host: SimHost): SimHost {
    return this.hosts[host === this.hosts[0] ? 1 : 0];
  }

  // Hosts -----------------------------------------------------------------------------------------

  /** Starts a daemon, on a machine that is started when it was off. */
  boot(host: SimHost): void {
    if (host.isUp) return;
    host.isPowered = true;
    host.stoppedUntilMs = 0;
    host.startMs = 1000 * this.random.next() - this.nowMs * host.rate;
    this.#servers.set(host.name, new Map());
    const start = (this.#programs.get(host)?.start ?? 0) + 1;
    // In hot mode servers never die alone.
    this.#programs.set(host, { isWanted: !this.mixed, runs: !this.mixed, start });
    host.start({ incarnation: this.random.seed(), beatSeq: this.random.seed() });
    this.note(host, "starts");
  }

  /** Ends a daemon: alone, with its sockets closed by the kernel, or with its machine. */
  kill(host: SimHost, machine: boolean): void {
    if (!host.isUp) return;
    this.note(host, machine ? "its machine ends" : "its daemon ends");
    this.strikes.delete(host);
    if (machine) host.isPowered = false;
    host.kill(!machine);
    const program = this.#programs.get(host);
    if (program !== undefined) program.start++;
    for (const server of this.#servers.get(host.name)?.values() ?? []) server.stop();
  }

  /** Stops a daemon for a while; packets wait for it. */
  stop(host: SimHost, ms: number): void {
    host.stoppedUntilMs = Math.max(host.stoppedUntilMs, this.nowMs + ms);
    this.note(host, `is stopped for ${ms.toFixed(1)}`);
  }

  isSilent(host: SimHost): boolean {
    return this.#isOffNetwork(host);
  }

  plan(host: SimHost, inMs: number): void {
    const plan = this.#plans.get(host) ?? { atMs: Infinity, version: 0 };
    this.#plans.set(host, plan);
    const atMs = Math.max(this.nowMs + inMs, host.stoppedUntilMs);
    if (atMs >= plan.atMs) return;
    plan.atMs = atMs;
    const version = ++plan.version;
    this.clock.after(atMs - this.nowMs, () => {
      if (version !== plan.version) return;
      plan.atMs = Infinity;
      if (!host.isUp) return;
      if (this.nowMs < host.stoppedUntilMs) this.plan(host, 0);
      else this.#resume(host);
    });
  }

  /** Lets a host work until its pass is over, or something strikes it. */
  #resume(host: SimHost): void {
    for (let steps = 0;; steps++) {
      const step = host.resume();
      if (step === null) break;
      if (steps > STEPS_MAX) this.fail("bounded", `${host.name} does not finish its pass: ${step}`);
      const strike = this.strikes.get(host);
      if (strike === undefined || (strike.step !== null && strike.step !== step)) continue;
      if ((step.endsWith("!") && !strike.ends) || --strike.left > 0) continue;
      this.strikes.delete(host);
      this.note(host, `struck at ${step}`);
      strike.act();
      if (!host.isUp) return;
      if (this.nowMs < host.stoppedUntilMs) return this.plan(host, 0);
    }
    for (const check of this.#checks) check.passed?.(host);
    this.plan(host, Math.max(0.02, Math.min(host.waitMs(), 100)) + this.#jitter());
  }

  #jitter(): number {
    return this.random.next() ** 8 * this.passMsMax;
  }

  note(host: SimHost | null, text: string): void {
    const line = `${this.nowMs.toFixed(3)} ${
      host === null ? "" : host.name + host.life + " "
    }${text}`;
    for (let i = 0; i < line.length; i++) {
      this.#hash = Math.imul(this.#hash ^ line.charCodeAt(i), 0x01000193);
    }
    this.trace.push(line);
    if (this.trace.length > TRACE_LINES) this.trace.shift();
  }

  stored(host: SimHost, epoch: number): void {
    for (const check of this.#checks) check.stored?.(host, epoch);
  }

  reached(host: SimHost, step: TakeoverStep): void {
    if (step === "adopted") {
      this.takeovers++;
      this.#newestEpoch = Math.max(this.#newestEpoch, host.replica.epoch);
    }
    for (const check of this.#checks) check.reached?.(host, step);
  }

  unprotected(host: SimHost, why: string, some?: number[]): void {
    const afresh = why.includes("afresh");
    const all = () => afresh ? this.clients.keys() : host.records().map(({ port }) => port);
    for (const port of some ?? all()) {
      const client = this.clients.get(port);
      if (client !== undefined && !client.done) client.excuse ??= `${why} (${host.name})`;
    }
  }

  brought(ports: number[]): void {
    for (const port of ports) {
      const client = this.clients.get(port);
      if (client?.excuse != null && /since it began/.test(client.excuse)) client.excuse = null;
    }
  }

  // Between the replicas --------------------------------------------------------------------------

  isCut(from: string, to: string, link?: number): boolean {
    if (this.cuts.has(`${from}${to}*`)) return true;
    if (link !== undefined) return this.cuts.has(`${from}${to}${link}`);
    // The channel goes over any one; it is as good as the first.
    return this.cuts.has(`${from}${to}0`) || this.cuts.has(`clog${from}`);
  }

  delayMs(): number {
    return 0.05 + this.random.next() ** 3 * this.weather.replicas.delayMsMax;
  }

  lifeOf(name: string): number | "kernel" | "off" {
    const host = this.hosts[name === "a" ? 0 : 1];
    return host.isUp ? host.life : host.isPowered ? "kernel" : "off";
  }

  sendBeat(host: SimHost, link: number, bytes: Uint8Array): void {
    const other = this.other(host);
    if (this.isCut(host.name, other.name, link) || this.cuts.has(`beats${host.name}`)) return;
    this.#copies(this.weather.replicas, () => other.receiveBeat(link, bytes));
  }

  connect(host: SimHost, _link: number): End | null {
    const other = this.other(host);
    const own = new End(this.#whose(host), { clock: this.clock, path: this });
    this.clock.after(this.delayMs(), () => {
      if (this.isCut(host.name, other.name) || this.isCut(other.name, host.name)) return;
      if (!other.isPowered || own.closed) return;
      const theirs = new End(this.#whose(other), { clock: this.clock, path: this });
      own.peer = theirs;
      theirs.peer = own;
      theirs.connected = true;
      if (!other.accept(theirs)) own.broken = "connection refused";
      else own.connected = true;
      own.wake();
    });
    // Nobody is there until then.
    own.peer = new End({ ...this.#whose(other), life: -1 }, { clock: this.clock, path: this });
    return own;
  }

  #whose(host: SimHost): ConstructorParameters<typeof End>[0] {
    const { life } = host;
    return {
      host: host.name,
      life,
      sinceMs: host.isUp ? host.clock() : 0,
      wake: () => {
        if (host.isUp && host.life === life) this.plan(host, 0.02);
      },
    };
  }

  // The register ----------------------------------------------------------------------------------

  ask(host: SimHost, ticket: number, claim: Claim | null): void {
    const { life } = host;
    let isDone = false;
    const finish = (answer: () => ReturnType<SimHost["replica"]["handleVerdict"]>) => {
      if (isDone || !host.isUp || host.life !== life) return;
      isDone = true;
      host.command(answer);
    };
    const tell = (value: RegisterValue | null | undefined, granted: boolean | undefined) =>
      finish(() => {
        const nowMs = host.clock();
        if (claim === null) return host.replica.handleRegister(ticket, value, nowMs);
        const verdict = granted === undefined
          ? { kind: "unreachable", ticket, why: "no answer" } as const
          : granted
          ? { kind: "granted", ticket } as const
          : { kind: "lost", ticket, value: value ?? null } as const;
        return host.replica.handleVerdict(verdict, nowMs);
      });
    this.clock.after(ANSWER_MS, () => tell(undefined, undefined));
    this.clock.after(this.#registerDelayMs(), () => {
      if (this.cuts.has(`register${host.name}`)) return;
      let granted = false;
      if (claim !== null) {
        const decision = decide(this.#register, claim);
        granted = decision.granted;
        if (decision.value !== null && decision.value !== this.#register) {
          this.#register = decision.value;
          for (const check of this.#checks) check.registered?.(decision.value);
        }
      }
      const value = this.#register;
      this.clock.after(this.#registerDelayMs(), () => {
        if (!this.cuts.has(`register${host.name}`)) tell(value, granted);
      });
    });
  }

  askOwner(host: SimHost): void {
    const other = this.other(host);
    if (this.#isOffNetwork(host)) return;
    this.#copies(this.weather.clients, () => {
      if (!this.#answers(other)) return;
      this.#copies(this.weather.clients, () => this.#tellRival(other));
    });
  }

  /** The other host hears that the address is this one's. */
  #tellRival(host: SimHost): void {
    const other = this.other(host);
    if (!this.#isOffNetwork(other)) other.hearRival(host.name);
  }

  #registerDelayMs(): number {
    return 0.2 + this.random.next() ** 2 * this.registerMsMax;
  }

  // Clients' network ------------------------------------------------------------------------------

  /** A client begins. */
  open(plan: Plan, options: { window: number; scale: number | null; stamps: boolean }): void {
    const iss = this.random.seed();
    const socket = new Socket(
      {
        local: CLIENT_V4,
        localPort: plan.port,
        remote: SERVICE_V4,
        remotePort: PORT,
        iss,
        scale: options.scale,
        window: options.window,
        stampOffset: options.stamps ? this.random.seed() : null,
        sack: true,
        mss: 1448,
        slowStart: true,
        clock: () => Math.floor(this.nowMs),
        streamMax: STREAM_OCTETS,
      },
      this.clock,
      (packet) => this.#toService(packet),
    );
    const client = new Client(plan, socket, iss);
    this.clients.set(plan.port, client);
    client.start(this.clock);
  }

  /** The next client's port. */
  get nextPort(): number {
    return FIRST_PORT + this.clients.size;
  }

  #copies({ lossRatio, doubleRatio, delayMsMax }: Weather, arrive: () => void): void {
    if (this.random.next() < lossRatio) return;
    const copies = this.random.next() < doubleRatio ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      this.clock.after(0.05 + this.random.next() ** 2 * delayMsMax, arrive);
    }
  }

  #toService(packet: Uint8Array): void {
    this.#copies(this.weather.clients, () => {
      const owner = this.#owner;
      if (owner === null || this.#isOffNetwork(owner)) return;
      owner.receiveNet(packet);
    });
  }

  toClients(host: SimHost, packet: Uint8Array): void {
    const parsed = parsePacket(packet);
    const port = parsed.destinationPort;
    const fin = parsed.flags & TcpFlag.fin ? 1 : 0;
    this.note(host, `to ${port} seq ${parsed.seq} ack ${parsed.ack} ${parsed.payload.length}`);
    if ((parsed.flags & TcpFlag.rst) === 0) {
      const record = host.records().find((each) => each.port === port);
      if (record !== undefined) {
        const known = this.told.get(port);
        const first = known?.first ?? (record.field("iss") + 1) >>> 0;
        const said = Math.max(0, ((parsed.seq - first) | 0) + parsed.payload.length + fin);
        const told = known ?? { ack: parsed.ack, said: 0, first };
        if (((parsed.ack - told.ack) | 0) > 0) told.ack = parsed.ack;
        told.said = Math.max(told.said, said);
        this.told.set(port, told);
      }
    }
    // One voice allows this for a while (checks/one_voice.ts); whoever is right knows nothing of it.
    const client = this.clients.get(port);
    if (client !== undefined && host.replica.epoch < this.#newestEpoch) {
      client.excuse ??= `it was spoken to in an epoch that had passed (${host.name})`;
    }
    if (this.#isOffNetwork(host)) return;
    for (const check of this.#checks) check.said?.(host, parsed);
    this.#copies(this.weather.clients, () => this.#heard(port, packet));
  }

  #heard(port: number, packet: Uint8Array): void {
    const client = this.clients.get(port);
    if (client === undefined) return;
    const { socket } = client;
    if (socket.endpoint.state === "reset") return this.#answerWithReset(packet);
    socket.receive(packet);
    const { endpoint } = socket;
    // A RST in LAST-ACK: the program has all; its kernel waited longer for an ACK than we linger to give it.
    const isLate = endpoint.state === "reset" && endpoint.ended && endpoint.lacksOnlyAck;
    if (!isLate) { for (const check of this.#checks) check.heard?.(client); }
    if (client.done || !endpoint.ended || !(endpoint.isDrained || isLate)) return;
    client.done = true;
    this.note(null, `client ${port} is done`);
  }

  /** A kernel that does not know the connection (RFC 9293 section 3.10.7.1). */
  #answerWithReset(bytes: Uint8Array): void {
    const { sourcePort, destinationPort, ack, flags } = parsePacket(bytes);
    if (flags & TcpFlag.rst) return;
    this.#toService(buildPacket(packetOf({
      source: CLIENT_V4,
      destination: SERVICE_V4,
      sourcePort: destinationPort,
      destinationPort: sourcePort,
      seq: ack,
      flags: TcpFlag.rst,
    })));
  }

  announce(host: SimHost): void {
    if (this.#isOffNetwork(host)) return;
    this.#copies(this.weather.clients, () => {
      this.#owner = host;
      this.#tellRival(host);
    });
  }

  /** A host's card on the clients' network is dead. */
  #isOffNetwork(host: SimHost): boolean {
    return this.cuts.has(`clients${host.name}`);
  }

  /** A host answers for the service address, and is heard. */
  #answers(host: SimHost): boolean {
    return host.answers && this.nowMs >= host.stoppedUntilMs && !this.#isOffNetwork(host);
  }

  #askNeighbours(): void {
    this.clock.after(NEIGHBOUR_MS, () => {
      if (this.#owner === null || !this.#answers(this.#owner)) {
        this.#owner = this.hosts.find((host) => this.#answers(host)) ?? this.#owner;
      }
      this.#askNeighbours();
    });
  }

  // Servers ---------------------------------------------------------------------------------------

  serve(host: SimHost, wanted: boolean): void {
    const program = this.#programs.get(host)!;
    if (program.isWanted === wanted) return;
    program.isWanted = wanted;
    if (wanted) return this.#startServer(host, 20 + this.random.next() * 200);
    this.#endServer(host);
  }

  lifeOfServer(host: SimHost): "runs" | "gone" {
    return this.#programs.get(host)!.runs ? "runs" : "gone";
  }

  /** A host's server dies, and is started again. */
  killServer(host: SimHost): void {
    const program = this.#programs.get(host)!;
    if (!host.isUp || !program.runs) return;
    this.note(host, "its server dies");
    this.#endServer(host);
    this.#tellServer(host, "SIGKILL");
    this.#startServer(host, 200 + this.random.next() * 200);
  }

  /** Its kernel ends its connections, or is not heard of them. */
  #endServer(host: SimHost): void {
    const program = this.#programs.get(host)!;
    program.runs = false;
    program.start++;
    for (const server of this.#servers.get(host.name)!.values()) {
      const { endpoint } = server;
      if (endpoint.state === "closed") continue;
      endpoint.onOctets = () => {};
      endpoint.onEnd = () => {};
      if (endpoint.state === "open" && this.random.next() < 0.7) endpoint.end();
      else endpoint.state = "reset";
      server.flush();
    }
  }

  #startServer(host: SimHost, inMs: number): void {
    const program = this.#programs.get(host)!;
    const { start } = program;
    this.clock.after(inMs, () => {
      if (program !== this.#programs.get(host) || program.start !== start || !host.isUp) return;
      program.runs = true;
      this.#tellServer(host, "runs");
    });
  }

  /** The main thread hears of it, and tells the loop. */
  #tellServer(host: SimHost, news: "runs" | "SIGKILL"): void {
    const program = this.#programs.get(host)!;
    const { start } = program;
    this.clock.after(this.random.next() ** 2 * 20, () => {
      if (program === this.#programs.get(host) && program.start === start) host.noteServer(news);
    });
  }

  /** The kernel answers a SYN that is no client's, or that nobody listens for. */
  #answerSyn(host: SimHost, bytes: Uint8Array): void {
    const { source, sourcePort, seq, flags } = parsePacket(bytes);
    if ((flags & (TcpFlag.syn | TcpFlag.ack)) !== TcpFlag.syn) return;
    const { life } = host;
    const answer = buildPacket(packetOf({
      source: SERVICE_V4,
      destination: source,
      sourcePort: PORT,
      destinationPort: sourcePort,
      seq: 0,
      ack: (seq + 1) >>> 0,
      flags: TcpFlag.ack | (this.lifeOfServer(host) === "runs" ? TcpFlag.syn : TcpFlag.rst),
    }));
    this.clock.after(0.01, () => {
      if (host.isUp && host.life === life) host.receiveApp(answer);
    });
  }

  toServer(host: SimHost, packet: Uint8Array): void {
    const servers = this.#servers.get(host.name)!;
    const { life } = host;
    if (!isFromClient(packet)) return this.#answerSyn(host, packet);
    const port = clientPortOf(packet);
    const client = this.clients.get(port);
    if (client === undefined) throw new Error(`Cannot find the client of port ${port}`);
    let server = servers.get(port);
    const isNew = server === undefined || server.endpoint.isFollowedBy(packet);
    if (isNew && this.lifeOfServer(host) !== "runs") return this.#answerSyn(host, packet);
    if (server === undefined || isNew) {
      server = new Socket(
        {
          local: SERVICE_V4,
          localPort: PORT,
          remote: CLIENT_V4,
          remotePort: port,
          iss: this.random.seed(),
          scale: 7,
          window: 65535,
          stampOffset: this.random.seed(),
          sack: true,
          mss: 1448,
          slowStart: true,
          clock: () => Math.floor(this.nowMs),
          streamMax: STREAM_OCTETS,
        },
        this.clock,
        (answer) =>
          this.clock.after(0.01, () => {
            if (host.isUp && host.life === life) host.receiveApp(answer);
          }),
      );
      server.endpoint.listen();
      const twist = this.#mutant === "otherAnswers" && host.name === "b" ? 1 : 0;
      runProgram(server, client, twist);
      servers.set(port, server);
    }
    server.receive(packet);
    for (const check of this.#checks) check.read?.(client, server.endpoint);
  }

  // The end ---------------------------------------------------------------------------------------

  /** Mends everything. */
  heal(): void {
    this.isMended = true;
    this.note(null, "everything is mended");
    this.cuts.clear();
    this.strikes.clear();
    this.weather.clients = CALM;
    this.weather.replicas = CALM;
    this.registerMsMax = 3;
    this.passMsMax = 0.5;
    for (const host of this.hosts) {
      host.stoppedUntilMs = 0;
      if (!host.isUp) this.boot(host);
      else {
        const plan = this.#plans.get(host);
        if (plan !== undefined) plan.atMs = Infinity;
        this.plan(host, 0);
      }
    }
  }

  /** True when no connection is under way that must end well. */
  get isOver(): boolean {
    for (const { done, excuse, socket } of this.clients.values()) {
      if (!done && (excuse === null || socket.endpoint.state !== "reset")) return false;
    }
    return true;
  }

  /** One host is primary, the other its standby, and both are ready. */
  get isSettled(): boolean {
    const [a, b] = this.hosts.map(({ replica }) => replica);
    const roles = a.role === "primary" ? b.role === "standby" : b.role === "primary";
    return roles && (a.role === "primary" || a.role === "standby") && a.ready && b.ready;
  }

  /** The last looks of all checkers. */
  finish(): void {
    for (const check of this.#checks) check.ended?.();
  }

  /** What came of it. */
  outcome(violation: Error | null): Outcome {
    const clients = [...this.clients.values()];
    const done = clients.filter((client) => client.done).length;
    return {
      violation,
      digest: this.digest,
      done,
      lost: clients.length - done,
      takeovers: this.takeovers,
      trace: this.trace,
    };
  }

  /** Says that the run broke a rule of a kind of schedule. */
  fail(check: string, what: string): never {
    throw new Violation(check, what);
  }
}

/** Else it is from the one that does not exist, core/segment/probe.ts. */
function isFromClient(packet: Uint8Array): boolean {
  const { source } = parsePacket(packet);
  return CLIENT_V4.every((octet, index) => source[index] === octet);
}

/** A good network. */
const CALM: Weather = { lossRatio: 0, doubleRatio: 0, delayMsMax: 1 };
/** Longest stream of one direction. */
const STREAM_OCTETS = 1 << 17;
