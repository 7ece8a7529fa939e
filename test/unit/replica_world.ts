/**
 * replica_world.ts - two or more replicas, a register and a network, simulated, with faults
 *
 * Theory of operation
 * The real state machine (runtime/protocol/replica.ts) and the real rule of the register run in one
 * thread under a simulated clock. A replica is a sequence of passes, as in loop.ts: take what has
 * arrived, speak if allowed, judge, beat. Messages take random times and are lost at random; a
 * replica may be paused, crash and start again, the link between any two may be cut in either
 * direction, and so may each one's way to the register. What the connections hold is one number, `n`,
 * of a generation: the primary raises it, the standby copies it, and what has been let out must never
 * be ahead of who goes on.
 *
 * With `durable` each replica has a disk, as log_store/disk_log.ts uses it: what it holds is put there and is
 * durable some time later, in order. A crash may lose what is not durable yet, from any point on. A
 * message counts as kept only when it is durable here and, while there is a standby, there.
 *
 * Checked in every pass:
 *   one voice        never may two replicas speak at one moment, were they awake
 *   one per epoch    an epoch is spoken in by one life of one replica
 *   output commit    who goes on with connections has all that was let out
 *   epochs           of what is spoken in only grow
 * and by `settle()`, without faults: one primary with a voice and one ready standby in bounded time, all others spares.
 */
import { ok } from "node:assert/strict";
import type { BeatService } from "../../runtime/protocol/message.ts";
import { FORMER_MS } from "../../runtime/protocol/peer_life.ts";
import { decide, type Decision, type RegisterValue } from "../../runtime/protocol/register.ts";
import { type Effect, PROBE_MS, Replica } from "../../runtime/protocol/replica.ts";
import type { Random } from "../net/random.ts";

/** Heartbeats, as the machine is told. */
export const HEARTBEAT_MS = 10;
/** Heartbeats that may be missed. */
export const DETECT = 3;
/** Datagrams that a socket keeps; later ones are dropped. */
const QUEUE_MAX = 256;
/** A question to the register is given up after so long. */
const ANSWER_MS = 350;
const BEATS_KEPT = 64;

/** How bad the network is. */
export interface Weather {
  /** Share of beats that are lost. */
  lossRatio: number;
  /** Longest delay of a message, milliseconds. */
  delayMsMax: number;
  /** Longest time between two passes, milliseconds. */
  passMsMax: number;
}

interface Copy {
  generation: number;
  n: number;
}

/** No connections: of a generation that never was let out. */
const NOTHING: Copy = { generation: -1, n: 0 };

interface Beat extends BeatService {
  from: SimNode;
  token: string;
  seq: number;
  echoSeq: number;
}

/** What a node has heard of another one. */
class Ear {
  heardSeq = 0;
  peerToken = "";
  formerToken = "";
  heardMs = -Infinity;
}

/** One end of a channel between two nodes. */
interface End {
  /** The channel: one number for both ends. */
  id: number;
  /** Who is at the other end. */
  peer: SimNode;
}

/** What a log says: a term it is whole in, and what it holds. */
interface Logged {
  term: number;
  copy: Copy;
}

/** A disk that is slow, and keeps its order. */
class Disk {
  /** What is durable. */
  durable: Logged = { term: 0, copy: { ...NOTHING } };
  /** What was put and is not durable yet, oldest first; `then` when it is. */
  waiting: { atMs: number; what: Logged; then: () => void }[] = [];

  /** What it will say when all is durable. */
  get last(): Logged {
    return this.waiting.at(-1)?.what ?? this.durable;
  }

  /** Puts something; it is durable at `atMs`, and not before what was put earlier. */
  put(what: Logged, atMs: number, then: () => void = () => {}): void {
    const before = this.waiting.at(-1)?.atMs ?? 0;
    this.waiting.push({ atMs: Math.max(atMs, before), what, then });
  }

  /** Time passes. */
  settle(nowMs: number): void {
    while (this.waiting.length > 0 && this.waiting[0].atMs <= nowMs) {
      const { what, then } = this.waiting.shift()!;
      this.durable = what;
      then();
    }
  }

  /** Whoever wrote dies, or its host: the first `kept` of what was not durable come to the disk. */
  crash(kept: number): void {
    this.durable = this.waiting[kept - 1]?.what ?? this.durable;
    this.waiting = [];
  }
}

/** One replica with what surrounds it. */
export class SimNode {
  readonly name: string;
  replica: Replica;
  /** Which life this is. */
  life = 0;
  alive = true;
  pausedUntilMs = 0;
  nextPassMs = 0;
  nextBeatMs = 0;
  lastBeatMs = 0;
  storedEpoch = 0;
  inbox: Beat[] = [];
  /** Things that happen at the next pass: frames and answers wait in sockets. */
  events: (() => void)[] = [];
  /** Who asks for the address; answered at the next pass, by one who may speak then. */
  askers: (() => void)[] = [];
  beatSeq = 0;
  sentMs = new Float64Array(BEATS_KEPT);
  ears = new Map<SimNode, Ear>();
  channel: End | null = null;
  nextConnectMs = 0;
  copy: Copy = { generation: 0, n: 0 };
  /** Primary: what the standby has confirmed. */
  confirmed = 0;
  /** With logs on disk. */
  disk: Disk | null = null;
  /** Primary: what is durable here. */
  stored = 0;
  /** What was on the disk is gone, or is going, and nothing was put since. */
  isClear = false;
  switching = false;
  /** How many there were: what waits for one of them must not meet the next. */
  switches = 0;

  constructor(name: string, replica: Replica) {
    this.name = name;
    this.replica = replica;
  }

  /** What it has heard of another one. */
  ear(other: SimNode): Ear {
    const ear = this.ears.get(other) ?? new Ear();
    this.ears.set(other, ear);
    return ear;
  }
}

/** The whole. */
export class World {
  readonly random: Random;
  readonly nodes: SimNode[];
  readonly register = new Map<string, RegisterValue>();
  readonly trace: string[] = [];
  nowMs = 0;
  weather: Weather = { lossRatio: 0, delayMsMax: 1, passMsMax: 3 };
  /** Cut directions: "ab", "ba"; and "a", "b" for a way to the register. */
  readonly cuts = new Set<string>();
  /** The newest generation of connections, and how much of it has been let out. */
  released: Copy = { generation: 0, n: 0 };
  readonly #hasArbiter: boolean;
  readonly #names: readonly string[];
  readonly #speakers = new Map<number, string>();
  readonly #queue: { atMs: number; order: number; act: () => void }[] = [];
  #order = 0;
  #spokenEpoch = 0;
  /** How often a standby took over connections, and how often somebody started afresh. */
  takeovers = 0;
  afresh = 0;

  constructor(random: Random, { arbiter = true, count = 2, durable = false } = {}) {
    this.random = random;
    this.#hasArbiter = arbiter;
    this.#names = ["a", "b", "c", "d"].slice(0, count);
    this.nodes = this.#names.map((name) => new SimNode(name, this.#makeReplica(name, 0, 0)));
    for (const node of durable ? this.nodes : []) {
      node.disk = new Disk();
      node.replica.handleStored(0);
    }
  }

  #makeReplica(name: string, life: number, epoch: number): Replica {
    return new Replica({
      service: "web",
      node: name,
      peers: this.#names.filter((other) => other !== name),
      prefer: "a",
      heartbeatMs: HEARTBEAT_MS,
      detect: DETECT,
      epoch,
      token: `${name}${life}`,
      arbiter: this.#hasArbiter ? { answerMs: 1000, grantMs: 400, patienceMs: 0 } : null,
    }, this.nowMs);
  }

  /** The node of a name. */
  node(name: string): SimNode {
    return this.nodes[this.#names.indexOf(name)];
  }

  #others(node: SimNode): SimNode[] {
    return this.nodes.filter((other) => other !== node);
  }

  #log(text: string): void {
    this.trace.push(`${this.nowMs.toFixed(2)} ${text}`);
    if (this.trace.length > 400) this.trace.shift();
  }

  // Faults ----------------------------------------------------------------------------------------

  /** Ends a node; its state but the stored epoch is gone. */
  crash(node: SimNode): void {
    if (!node.alive) return;
    this.#log(`${node.name} crashes`);
    node.alive = false;
    this.#closeChannel(node);
    node.inbox = [];
    node.events = [];
    node.askers = [];
    node.disk?.crash(this.random.integer(node.disk.waiting.length + 1));
  }

  /** Starts a crashed node again. */
  restart(node: SimNode): void {
    if (node.alive) return;
    node.alive = true;
    node.life++;
    node.replica = this.#makeReplica(node.name, node.life, node.storedEpoch);
    node.nextPassMs = this.nowMs;
    node.pausedUntilMs = 0;
    node.beatSeq = this.random.integer(0x7fffffff);
    node.sentMs.fill(0);
    node.ears.clear();
    node.switching = false;
    node.copy = { ...NOTHING };
    node.isClear = false;
    if (node.disk !== null) {
      const { term, copy } = node.disk.durable;
      node.copy = { ...copy };
      node.replica.handleStored(term);
      this.#log(`${node.name} finds ${copy.generation}:${copy.n}, whole in ${term}`);
    }
    this.#log(`${node.name} starts again, epoch ${node.storedEpoch}`);
  }

  /** Stops a node for a while; what arrives waits in its sockets. */
  pause(node: SimNode, ms: number): void {
    node.pausedUntilMs = Math.max(node.pausedUntilMs, this.nowMs + ms);
    this.#log(`${node.name} is stopped for ${ms.toFixed(1)} ms`);
  }

  /** Asks the primary to hand over. */
  requestSwitch(): void {
    const node = this.nodes.find((n) => n.alive && n.replica.role === "primary");
    if (node === undefined || node.switching || this.nowMs < node.pausedUntilMs) return;
    const effects = node.replica.requestSwitch(this.nowMs);
    if (effects.length === 0) return;
    node.switching = true;
    const number = ++node.switches;
    this.#perform(node, effects);
    this.#after(3000, () => {
      if (node.switches === number) node.switching = false;
    });
  }

  // Time ------------------------------------------------------------------------------------------

  #after(ms: number, act: () => void): void {
    this.#queue.push({ atMs: this.nowMs + ms, order: this.#order++, act });
  }

  #delay(): number {
    return this.random.next() ** 3 * this.weather.delayMsMax + 0.05;
  }

  /** Lets time pass. */
  run(ms: number, between: () => void = () => {}): void {
    const endMs = this.nowMs + ms;
    while (this.nowMs < endMs) {
      this.nowMs += 0.25;
      const due = this.#queue.filter(({ atMs }) => atMs <= this.nowMs)
        .sort((x, y) => x.atMs - y.atMs || x.order - y.order);
      if (due.length > 0) {
        const rest = this.#queue.filter(({ atMs }) => atMs > this.nowMs);
        this.#queue.splice(0, this.#queue.length, ...rest);
        for (const { act } of due) act();
      }
      for (const node of this.nodes) {
        if (!node.alive || this.nowMs < node.pausedUntilMs || this.nowMs < node.nextPassMs) {
          continue;
        }
        node.nextPassMs = this.nowMs + this.random.next() ** 4 * this.weather.passMsMax;
        this.#pass(node);
      }
      this.#check();
      between();
    }
  }

  /** Without faults, everything is well within `ms`. */
  settle(ms: number): void {
    this.cuts.clear();
    this.weather = { lossRatio: 0, delayMsMax: 1, passMsMax: 3 };
    for (const node of this.nodes) {
      node.pausedUntilMs = 0;
      this.restart(node);
    }
    const endMs = this.nowMs + ms;
    while (this.nowMs < endMs) {
      this.run(50);
      const roles = new Set(this.nodes.map((n) => n.replica.role));
      const speakers = this.nodes.filter((n) => n.replica.maySpeak(this.nowMs)).length;
      const ready = this.nodes.filter((n) => n.replica.ready).length;
      const isSettled = [...roles].sort().join() === "primary,standby" && speakers === 1;
      if (isSettled && ready === 2) return;
    }
    ok(
      false,
      `not settled in ${ms} ms: ` +
        this.nodes.map((n) => `${n.name} ${n.replica.role} ${n.replica.epoch}`).join(", ") +
        `\n${this.trace.slice(-60).join("\n")}`,
    );
  }

  #fail(why: string): never {
    throw new Error(`${why} at ${this.nowMs.toFixed(2)} ms\n${this.trace.slice(-80).join("\n")}`);
  }

  #check(): void {
    if (!this.#hasArbiter) return;
    const speakers = this.nodes.filter((n) => n.alive && n.replica.voiceUntilMs >= this.nowMs);
    if (speakers.length > 1) {
      this.#fail(
        `several may speak, in epochs ${speakers.map((n) => n.replica.epoch).join(" and ")}`,
      );
    }
  }

  // A pass ----------------------------------------------------------------------------------------

  #pass(node: SimNode): void {
    const { replica } = node;
    const life = node.life;
    node.disk?.settle(this.nowMs);
    const askers = node.askers.splice(0);
    if (replica.maySpeak(this.nowMs)) { for (const answer of askers) answer(); }
    for (const beat of node.inbox.splice(0)) {
      const ear = node.ear(beat.from);
      if (beat.token === ear.peerToken && beat.seq <= ear.heardSeq) continue;
      const isOther = beat.token !== ear.peerToken;
      const isFormer = isOther && beat.token === ear.formerToken;
      if (isFormer && this.nowMs - ear.heardMs < FORMER_MS) continue;
      if (isOther) [ear.formerToken, ear.peerToken] = [ear.peerToken, beat.token];
      ear.heardMs = this.nowMs;
      ear.heardSeq = beat.seq;
      const age = (node.beatSeq - beat.echoSeq) >>> 0;
      const sentMs = node.sentMs[beat.echoSeq % BEATS_KEPT];
      const echoedMs = age >= BEATS_KEPT || sentMs === 0 ? null : sentMs;
      this.#perform(
        node,
        replica.handleBeat(beat, {
          node: beat.from.name,
          nowMs: this.nowMs,
          echoedMs,
          token: beat.token,
        }),
      );
      if (this.nowMs - node.lastBeatMs > HEARTBEAT_MS / 2) this.#sendBeat(node);
    }
    for (const act of node.events.splice(0)) {
      act();
      if (node.life !== life) return;
    }
    if (replica.role === "primary" && replica.maySpeak(this.nowMs)) this.#speak(node);
    this.#perform(node, replica.handleTime(this.nowMs));
    this.#tellTerm(node);
    if (this.nowMs >= node.nextBeatMs) this.#sendBeat(node);
  }

  #sendBeat(node: SimNode): void {
    const { replica } = node;
    node.nextBeatMs = this.nowMs + HEARTBEAT_MS;
    node.lastBeatMs = this.nowMs;
    node.beatSeq++;
    node.sentMs[node.beatSeq % BEATS_KEPT] = this.nowMs;
    const { role, epoch, ready, asking, voided } = replica;
    for (const other of this.#others(node)) {
      const beat = {
        name: "web",
        role,
        epoch,
        ready,
        asking,
        voided,
        invites: replica.invites(other.name),
        from: node,
        token: `${node.name}${node.life}`,
        seq: node.beatSeq,
        echoSeq: node.ear(other).heardSeq,
      };
      if (this.cuts.has(node.name + other.name)) continue;
      if (this.random.next() < this.weather.lossRatio) continue;
      this.#after(this.#delay(), () => {
        if (other.alive && other.inbox.length < QUEUE_MAX) other.inbox.push(beat);
      });
    }
  }

  /** The primary does something that clients see. */
  #speak(node: SimNode): void {
    const { replica, life, name } = node;
    const who = `${name}${life}`;
    const before = this.#speakers.get(replica.epoch);
    if (before !== undefined && before !== who && this.#hasArbiter) {
      this.#fail(`${who} speaks in epoch ${replica.epoch} of ${before}`);
    }
    this.#speakers.set(replica.epoch, who);
    if (replica.epoch < this.#spokenEpoch && this.#hasArbiter) {
      this.#fail(`${who} speaks in epoch ${replica.epoch} after ${this.#spokenEpoch}`);
    }
    this.#spokenEpoch = replica.epoch;
    node.copy.n++;
    const { generation, n } = node.copy;
    if (node.channel !== null) {
      const other = node.channel.peer;
      this.#sendOn(node, () => {
        // What was repeated comes late here, which TCP would have put in order.
        const isNewer = other.copy.generation !== generation || other.copy.n < n;
        if (isNewer) other.copy = { generation, n };
        const confirm = () =>
          this.#sendOn(other, () => {
            node.confirmed = n;
            this.#release(node);
          });
        this.#store(other, confirm);
      });
    }
    this.#store(node, () => {
      if (node.copy.generation !== generation) return;
      node.stored = Math.max(node.stored, n);
      this.#release(node);
    });
    this.#release(node);
  }

  /** Puts what a node holds on its disk; `then` once it is durable, at once without a disk. */
  #store(node: SimNode, then: () => void = () => {}): void {
    const { disk, copy } = node;
    if (disk === null) return then();
    node.isClear = false;
    this.#put(node, { term: disk.last.term, copy: { ...copy } }, then);
  }

  #put(node: SimNode, what: Logged, then: () => void = () => {}): void {
    const isSlow = this.random.next() < 0.02;
    node.disk!.put(what, this.nowMs + this.random.next() * (isSlow ? 300 : 4), then);
  }

  /** DataLoop.#tellWhole(). */
  #tellTerm(node: SimNode): void {
    const { disk, replica } = node;
    const term = replica.logTerm;
    if (disk === null || term === null || term === disk.last.term) return;
    this.#put(node, { term, copy: disk.last.copy });
  }

  /** DiskLog.beginAnew(). */
  #beginAnew(node: SimNode): void {
    if (node.disk === null || node.isClear) return;
    this.#put(node, { term: 0, copy: { ...NOTHING } });
    node.isClear = true;
  }

  /** Lets out what may be let out. */
  #release(node: SimNode): void {
    const counts = node.channel !== null || this.#holds.has(node);
    const here = node.disk === null ? node.copy.n : node.stored;
    const n = counts ? Math.min(here, node.confirmed) : here;
    const { generation } = node.copy;
    if (!node.replica.maySpeak(this.nowMs)) return;
    if (this.released.generation === generation) {
      this.released.n = Math.max(this.released.n, n);
    }
  }

  /** Primaries whose channel broke and whose standby is not given up yet. */
  readonly #holds = new Set<SimNode>();

  /** Something on the channel, in order; lost with it. */
  #sendOn(node: SimNode, act: () => void): void {
    const end = node.channel;
    if (end === null) return;
    const other = end.peer;
    const deliver = () => {
      // TCP repeats what is lost, until the channel is closed; another one does not carry it.
      if (node.channel !== end && other.channel?.id !== end.id) return;
      if (this.cuts.has(node.name + other.name)) {
        this.#after(20, deliver);
        return;
      }
      if (!other.alive || other.channel?.id !== end.id) return;
      other.events.push(() => {
        if (other.channel?.id === end.id) act();
      });
    };
    this.#after(0.1, deliver);
  }

  // Channels --------------------------------------------------------------------------------------

  #follow(node: SimNode): void {
    if (node.channel !== null || this.nowMs < node.nextConnectMs) return;
    this.#beginAnew(node);
    if (node.disk !== null && node.disk.waiting.length > 0) return;
    node.nextConnectMs = this.nowMs + 100;
    const other = this.node(node.replica.partner!);
    const blocked = () =>
      this.cuts.has(node.name + other.name) || this.cuts.has(other.name + node.name);
    if (blocked() || !other.alive) return;
    const { life } = node;
    const otherLife = other.life;
    // connect(2), then the hello
    this.#after(this.#delay(), () => {
      if (!node.alive || node.life !== life) return;
      node.events.push(() => {
        if (node.replica.role !== "standby" || node.replica.partner !== other.name) return;
        node.replica.handleGreeting();
        this.#after(this.#delay(), () => {
          if (blocked() || !other.alive || other.life !== otherLife) return;
          other.events.push(() => this.#welcome(other, node));
        });
      });
    });
  }

  #welcome(primary: SimNode, standby: SimNode): void {
    if (primary.replica.role !== "primary" || primary.switching || !standby.alive) return;
    if (primary.replica.partner !== standby.name) return;
    if (primary.channel !== null) this.#closeChannel(primary);
    const end = { id: ++this.#order, peer: standby };
    primary.channel = end;
    this.#holds.delete(primary);
    // Connections an earlier standby had are nobody's from here on.
    primary.confirmed = primary.copy.n;
    const { epoch } = primary.replica;
    primary.replica.handleChannelUp(epoch);
    const copy = { ...primary.copy };
    this.#release(primary);
    const { life } = standby;
    this.#after(this.#delay(), () => {
      if (!standby.alive || standby.life !== life) return;
      standby.events.push(() => {
        const { role, partner } = standby.replica;
        if (role !== "standby" || epoch < standby.replica.epoch || partner !== primary.name) {
          this.#closeChannel(standby);
          standby.replica.handleChannelDown("welcome out of turn");
          if (primary.channel === end) this.#brokenAt(primary);
          return;
        }
        // Another one has replaced it, or it was closed.
        if (primary.channel !== end) return;
        standby.channel = { id: end.id, peer: primary };
        standby.copy = copy;
        standby.replica.handleChannelUp(epoch);
        this.#store(standby, () => {
          if (standby.channel?.id === end.id) standby.replica.handleWhole();
        });
      });
    });
  }

  /** Closes a node's end; the other learns of it when nothing is cut. */
  #closeChannel(node: SimNode): void {
    const end = node.channel;
    node.channel = null;
    for (const other of this.#others(node)) {
      if (other.channel?.peer !== node) continue;
      // What a dead node had not accepted yet breaks too; otherwise only the other end of this one.
      if (end === null ? !node.alive : other.channel.id === end.id) this.#brokenAt(other);
    }
  }

  #brokenAt(node: SimNode): void {
    const end = node.channel;
    const tell = () => {
      if (!node.alive || node.channel !== end) return;
      node.events.push(() => {
        if (node.channel !== end) return;
        node.channel = null;
        if (node.replica.role === "primary") this.#holds.add(node);
        node.replica.handleChannelDown("the peer closed the channel");
      });
    };
    this.#after(this.#delay(), tell);
  }

  // Effects ---------------------------------------------------------------------------------------

  #perform(node: SimNode, effects: Effect[]): void {
    for (const effect of effects) {
      if (effect.kind !== "follow" && effect.kind !== "consult") {
        this.#log(`${node.name} ${JSON.stringify(effect)}`);
      }
      switch (effect.kind) {
        case "storeEpoch":
          if (effect.epoch < node.storedEpoch && this.#hasArbiter) {
            this.#fail(`${node.name} stores epoch ${effect.epoch} after ${node.storedEpoch}`);
          }
          node.storedEpoch = effect.epoch;
          break;
        case "promote":
          this.#promote(node, effect);
          break;
        case "follow":
          this.#follow(node);
          break;
        case "leave":
          this.#closeChannel(node);
          break;
        case "dropStandby":
          this.#holds.delete(node);
          if (node.channel !== null) this.#closeChannel(node);
          node.confirmed = node.copy.n;
          this.#release(node);
          break;
        case "silence":
          this.#holds.delete(node);
          if (node.channel !== null) this.#closeChannel(node);
          break;
        case "arbitrate":
          this.#claim(node, effect);
          break;
        case "probe":
          this.#probe(node, effect.ticket);
          break;
        case "consult":
          this.#consult(node, effect.ticket);
          break;
        case "handOver":
          this.#handOver(node, effect.epoch);
          break;
        case "keep":
          node.switching = false;
          break;
        case "judgement":
          break;
      }
    }
  }

  #promote(node: SimNode, effect: Effect & { kind: "promote" }): void {
    if (effect.reason !== "switch" && node.channel !== null) this.#closeChannel(node);
    if (effect.afresh || (effect.reason === "start" && node.disk === null)) {
      this.afresh++;
      this.released = { generation: this.released.generation + 1, n: 0 };
      this.#beginAnew(node);
      node.copy = { ...this.released };
      this.#store(node);
    } else {
      this.takeovers++;
      const { generation, n } = node.copy;
      if (
        this.#hasArbiter && (generation !== this.released.generation || n < this.released.n)
      ) {
        this.#fail(
          `${node.name} goes on with ${generation}:${n}, let out was ` +
            `${this.released.generation}:${this.released.n}`,
        );
      }
    }
    node.confirmed = node.copy.n;
    // What was applied just now may not be durable yet.
    const there = node.disk?.durable.copy;
    node.stored = there?.generation === node.copy.generation ? there.n : 0;
  }

  #handOver(node: SimNode, epoch: number): void {
    const isStored = node.disk === null || node.stored >= node.copy.n;
    if (node.channel === null || node.confirmed < node.copy.n || !isStored) {
      // Not drained: a real one waits; this one gives up now and then, which is a switch given up.
      const { switches } = node;
      node.events.push(() => {
        if (node.replica.role !== "primary" || node.channel === null || !node.switching) return;
        if (node.switches === switches) this.#handOver(node, epoch);
      });
      return;
    }
    const other = node.channel.peer;
    this.#perform(node, node.replica.handleHandedOver(epoch));
    node.switching = false;
    this.#sendOn(node, () => this.#perform(other, other.replica.handleHandover(epoch, this.nowMs)));
  }

  // The register ----------------------------------------------------------------------------------

  #probe(node: SimNode, ticket: number): void {
    const { life } = node;
    let answeredBy: string | null = null;
    const look = (leftMs: number) => {
      if (!node.alive || node.life !== life) return;
      for (const other of this.#others(node)) {
        if (other.alive) other.askers.push(() => answeredBy = other.name);
      }
      if (answeredBy === null && leftMs > 0) {
        this.#after(50, () => look(leftMs - 50));
        return;
      }
      node.events.push(() => {
        this.#perform(node, node.replica.handleProbe(ticket, answeredBy, this.nowMs));
      });
    };
    look(PROBE_MS);
  }

  #claim(node: SimNode, { ticket, claim }: Effect & { kind: "arbitrate" }): void {
    const tell = this.#question<Decision>(node, (answer) => {
      const verdict = answer === undefined
        ? { kind: "unreachable", ticket, why: "no answer" } as const
        : answer.granted
        ? { kind: "granted", ticket } as const
        : { kind: "lost", ticket, value: answer.value } as const;
      this.#perform(node, node.replica.handleVerdict(verdict, this.nowMs));
    });
    this.#after(this.#registerDelay(), () => {
      if (this.cuts.has(node.name)) return;
      const decision = decide(this.register.get("web") ?? null, claim);
      if (decision.value !== null) this.register.set("web", decision.value);
      this.#after(this.#registerDelay(), () => tell(decision));
    });
  }

  #consult(node: SimNode, ticket: number): void {
    const tell = this.#question<RegisterValue | null>(node, (value) => {
      this.#perform(node, node.replica.handleRegister(ticket, value, this.nowMs));
    });
    this.#after(this.#registerDelay(), () => {
      if (this.cuts.has(node.name)) return;
      const value = this.register.get("web") ?? null;
      this.#after(this.#registerDelay(), () => tell(value));
    });
  }

  /** Calls back once, in a pass, with an answer in time or with none. */
  #question<T>(node: SimNode, done: (answer: T | undefined) => void): (answer: T) => void {
    const { life } = node;
    let isDone = false;
    const finish = (answer: T | undefined) => {
      if (isDone || !node.alive || node.life !== life) return;
      isDone = true;
      node.events.push(() => done(answer));
    };
    this.#after(ANSWER_MS, () => finish(undefined));
    return (answer) => {
      if (!this.cuts.has(node.name)) finish(answer);
    };
  }

  #registerDelay(): number {
    const isSlow = this.random.next() < 0.02;
    return 0.2 + this.random.next() ** 2 * (isSlow ? 300 : 3);
  }
}
