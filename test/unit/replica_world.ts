/**
 * replica_world.ts - two or more replicas, a register and a network, simulated, with faults
 *
 * Theory of operation
 * The real state machine (runtime/protocol/replica.ts) and the real rule of the register run in one
 * thread under a simulated clock. A replica is a sequence of passes, as in loop.ts: take what has
 * arrived, speak if allowed, judge, beat. Messages take random times and are lost at random; a
 * replica may be paused, crash and start again, the link between any two may be cut in either
 * direction, and so may each one's way to the register. What the connections hold is one number, `n`,
 * of a generation: the primary raises it, the standby copies it and hands it down the chain, and what has been
 * let out must never be ahead of who goes on.
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
 * and by `settle()`, without faults: one primary with a voice, all others in its chain in bounded time, and as
 * many heirs as there are to be copies.
 */
import { ok } from "node:assert/strict";
import { Chain, confirmedBy, type Name } from "../../runtime/protocol/chain.ts";
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
/** What goes down the chain; `isAll` for who has only just joined it, too. */
interface News extends Copy {
  isAll: boolean;
}

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
  /** To whom it follows; of a primary to its standby. */
  channel: End | null = null;
  /** Standby: to who follows it. */
  next: End | null = null;
  readonly chain = new Chain();
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
  /** Follower: the last that came. */
  applied = 0;
  /** The newest word of who is in the chain, in the order of all events. */
  namedAt = 0;
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
  readonly #copies: number;
  readonly #names: readonly string[];
  readonly #speakers = new Map<number, string>();
  readonly #queue: { atMs: number; order: number; act: () => void }[] = [];
  #order = 0;
  #spokenEpoch = 0;
  /** How often a standby took over connections, and how often somebody started afresh. */
  takeovers = 0;
  afresh = 0;

  constructor(
    random: Random,
    { arbiter = true, count = 2, copies = 1, durable = false } = {},
  ) {
    this.random = random;
    this.#hasArbiter = arbiter;
    this.#copies = copies;
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
      copies: this.#copies,
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
    this.#closeNext(node);
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
    node.chain.clear();
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
      const isReady = this.nodes.every((n) => n.replica.ready);
      const isSettled = [...roles].sort().join() === "primary,standby" && speakers === 1;
      const primary = this.nodes.find((n) => n.replica.role === "primary");
      const heirs = this.#names.filter((name) => primary?.replica.counted(name) !== 0).length;
      const wanted = this.#names.length === 2 ? 0 : Math.min(this.#copies, this.#names.length - 1);
      if (isSettled && isReady && heirs === wanted) return;
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
    if (replica.role === "primary") {
      if (replica.maySpeak(this.nowMs)) this.#speak(node);
      const { copy, confirmed: released } = node;
      node.chain.step(replica, { sent: copy.n, released, nowMs: this.nowMs });
    }
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
        counted: replica.counted(other.name),
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
      const isAll = node.chain.isTelling;
      this.#hand(node, node.channel, { generation, n, isAll });
      if (isAll) node.chain.noteTold(n);
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

  /** DataLoop.#tellWhole(), and DiskLog.setTerm(): a log that was thrown away is whole in no term. */
  #tellTerm(node: SimNode): void {
    const { disk, isClear, replica } = node;
    const term = replica.logTerm;
    if (disk === null || isClear || term === null || term === disk.last.term) return;
    this.#put(node, { term, copy: disk.last.copy });
  }

  /** DiskLog.beginAnew(). */
  #beginAnew(node: SimNode): void {
    if (node.disk === null || node.isClear) return;
    this.#put(node, { term: 0, copy: { ...NOTHING } });
    node.isClear = true;
  }

  /** Down the chain: who has it applies it, hands it on, and says so. */
  #hand(node: SimNode, end: End, news: News): void {
    this.#sendOn(node, end, () => {
      const { peer } = end;
      const { generation, n, isAll } = news;
      // What was repeated comes late here, which TCP would have put in order.
      const isNewer = peer.copy.generation === generation && peer.copy.n < n;
      if (isNewer || (isAll && peer.copy.generation !== generation)) peer.copy = { generation, n };
      if (peer.next !== null) this.#hand(peer, peer.next, news);
      this.#store(peer, () => {
        peer.applied = n;
        this.#report(peer);
      });
    });
  }

  /** Up the chain: who has what. */
  #report(node: SimNode): void {
    const { channel, chain, applied } = node;
    if (channel === null || node.replica.role === "primary") return;
    const numbers = [applied, ...chain.numbers];
    this.#sendOn(node, channel, () => {
      const { peer } = channel;
      if (peer.next?.id === channel.id) {
        peer.chain.setNumbers(numbers);
        this.#report(peer);
      } else if (peer.replica.role === "primary") {
        peer.confirmed = Math.max(peer.confirmed, numbers[0]);
        peer.chain.noteStandby(numbers[0]);
        peer.chain.setNumbers(numbers.slice(1));
        this.#release(peer);
      }
    });
  }

  /** Up the chain: who is in it below us. */
  #name(node: SimNode): void {
    const { channel, chain } = node;
    if (channel === null || node.replica.role === "primary") return;
    const { names } = chain;
    const order = ++this.#order;
    this.#sendOn(node, channel, () => {
      const { peer } = channel;
      // What was repeated comes late here, which TCP would have put in order.
      if (order < peer.namedAt) return;
      peer.namedAt = order;
      if (peer.next?.id === channel.id) {
        this.#setNames(peer, [{ node: node.name, session: channel.id }, ...names]);
      } else if (peer.replica.role === "primary") {
        peer.chain.setNames(names, peer.copy.n);
      }
    });
  }

  #setNames(node: SimNode, names: Name[]): void {
    node.chain.setNames(names, node.applied);
    node.replica.handleFollowers(node.chain.followers);
    this.#name(node);
  }

  /** Lets out what may be let out. */
  #release(node: SimNode): void {
    const { replica } = node;
    const counts = node.channel !== null || this.#holds.has(node);
    const here = node.disk === null ? node.copy.n : node.stored;
    const heads = { first: node.confirmed, standby: replica.partner };
    const n = counts ? Math.min(here, confirmedBy(replica.keepers, heads)) : here;
    const { generation } = node.copy;
    if (!replica.maySpeak(this.nowMs)) return;
    if (this.released.generation === generation) {
      this.released.n = Math.max(this.released.n, n);
    }
  }

  /** Channels whose welcome is on its way to who joins. */
  readonly #welcomed = new Set<number>();
  /** Primaries whose channel broke and whose standby is not given up yet. */
  readonly #holds = new Set<SimNode>();

  /** Something on the channel, in order; lost with it. */
  #sendOn(node: SimNode, end: End, act: () => void): void {
    const { id, peer: other } = end;
    const deliver = () => {
      // TCP repeats what is lost, until the channel is closed; another one does not carry it.
      if (!hasEnd(node, id) && !hasEnd(other, id)) return;
      if (this.#welcomed.has(id)) {
        this.#after(1, deliver);
        return;
      }
      if (this.cuts.has(node.name + other.name)) {
        this.#after(20, deliver);
        return;
      }
      if (!other.alive || !hasEnd(other, id)) return;
      other.events.push(() => {
        if (hasEnd(other, id)) act();
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
    const other = this.node(node.replica.upstream!);
    const blocked = () =>
      this.cuts.has(node.name + other.name) || this.cuts.has(other.name + node.name);
    if (blocked() || !other.alive) return;
    const { life } = node;
    const otherLife = other.life;
    const session = ++this.#order;
    // connect(2), then the hello
    this.#after(this.#delay(), () => {
      if (!node.alive || node.life !== life) return;
      node.events.push(() => {
        if (node.replica.role !== "standby" || node.replica.upstream !== other.name) return;
        node.replica.handleGreeting(session);
        this.#after(this.#delay(), () => {
          if (blocked() || !other.alive || other.life !== otherLife) return;
          other.events.push(() => this.#welcome(other, node, session));
        });
      });
    });
  }

  /** `id` is the channel's from here on: the session of who joins. */
  #welcome(node: SimNode, joining: SimNode, id: number): void {
    const { replica } = node;
    if (!joining.alive || node.switching) return;
    const end = { id, peer: joining };
    const { epoch } = replica;
    const isPrimary = replica.role === "primary";
    if (isPrimary) {
      if (replica.partner !== joining.name) return;
      if (node.channel !== null) {
        this.#closeChannel(node);
        this.#holds.add(node);
        replica.handleChannelDown("a new one replaces it");
      }
      if (!replica.admits(joining.name)) return;
      node.channel = end;
      node.chain.clear();
      this.#holds.delete(node);
      // Connections an earlier standby had are nobody's from here on.
      node.confirmed = node.copy.n;
      replica.handleChannelUp(epoch, id);
      this.#release(node);
    } else {
      if (!replica.invites(joining.name) || node.channel === null) return;
      if (node.next !== null) this.#closeNext(node);
      node.next = end;
      this.#setNames(node, [{ node: joining.name, session: id }]);
    }
    const { life } = joining;
    // A standby is brought up to date here; one further down must be told of all in the stream.
    const copy = isPrimary ? { ...node.copy } : { ...NOTHING };
    const { applied } = node;
    this.#welcomed.add(id);
    this.#after(this.#delay(), () => {
      if (!joining.alive || joining.life !== life) {
        this.#welcomed.delete(id);
        return;
      }
      joining.events.push(() => {
        this.#welcomed.delete(id);
        const { role, upstream } = joining.replica;
        if (role !== "standby" || epoch < joining.replica.epoch || upstream !== node.name) {
          this.#closeChannel(joining);
          joining.replica.handleChannelDown("welcome out of turn");
          if (hasEnd(node, id)) this.#brokenAt(node, end);
          return;
        }
        // Another one has replaced it, or it was closed.
        if (!hasEnd(node, id)) return;
        this.#closeNext(joining);
        joining.channel = { id, peer: node };
        joining.copy = copy;
        joining.applied = isPrimary ? copy.n : applied;
        joining.replica.handleChannelUp(epoch, id);
        this.#store(joining, () => {
          if (joining.channel?.id === id) joining.replica.handleWhole();
        });
      });
    });
  }

  /** Closes a node's end; the other learns of it when nothing is cut. */
  #closeChannel(node: SimNode): void {
    const end = node.channel;
    node.channel = null;
    this.#tellClosed(node, end);
  }

  #closeNext(node: SimNode): void {
    const end = node.next;
    node.next = null;
    this.#tellClosed(node, end);
    if (end !== null) this.#setNames(node, []);
  }

  #tellClosed(node: SimNode, end: End | null): void {
    for (const other of this.#others(node)) {
      for (const its of [other.channel, other.next]) {
        if (its === null || its.peer !== node) continue;
        // What a dead node had not accepted yet breaks too; otherwise only the other end of this one.
        if (end === null ? !node.alive : its.id === end.id) this.#brokenAt(other, its);
      }
    }
  }

  #brokenAt(node: SimNode, end: End): void {
    this.#after(this.#delay(), () => {
      if (!node.alive || !hasEnd(node, end.id)) return;
      node.events.push(() => {
        if (node.next?.id === end.id) return this.#closeNext(node);
        if (node.channel?.id !== end.id) return;
        node.channel = null;
        if (node.replica.role === "primary") this.#holds.add(node);
        node.replica.handleChannelDown("the peer closed the channel");
      });
    });
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
          node.chain.clear();
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
    let { n: confirmed } = node.copy;
    if (effect.keeps) {
      confirmed = node.chain.numbers[0];
      node.channel = node.next;
      node.next = null;
      node.chain.shift(node.replica.further, ++node.copy.n);
      this.#hand(node, node.channel!, { ...node.copy, isAll: true });
    } else {
      this.#closeNext(node);
      node.chain.clear();
    }
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
    node.confirmed = effect.keeps ? confirmed : node.copy.n;
    // What was applied just now may not be durable yet.
    const there = node.disk?.durable.copy;
    node.stored = there?.generation === node.copy.generation ? there.n : 0;
  }

  #handOver(node: SimNode, epoch: number): void {
    const heads = { first: node.confirmed, standby: node.replica.partner };
    const isThere = confirmedBy(node.replica.keepers, heads) >= node.copy.n;
    const isStored = node.disk === null || node.stored >= node.copy.n;
    if (node.channel === null || !isThere || !isStored) {
      // Not drained: a real one waits; this one gives up now and then, which is a switch given up.
      const { switches } = node;
      node.events.push(() => {
        if (node.replica.role !== "primary" || node.channel === null || !node.switching) return;
        if (node.switches === switches) this.#handOver(node, epoch);
      });
      return;
    }
    const end = node.channel;
    const other = end.peer;
    this.#perform(node, node.replica.handleHandedOver(epoch));
    node.switching = false;
    node.chain.clear();
    node.applied = node.copy.n;
    this.#sendOn(
      node,
      end,
      () => this.#perform(other, other.replica.handleHandover(epoch, this.nowMs)),
    );
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
        ? { kind: "granted", ticket, heirs: answer.value?.heirs } as const
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

function hasEnd({ channel, next }: SimNode, id: number): boolean {
  return channel?.id === id || next?.id === id;
}
