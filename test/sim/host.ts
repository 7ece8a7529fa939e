/**
 * host.ts - one simulated replica: the real core and the real state machine, without a kernel
 *
 * Theory of operation
 * Follows runtime/loop.ts method by method; each method here names the one it repeats. Not repeated:
 * descriptors and poll, seals (seal.ts), the octets of frames in a socket (channel.ts), logs on disk, replicas that
 * follow the standby (protocol/chain.ts). Envelopes and beats are the real ones of message.ts. A pass is a generator that yields the name of each step, so
 * the world can end the daemon or stop it between any two of them:
 *
 *   wake ──> pass: beats, answers, channel ──> core.run ──> message ──> output ──> beat ──> judge
 *                                                                      each effect: one step
 *
 * A step whose name ends in "!" lies between the look at the clock and the wire. Voice allows a stop
 * of `marginMs` there and no more (replica.ts, "What rests on that"), so the world may end the daemon
 * there, but does not stop it.
 *
 * `mutant` breaks one rule on purpose: a checker that does not find it checks nothing.
 */
import {
  type Core,
  CoreRole,
  type Field,
  loadCore,
  REASONS,
  RecordFlag,
} from "../../runtime/core.ts";
import {
  decodeBeat,
  decodeFrame,
  encodeBeat,
  encodeFrame,
  type Frame,
  MessageError,
} from "../../runtime/protocol/message.ts";
import { PeerLife } from "../../runtime/protocol/peer_life.ts";
import {
  type CoreFinding,
  FINDINGS,
  type HandOverReason,
  handOverReason,
  Judge,
  type JudgeEffect,
  type Situation,
} from "../../runtime/protocol/judge.ts";
import { Keepers } from "../../runtime/protocol/keepers.ts";
import {
  Recovery,
  type RecoveryEffect,
  type RecoveryReason,
  type RecoverySight,
} from "../../runtime/protocol/recovery.ts";
import type { Claim } from "../../runtime/protocol/register.ts";
import {
  type ArbiterTimes,
  type Effect,
  PROBE_MS,
  Replica,
} from "../../runtime/protocol/replica.ts";
import { PORT, SERVICE_V4 } from "../unit/core_driver.ts";
import type { End } from "./stream.ts";

// The same names and values as in loop.ts.
const STALL_MS = 2000;
const SWITCH_MS = 3000;
const GREET_MS = 1000;
const RECONNECT_MS = 100;
const RELAY_MS = 100;
const ANNOUNCE_AGAIN_MS = [10, 50, 200, 1000];
const WAIT_MAX_MS = 100;
const WAIT_TIMERS_MS = 5;
const GREETINGS_MAX = 16;
const BEATS_KEPT = 64;
/** ResetHeld, Judged: `demote()` forgets such connections (`isGone()` in core/segment/ending.ts). */
const GONE = 4194304 | 33554432;
const FIN_WAIT_MS = 2000;
const PROBE_EVERY_MS = 50;
const MTU = 1500;
const LOG_LIMIT = 1 << 18;
const REJOIN_LIMIT = 1 << 18;
/** The same where logs are cut: less than most connections say. */
const HINTED_LIMIT = 1 << 15;
const TELL_OCTETS = 128 << 10;
const CAPACITY = 64;
const MEMORY_MIB = 48;
/** Packets a TUN's queue keeps (txqueuelen); it drops what comes after. */
export const QUEUE_MAX = 500;
/** Datagrams a socket keeps. */
const DATAGRAMS_MAX = 256;
const SERVICE = "web";
/** What a probe found, in the core's order. */
const LISTENING = ["unknown", "yes", "no"] as const;

/** Rules that a simulated host can be told to break. */
export const MUTANTS = [
  "claimFirst",
  "confirmUnread",
  "commitEarly",
  "speakAlways",
  "storeNothing",
  "forgetAtTakeover",
  "stopTimers",
  "otherAnswers",
  "probeNothing",
] as const;
/** One of them. */
export type Mutant = typeof MUTANTS[number];

/** How all hosts of a run are made. */
export interface HostOptions {
  /** Interval of beats, milliseconds. */
  heartbeatMs: number;
  /** Beats that may be missed. */
  detect: number;
  /** When client-bound segments may leave. */
  commit: "strict" | "ack";
  /** What is known of the register. */
  arbiter: ArbiterTimes;
  /** Links between the two. */
  links: number;
  /** Both streams of a connection are HTTP/1.1, and little is kept of each. */
  hint: boolean;
  /** Whole logs are kept; `isWarm`: its server runs while the host stands by, too. Null where they are not. */
  log: { isWarm: boolean } | null;
  /** The rule it breaks. */
  mutant: Mutant | null;
}

/** What a host is surrounded by. */
export interface Surroundings {
  /** A datagram for the other host. */
  sendBeat(host: SimHost, link: number, bytes: Uint8Array): void;
  /** Opens a connection to the other host's daemon; null when it refuses at once. */
  connect(host: SimHost, link: number): End | null;
  /** A packet out of the clients' device. */
  toClients(host: SimHost, packet: Uint8Array): void;
  /** A packet out of the server's device. */
  toServer(host: SimHost, packet: Uint8Array): void;
  /** Gratuitous ARP. */
  announce(host: SimHost): void;
  /** A question to the register: to decide a claim, or for what it holds. */
  ask(host: SimHost, ticket: number, claim: Claim | null): void;
  /** Asks who answers for the service address; `hearRival()` follows when somebody does. */
  askOwner(host: SimHost): void;
  /** The host reached a step of a takeover. */
  reached(host: SimHost, step: TakeoverStep): void;
  /** Its core gave up what it knows, or what it protects, all or of some ports: see `why`. */
  unprotected(host: SimHost, why: string, ports?: number[]): void;
  /** A standby, which came later, has the connections of these ports by now. */
  brought(ports: number[]): void;
  /** Its server is to run, or to end: messages `serve` and `startApp()` of daemon.ts. */
  serve(host: SimHost, wanted: boolean): void;
  /** What /proc says of its server's process. */
  lifeOfServer(host: SimHost): ReturnType<RecoverySight["look"]>;
  /** It has stored an epoch. */
  stored(host: SimHost, epoch: number): void;
  /** For the trace. */
  note(host: SimHost, text: string): void;
  /** Plans a call of `host.resume()`. */
  plan(host: SimHost, inMs: number): void;
}

/** Steps of a takeover that checkers look at. */
export type TakeoverStep = "drained" | "adopted" | "claimed" | "spoken";

/** One look at a connection's record. */
export interface RecordView {
  /** Client's port. */
  port: number;
  /** Index of the record. */
  index: number;
  /** A field of it. */
  field: (name: Field) => number;
}

interface Link {
  heardSeq: number;
  heardAtMs: number;
  sentMs: Float64Array;
}

interface Switch {
  /** Asked for by a person, or by the judge. */
  isAsked: boolean;
  reason: "switch" | HandOverReason;
  phase: "asking" | "drain" | "handed";
  deadlineMs: number;
  epoch: number;
}

/** One replica. */
export class SimHost {
  /** Its name. */
  readonly name: string;
  /** Which life; the daemon's. */
  life = 0;
  /** The daemon runs. */
  isUp = false;
  /** The machine runs. */
  isPowered = true;
  /** Stopped (SIGSTOP) until then, true time. */
  stoppedUntilMs = 0;
  /** On its disk. */
  storedEpoch = 0;
  /** Route and neighbour answers are there. */
  claimed = false;
  core!: Core;
  replica!: Replica;
  channel: End | null = null;
  switching: Switch | null = null;
  greetings: End[] = [];
  /** Packets in the TUNs' queues. */
  net: Uint8Array[] = [];
  app: Uint8Array[] = [];
  /** Datagrams in the sockets, by link. */
  beats: { link: number; bytes: Uint8Array }[] = [];
  /** What came through the mailbox. */
  commands: ((nowMs: number) => Effect[])[] = [];
  /** The host's clock: `startMs` at true time 0, `rate` of it a true millisecond. */
  rate = 1;
  startMs = 0;
  readonly #options: HostOptions;
  readonly #around: Surroundings;
  readonly #peer: string;
  #trueMs: () => number;
  #links: Link[] = [];
  #incarnation = 0;
  #beatSeq = 0;
  #nextBeatMs = 0;
  #lastBeatMs = 0;
  #peerLife = new PeerLife();
  #judging!: Judge;
  #keepers = new Keepers();
  #peerReady = false;
  #nextConnectMs = 0;
  #attempt = 0;
  #announceAtMs: number[] = [];
  #probe: { ticket: number; untilMs: number; nextMs: number } | null = null;
  /** Somebody else has said that the address is theirs. */
  #rival: string | null = null;
  #relayUntilMs: number | null = null;
  #isMute = false;
  /** Recoverer; null where no whole logs are kept. */
  #recovery: Recovery | null = null;
  /** What was told of its server's process: that it runs, or how it ended. */
  #serverNews: ("runs" | "SIGKILL")[] = [];
  /** Connections that the standby was being brought when we looked last. */
  #joining = 0;
  /** Until when a switch that was asked for may wait for those. */
  #wantedUntilMs: number | null = null;
  /** Octets of the core's inbox that this pass has filled. */
  #inboxUsed = 0;
  #pass: Generator<string, void> | null = null;
  #bornMs = 0;

  /** Prepares a host that does not run yet. */
  constructor(
    name: string,
    options: HostOptions,
    { around, peer, trueMs }: { around: Surroundings; peer: string; trueMs: () => number },
  ) {
    this.name = name;
    this.#options = options;
    this.#around = around;
    this.#peer = peer;
    this.#trueMs = trueMs;
  }

  /** This host's monotonic clock. */
  clock(): number {
    return this.startMs + this.#trueMs() * this.rate;
  }

  /** DataLoop's and Service's constructors: a new life with nothing but the stored epoch. */
  start({ incarnation, beatSeq }: { incarnation: number; beatSeq: number }): void {
    const { heartbeatMs, detect, commit, arbiter, links, hint, log } = this.#options;
    this.life++;
    this.isUp = true;
    this.#incarnation = incarnation;
    this.#beatSeq = beatSeq;
    this.core = loadCore({
      memoryMiB: MEMORY_MIB,
      capacity: CAPACITY,
      address: SERVICE_V4,
      ports: [PORT],
      commit,
      divergence: "reset",
      logLimit: LOG_LIMIT,
      refuseUnprotectable: false,
    });
    if (log === null) this.core.wasm.setKeep(hint ? HINTED_LIMIT : REJOIN_LIMIT);
    else this.core.wasm.setLogMode(0, log.isWarm ? 1 : 0);
    this.core.wasm.setHint(hint ? 1 : 0);
    this.core.wasm.setBase(0, 0);
    this.core.wasm.setMssMax(MTU - 40);
    const nowMs = this.clock();
    this.replica = new Replica({
      service: SERVICE,
      node: this.name,
      peers: [this.#peer],
      prefer: "a",
      heartbeatMs,
      detect,
      epoch: this.storedEpoch,
      token: incarnation.toString(16),
      arbiter,
    }, nowMs);
    this.#links = Array.from({ length: links }, () => ({
      heardSeq: 0,
      heardAtMs: 0,
      sentMs: new Float64Array(BEATS_KEPT),
    }));
    this.#nextBeatMs = 0;
    this.#lastBeatMs = 0;
    this.#peerLife = new PeerLife();
    this.#judging = new Judge(this.name);
    this.#keepers = new Keepers();
    this.core.wasm.setJudgement(FIN_WAIT_MS);
    this.#peerReady = false;
    this.#nextConnectMs = 0;
    this.#announceAtMs = [];
    this.#relayUntilMs = null;
    this.#probe = null;
    this.#rival = null;
    this.#isMute = false;
    this.#joining = 0;
    this.#wantedUntilMs = null;
    this.#bornMs = nowMs;
    this.#recovery = log === null ? null : new Recovery(true, nowMs);
    this.#serverNews = [];
    if (this.#isWarm) this.#around.serve(this, true);
    this.#around.plan(this, 0);
  }

  /** The daemon ends at once (SIGKILL); its devices close with it, and its sockets if told so. */
  kill(closesSockets: boolean): void {
    this.isUp = false;
    this.#pass = null;
    this.claimed = false;
    if (closesSockets) {
      this.channel?.close();
      for (const end of this.greetings) end.close();
    }
    this.channel = null;
    this.greetings = [];
    this.switching = null;
    this.net = [];
    this.app = [];
    this.beats = [];
    this.commands = [];
  }

  /** A packet for the service arrives at this host. */
  receiveNet(packet: Uint8Array): void {
    if (!this.isUp || !this.claimed || this.net.length >= QUEUE_MAX) return;
    this.net.push(packet);
    if (!this.#isFrozen()) this.#around.plan(this, 0.02);
  }

  /** The server's kernel sends a packet. */
  receiveApp(packet: Uint8Array): void {
    if (!this.isUp || this.app.length >= QUEUE_MAX) return;
    this.app.push(packet);
    if (!this.#isFrozen()) this.#around.plan(this, 0.02);
  }

  /** A datagram of the peer arrives. */
  receiveBeat(link: number, bytes: Uint8Array): void {
    if (!this.isUp || this.beats.length >= DATAGRAMS_MAX) return;
    this.beats.push({ link, bytes });
    this.#around.plan(this, 0.02);
  }

  /** The main thread says what has become of the server's process: #noteApp(). */
  noteServer(news: "runs" | "SIGKILL"): void {
    if (!this.isUp || this.#recovery === null) return;
    this.#serverNews.push(news);
    this.#around.plan(this, 0.02);
  }

  /** Service.isWarm. */
  get #isWarm(): boolean {
    return this.#options.log?.isWarm ?? false;
  }

  /** Another host says that the address is its own. */
  hearRival(name: string): void {
    if (!this.isUp) return;
    this.#rival = name;
    this.#around.plan(this, 0.02);
  }

  /** Something through the mailbox. */
  command(act: (nowMs: number) => Effect[]): void {
    if (!this.isUp) return;
    this.commands.push(act);
    this.#around.plan(this, 0.02);
  }

  /** The peer's daemon connects: #accept(). */
  accept(end: End): boolean {
    if (!this.isUp || this.greetings.length >= GREETINGS_MAX) return false;
    this.greetings.push(end);
    return true;
  }

  /** The command `switch`: #startSwitch(). */
  requestSwitch(): void {
    this.command((nowMs) => {
      const { replica } = this;
      if (replica.role !== "primary" || !replica.ready || !this.#peerReady) return [];
      if (this.switching !== null || this.#wantedUntilMs !== null) return [];
      this.#wantedUntilMs = nowMs + SWITCH_MS;
      return this.#continueSwitch(nowMs);
    });
  }

  /** #continueSwitch(). */
  #continueSwitch(nowMs: number): Effect[] {
    const { core: { wasm }, replica } = this;
    if (this.#wantedUntilMs === null) return [];
    const isBehind = wasm.bringing() !== 0 || wasm.joining() > 0;
    const isReady = replica.role === "primary" && replica.ready;
    if (isBehind && isReady && nowMs < this.#wantedUntilMs) return [];
    this.#wantedUntilMs = null;
    if (!isReady || isBehind) return [];
    const effects = replica.requestSwitch(nowMs);
    if (effects.length > 0) this.#beginSwitch({ isAsked: true, reason: "switch" }, nowMs);
    return effects;
  }

  /** Goes on with the pass under way, or begins one; the name of the step reached, or null at its end. */
  resume(): string | null {
    this.#pass ??= this.#onePass();
    const { done, value } = this.#pass.next();
    if (done !== true) return value;
    this.#pass = null;
    return null;
  }

  /** True while a pass is under way. */
  get isInPass(): boolean {
    return this.#pass !== null;
  }

  /** #wait(): the longest pause before the next pass, milliseconds. */
  waitMs(): number {
    const nowMs = this.clock();
    const { wasm } = this.core;
    let waitMs = Math.min(WAIT_MAX_MS, this.#nextBeatMs - nowMs);
    if (this.#isMute) waitMs = Math.min(waitMs, WAIT_TIMERS_MS);
    else if (wasm.more() !== 0 || wasm.bodyLength() > 0 || this.#hasInput()) waitMs = 0;
    else if (wasm.hasTimers() !== 0 || this.switching !== null) {
      waitMs = Math.min(waitMs, WAIT_TIMERS_MS);
    }
    if (this.#recovery?.isBusy) waitMs = Math.min(waitMs, WAIT_TIMERS_MS);
    if (this.#announceAtMs.length > 0) waitMs = Math.min(waitMs, this.#announceAtMs[0] - nowMs);
    return Math.max(0, waitMs / this.rate);
  }

  /** This host answers neighbours who ask for the service address: claim.answerNeighbours(). */
  get answers(): boolean {
    return this.isUp && this.claimed && this.replica.voiceUntilMs >= this.clock();
  }

  /** Records in use. */
  records(): RecordView[] {
    const { wasm, view, offsets } = this.core;
    const found: RecordView[] = [];
    for (let index = 0; index < wasm.highWater(); index++) {
      const at = wasm.recordAt(index);
      if (at === 0) continue;
      const field = (name: Field) => view.getUint32(at + offsets[name], true);
      found.push({ port: field("ports") & 0xffff, index, field });
    }
    return found;
  }

  #isFrozen(): boolean {
    return this.#isMute || this.switching?.phase === "drain";
  }

  #hasInput(): boolean {
    if (this.beats.length > 0 || this.commands.length > 0) return true;
    if (this.#serverNews.length > 0) return true;
    const { channel } = this;
    if (channel !== null && channel.inbox.length > 0) return true;
    return !this.#isFrozen() && (this.net.length > 0 || this.app.length > 0);
  }

  #maySpeak(): boolean {
    if (this.#options.mutant === "speakAlways" && this.replica.role === "primary") return true;
    return this.replica.maySpeak(this.clock());
  }

  // One pass ------------------------------------------------------------------------------------

  /** #pass(). */
  *#onePass(): Generator<string, void> {
    const startMs = this.clock();
    yield* this.#receiveControl(startMs);
    yield* this.#serve(startMs);
    this.#beatIfDue();
    yield "beaten";
    yield* this.#judge(startMs);
  }

  /** #receiveControl(): commands, beats, greetings, the channel's own matters. */
  *#receiveControl(nowMs: number): Generator<string, void> {
    for (const act of this.commands.splice(0)) {
      yield* this.#perform(act(nowMs), nowMs);
    }
    for (const news of this.#serverNews.splice(0)) {
      if (news === "runs") this.#recovery!.handleStart();
      else yield* this.#recover(this.#recovery!.handleExit(news, nowMs), nowMs);
    }
    yield* this.#receiveBeats();
    for (const end of [...this.greetings]) this.#greet(end, nowMs);
    yield* this.#noteRival(nowMs);
    const { channel } = this;
    if (channel === null) return;
    if (!channel.open && channel.connected && channel.epoch < 0) {
      this.#finishConnect(channel, nowMs);
    } else if (!channel.connected && channel.broken !== null) {
      this.#closeChannel(`connecting failed: ${channel.broken}`);
    } else channel.flush(nowMs);
  }

  // Beats ---------------------------------------------------------------------------------------

  /** #beatIfDue(). */
  #beatIfDue(): void {
    const nowMs = this.clock();
    if (nowMs < this.#nextBeatMs) return;
    this.#nextBeatMs = Math.max(this.#nextBeatMs + this.#options.heartbeatMs, nowMs);
    this.#sendBeats(nowMs);
  }

  /** #sendBeats(). */
  #sendBeats(nowMs: number): void {
    this.#beatSeq = (this.#beatSeq + 1) >>> 0;
    this.#lastBeatMs = nowMs;
    const { role, epoch, ready, asking, voided } = this.replica;
    const invites = this.replica.invites(this.#peer);
    const counted = this.replica.counted(this.#peer);
    const services = [{ name: SERVICE, role, epoch, ready, asking, voided, invites, counted }];
    for (const [index, link] of this.#links.entries()) {
      const bytes = encodeBeat({
        kind: "beat",
        node: this.name,
        incarnation: this.#incarnation,
        seq: this.#beatSeq,
        echoSeq: link.heardSeq,
        echoDelayUs: Math.min(0xffffffff, Math.round((nowMs - link.heardAtMs) * 1000)),
        services,
      });
      link.sentMs[this.#beatSeq % BEATS_KEPT] = nowMs;
      this.#around.sendBeat(this, index, bytes);
    }
  }

  /** #receiveBeats() and Link.noteHeard(). */
  *#receiveBeats(): Generator<string, void> {
    const heard = this.beats.length > 0;
    for (const { link: index, bytes } of this.beats.splice(0)) {
      const beat = decodeBeat(bytes);
      const nowMs = this.clock();
      const link = this.#links[index];
      link.heardSeq = beat.seq;
      link.heardAtMs = nowMs;
      const sentMs = link.sentMs[beat.echoSeq % BEATS_KEPT];
      const isOld = ((this.#beatSeq - beat.echoSeq) >>> 0) >= BEATS_KEPT || sentMs === 0;
      const echoedMs = isOld ? null : sentMs;
      const novelty = this.#peerLife.note(beat, nowMs);
      const { node } = beat;
      const token = beat.incarnation.toString(16);
      for (const said of beat.services) {
        if (novelty === "late") {
          this.replica.handleEcho(said, { node, echoedMs, token });
          continue;
        }
        if (novelty === "reborn" && this.replica.role === "standby") {
          this.#closeChannel("the peer has started again");
        }
        const effects = this.replica.handleBeat(said, { node, nowMs, echoedMs, token });
        yield* this.#perform(effects, nowMs);
        if (said.ready && !this.#peerReady) this.core.wasm.bring();
        this.#peerReady = said.ready;
      }
    }
    if (heard && this.clock() - this.#lastBeatMs > this.#options.heartbeatMs / 2) {
      this.#nextBeatMs = 0;
      this.#beatIfDue();
    }
  }

  // Channels ------------------------------------------------------------------------------------

  /** #greet(): the first frame of a connection tells whose it is. */
  #greet(end: End, nowMs: number): void {
    const bytes = end.inbox.shift();
    if (bytes === undefined) {
      if (end.broken !== null) this.#dropGreeting(end);
      return;
    }
    const { frame } = openFrame(bytes);
    this.greetings = this.greetings.filter((each) => each !== end);
    if (frame.kind !== "hello") end.close();
    else this.#welcome(end, frame, nowMs);
  }

  /** #dropGreeting(). */
  #dropGreeting(end: End): void {
    this.greetings = this.greetings.filter((each) => each !== end);
    end.close();
  }

  /** #welcome(). */
  #welcome(end: End, hello: Frame & { kind: "hello" }, nowMs: number): void {
    const { replica, core } = this;
    if (replica.role !== "primary" || this.switching !== null) return end.close();
    if (this.channel !== null) this.#closeChannel("a new one replaces it");
    this.channel = end;
    end.open = true;
    end.connected = true;
    end.epoch = replica.epoch;
    core.wasm.setMssMax(Math.min(MTU, hello.mtu) - 40);
    core.wasm.begin(nowMs >>> 0);
    this.#around.unprotected(this, "another standby has joined since it began");
    this.#dropKeeper();
    this.#addKeeper(hello.logLimit);
    this.#send({
      kind: "welcome",
      node: this.name,
      epoch: replica.epoch,
      mtu: MTU,
      logLimit: LOG_LIMIT,
      capacity: CAPACITY,
    }, nowMs);
    replica.handleChannelUp(replica.epoch);
    this.#around.note(this, `standby joined in ${replica.epoch}`);
  }

  /** #connect(). */
  #connect(nowMs: number): void {
    if (this.channel !== null || nowMs < this.#nextConnectMs) return;
    this.#nextConnectMs = nowMs + RECONNECT_MS;
    const link = this.#attempt++ % this.#links.length;
    const end = this.#around.connect(this, link);
    if (end !== null) end.epoch = -1;
    this.channel = end;
  }

  /** #finishConnect(). */
  #finishConnect(channel: End, nowMs: number): void {
    channel.epoch = 0;
    this.replica.handleGreeting();
    this.#send({
      kind: "hello",
      node: this.name,
      service: SERVICE,
      epoch: this.replica.epoch,
      mtu: MTU,
      logLimit: LOG_LIMIT,
      capacity: CAPACITY,
      session: 1,
      keepsLogs: this.#options.log !== null,
    }, nowMs);
  }

  /** #closeChannel(). */
  #closeChannel(why: string): void {
    const { channel } = this;
    if (channel === null) return;
    channel.close();
    this.channel = null;
    this.#nextConnectMs = this.clock() + RECONNECT_MS;
    this.#around.note(this, `channel closed: ${why}`);
    this.replica.handleChannelDown(why);
  }

  /** Channel.receive(): every whole frame that is there. */
  *#receiveFrames(channel: End, only?: "data"): Generator<string, void> {
    const { wasm } = this.core;
    // Frames of one pass lie side by side: packets in them are written out where they lie.
    this.#inboxUsed = 0;
    while (this.channel === channel && channel.inbox.length > 0) {
      const bytes = channel.inbox[0];
      if (this.#inboxUsed + bytes.length > wasm.inboxSize()) {
        if (only === undefined) return;
        this.#inboxUsed = 0;
      }
      channel.inbox.shift();
      try {
        const { frame, body } = openFrame(bytes);
        if (only === undefined || frame.kind === only) {
          yield* this.#handleFrame(channel, frame, body);
        }
      } catch (error) {
        if (!(error instanceof MessageError)) throw error;
        return this.#closeChannel(error.message);
      }
      yield "frame";
    }
    if (this.channel === channel && channel.broken !== null && channel.inbox.length === 0) {
      this.#closeChannel(channel.broken);
    }
  }

  /** #handleFrame(). */
  *#handleFrame(channel: End, frame: Frame, body: Uint8Array): Generator<string, void> {
    const nowMs = this.clock();
    const { core, replica } = this;
    const { wasm } = core;
    switch (frame.kind) {
      case "data": {
        if (!channel.open) throw new MessageError("data before the greeting");
        if (frame.epoch < channel.epoch) {
          throw new MessageError(`data of epoch ${frame.epoch}, known is ${channel.epoch}`);
        }
        channel.epoch = frame.epoch;
        this.#noteKept(frame.committed);
        if (frame.bodyLength === 0) return;
        const at = wasm.inbox() + this.#inboxUsed;
        this.#inboxUsed += body.length;
        core.bytes.set(body, at);
        // A mutant takes one message in 16 for applied that it has thrown away.
        const isUnread = this.#options.mutant === "confirmUnread" && frame.seq % 16 === 15;
        const trouble = isUnread ? 0 : wasm.apply(at, body.length);
        if (trouble !== 0) {
          throw new MessageError(`record at offset ${trouble - 1} is not well formed`);
        }
        channel.applied = frame.seq;
        return;
      }
      case "welcome":
        if (channel.open || replica.role !== "standby") {
          throw new MessageError("welcome out of turn");
        }
        if (frame.epoch < replica.epoch) {
          throw new MessageError(`welcome to epoch ${frame.epoch}, known is ${replica.epoch}`);
        }
        channel.open = true;
        channel.epoch = frame.epoch;
        wasm.setMssMax(Math.min(MTU, frame.mtu) - 40);
        wasm.setPeerLogLimit(frame.logLimit);
        yield* this.#forget(nowMs);
        wasm.setRole(CoreRole.standby);
        replica.handleChannelUp(frame.epoch);
        this.#around.note(this, `following in ${frame.epoch}`);
        return;
      case "handover":
        yield* this.#perform(
          replica.handleHandover(frame.epoch, nowMs, { reason: handOverReason(frame.reason) }),
          nowMs,
        );
        if (replica.role === "primary") this.#send({ kind: "took", epoch: replica.epoch }, nowMs);
        return;
      case "took":
        this.#relayUntilMs = nowMs + RELAY_MS;
        this.switching = null;
        return;
      default:
        throw new MessageError(`frame ${frame.kind} out of turn`);
    }
  }

  #send(frame: Frame, nowMs: number): void {
    this.channel?.send(makeFrame(frame, new Uint8Array(0)), nowMs);
  }

  /** Service.addKeeper(). */
  #addKeeper(logLimit: number): void {
    const { wasm } = this.core;
    wasm.standbyJoined(logLimit);
    this.#keepers.add("standby", wasm.messageSeq());
  }

  /** Service.dropKeeper(), without a disk. */
  #dropKeeper(): void {
    this.#keepers.remove("standby");
    this.core.wasm.standbyLost();
  }

  /** Service.noteKept(). */
  #noteKept(seq: number): void {
    this.#keepers.confirm("standby", seq, this.core.wasm.messageSeq());
    const { committed } = this.#keepers;
    if (committed !== null) this.core.wasm.committed(committed);
  }

  // Forwarding ----------------------------------------------------------------------------------

  /** #serve(). */
  *#serve(nowMs: number): Generator<string, void> {
    const { wasm } = this.core;
    wasm.begin(this.#coreMs(nowMs));
    const { channel } = this;
    if (channel !== null && channel.connected && channel.epoch >= 0) {
      yield* this.#receiveFrames(channel);
      this.#beatIfDue();
      yield "received";
    }
    this.#isMute = this.replica.role === "primary" && !this.#maySpeak();
    if (this.#isMute) return;
    const frozen = this.switching?.phase === "drain";
    const net = frozen ? 0 : this.#read(this.net, "net");
    const app = frozen ? 0 : this.#read(this.app, "app");
    const count = wasm.run(net, app);
    yield "run";
    this.#sendMessage(nowMs);
    yield "sent";
    yield* this.#write(count);
    this.#noteBrought();
    this.#judgeFindings(nowMs);
    if (this.replica.role === "primary" || this.#isWarm) yield* this.#stepRecovery(nowMs);
    if (this.switching?.phase === "drain") yield* this.#drain(this.switching, nowMs);
  }

  /** Recoverer.step(). */
  *#stepRecovery(nowMs: number): Generator<string, void> {
    const { wasm } = this.core;
    if (this.#recovery === null) return;
    const effects = this.#recovery.handlePass({
      nowMs,
      endsHeld: wasm.endsHeld() !== 0,
      listening: LISTENING[wasm.probeAnswer()],
      look: () => this.#around.lifeOfServer(this),
      behind: () => wasm.behind(),
    });
    yield* this.#recover(effects, nowMs);
  }

  /** Recoverer.#perform() and its host's flush(). */
  *#recover(effects: RecoveryEffect[], nowMs: number): Generator<string, void> {
    const { wasm } = this.core;
    for (const effect of effects) {
      if (effect.kind !== "probe") this.#around.note(this, JSON.stringify(effect));
      wasm.begin(this.#coreMs(nowMs));
      switch (effect.kind) {
        case "probe":
          wasm.probe(PORT, effect.again ? 1 : 0);
          break;
        case "confirm":
          wasm.confirmEnds();
          break;
        case "replay":
          wasm.replay();
          break;
        case "detach":
          while (wasm.detach() !== 0) {
            yield* this.#flush();
            wasm.begin(this.#coreMs(nowMs));
          }
          if (effect.seen !== null) this.#passOn(effect.reason, effect.seen, nowMs);
          break;
        case "recovered":
          break;
      }
      yield* this.#flush();
    }
  }

  *#flush(): Generator<string, void> {
    const count = this.core.wasm.settle();
    this.#sendMessage(this.clock());
    yield* this.#write(count);
  }

  /** #passOn(). */
  #passOn(reason: RecoveryReason, seen: string, nowMs: number): void {
    const verdict = handOverReason(reason);
    const situation = this.#situation(nowMs);
    if (verdict === "switch" || !situation.canHandOver || this.core.wasm.canPass() === 0) return;
    this.#carryOut(this.#judging.handleFailure(verdict, seen, situation), nowMs);
  }

  /** #wantServer(). */
  #wantServer(wanted: boolean, nowMs: number): void {
    if (this.#recovery === null) return;
    const isFed = this.#isWarm && this.#recovery.state !== "waiting";
    if (wanted && !isFed) this.#recovery.handlePromoted(nowMs);
    if (!this.#isWarm) this.#around.serve(this, wanted);
  }

  /** Connections that the standby has been brought are to survive again. */
  #noteBrought(): void {
    const joining = this.core.wasm.joining();
    if (joining < this.#joining && this.replica.role === "primary") {
      const kept = this.records().filter(({ field }) =>
        field("reason") === 0 && (field("flags") & RecordFlag.hot) !== 0
      );
      this.#around.brought(kept.map(({ port }) => port));
    }
    this.#joining = joining;
  }

  #coreMs(nowMs: number): number {
    return (this.#options.mutant === "stopTimers" ? this.#bornMs : nowMs) >>> 0;
  }

  #read(queue: Uint8Array[], side: "net" | "app"): number {
    const { wasm, view, bytes } = this.core;
    const budget = side === "net" ? wasm.netBudget() : wasm.appBudget();
    const slots = side === "net" ? wasm.netSlots() : wasm.appSlots();
    const lengths = side === "net" ? wasm.netLengths() : wasm.appLengths();
    const packets = queue.splice(0, budget);
    for (const [index, packet] of packets.entries()) {
      bytes.set(packet, slots + index * wasm.slotSize());
      view.setUint32(lengths + index * 4, packet.length, true);
    }
    return packets.length;
  }

  /** #sendMessage(). */
  #sendMessage(nowMs: number): void {
    const { channel, replica } = this;
    const { wasm, bytes } = this.core;
    const ackDue = wasm.takeAckDue() !== 0;
    if (channel === null || !channel.open) {
      if (wasm.bodyLength() > 0) wasm.sealed();
      return;
    }
    if (replica.role === "primary" && wasm.bringing() !== 0 && channel.backlogOctets === 0) {
      wasm.tellAgain(0, TELL_OCTETS);
    }
    const bodyLength = wasm.bodyLength();
    const { epoch } = replica;
    const committed = channel.applied;
    if (bodyLength > 0) {
      const seq = wasm.messageSeq() >>> 0;
      const body = bytes.slice(wasm.body(), wasm.body() + bodyLength);
      channel.send(
        makeFrame({ kind: "data", epoch, seq, committed, bodyLength, further: [] }, body),
        nowMs,
      );
      channel.acknowledged = committed;
      wasm.sealed();
      if (this.#options.mutant === "commitEarly") wasm.committed(seq);
    } else if (ackDue && channel.acknowledged !== committed) {
      channel.acknowledged = committed;
      this.#send({ kind: "data", epoch, seq: 0, committed, bodyLength: 0, further: [] }, nowMs);
    }
  }

  /** #write(). */
  *#write(count: number): Generator<string, void> {
    const { wasm, view, bytes } = this.core;
    let speaks = count > 0 && this.#maySpeak();
    const list = wasm.outList();
    for (let i = 0; i < count; i++) {
      yield "written!";
      if ((i & 7) === 7) {
        this.#beatIfDue();
        speaks = this.#maySpeak();
      }
      const entry = list + i * wasm.outEntry();
      const toServer = view.getUint32(entry + 16, true) === 1;
      if (!toServer && !speaks) {
        wasm.noteSwallowed();
        continue;
      }
      const at = view.getUint32(entry + 20, true);
      const packet = bytes.slice(at, at + view.getUint32(entry + 8, true));
      if (toServer) this.#around.toServer(this, packet);
      else this.#around.toClients(this, packet);
    }
  }

  // Roles ---------------------------------------------------------------------------------------

  /** #judge(). */
  *#judge(nowMs: number): Generator<string, void> {
    const { replica, channel } = this;
    for (const end of [...this.greetings]) {
      if (nowMs - end.sinceMs > GREET_MS) this.#dropGreeting(end);
    }
    if (channel !== null) {
      if (!channel.open && nowMs - channel.sinceMs > GREET_MS) {
        this.#closeChannel("no greeting came");
      } else if (channel.stalledSinceMs !== null && nowMs - channel.stalledSinceMs > STALL_MS) {
        this.#closeChannel(`the peer took nothing for ${STALL_MS} ms`);
      }
    }
    yield* this.#perform(replica.handleTime(nowMs), nowMs);
    yield* this.#continueProbe(nowMs);
    yield* this.#perform(this.#continueSwitch(nowMs), nowMs);
    while (this.#announceAtMs.length > 0 && this.#announceAtMs[0] <= nowMs) {
      this.#announceAtMs.shift();
      if (this.#maySpeak()) this.#around.announce(this);
    }
    if (this.#relayUntilMs !== null && nowMs >= this.#relayUntilMs) {
      this.#relayUntilMs = null;
      if (replica.role !== "primary") {
        this.core.wasm.relay(0);
        this.claimed = false;
      }
    }
    const { switching } = this;
    if (switching !== null && nowMs > switching.deadlineMs) this.#failSwitch();
    else if (switching?.isAsked === false && switching.phase === "asking") {
      yield* this.#perform(replica.requestSwitch(nowMs), nowMs);
    }
  }

  /** #noteRival(). */
  *#noteRival(nowMs: number): Generator<string, void> {
    const by = this.#rival;
    const probe = this.#probe;
    this.#rival = null;
    if (by === null || probe === null) return;
    this.#probe = null;
    yield* this.#perform(this.replica.handleProbe(probe.ticket, by, nowMs), nowMs);
  }

  /** #continueProbe(). */
  *#continueProbe(nowMs: number): Generator<string, void> {
    const probe = this.#probe;
    if (probe === null || nowMs < probe.nextMs) return;
    if (nowMs < probe.untilMs) {
      probe.nextMs = nowMs + PROBE_EVERY_MS;
      return this.#around.askOwner(this);
    }
    this.#probe = null;
    yield* this.#perform(this.replica.handleProbe(probe.ticket, null, nowMs), nowMs);
  }

  /** #perform(): each effect is a step. */
  *#perform(effects: Effect[], nowMs: number): Generator<string, void> {
    for (const effect of effects) {
      yield effect.kind;
      if (effect.kind !== "follow" && effect.kind !== "consult") {
        this.#around.note(this, JSON.stringify(effect));
      }
      switch (effect.kind) {
        case "storeEpoch":
          if (this.#options.mutant === "storeNothing") break;
          this.#around.stored(this, effect.epoch);
          this.storedEpoch = effect.epoch;
          break;
        case "promote":
          yield* this.#takeOver(effect, nowMs);
          break;
        case "follow":
          this.#connect(nowMs);
          break;
        case "dropStandby":
          this.#around.unprotected(this, "the standby was lost since it began");
          this.#dropKeeper();
          this.channel?.close();
          this.channel = null;
          this.#endSwitch();
          break;
        case "silence":
          yield* this.#silence(nowMs);
          break;
        case "handOver":
          if (this.switching?.phase !== "asking") break;
          this.switching.phase = "drain";
          this.switching.epoch = effect.epoch;
          break;
        case "keep":
          this.#endSwitch();
          break;
        case "arbitrate":
          this.#around.ask(this, effect.ticket, effect.claim);
          break;
        case "consult":
          this.#around.ask(this, effect.ticket, null);
          break;
        case "probe":
          if (this.#options.mutant === "probeNothing") {
            yield* this.#perform(this.replica.handleProbe(effect.ticket, null, nowMs), nowMs);
            break;
          }
          this.#rival = null;
          this.#probe = { ticket: effect.ticket, untilMs: nowMs + PROBE_MS, nextMs: nowMs };
          break;
        case "judgement":
          break;
      }
    }
  }

  /** #endSwitch(). */
  #endSwitch(): void {
    if (this.switching?.phase !== "handed") this.#failSwitch();
  }

  /** #failSwitch(). */
  #failSwitch(): void {
    const { switching } = this;
    this.switching = null;
    if (switching?.isAsked === false) {
      this.#carryOut(this.#judging.handleHandOverFailed(this.clock()), this.clock());
    }
  }

  /** #beginSwitch(). */
  #beginSwitch(why: Pick<Switch, "isAsked" | "reason">, nowMs: number): void {
    this.switching = { ...why, phase: "asking", deadlineMs: nowMs + SWITCH_MS, epoch: 0 };
  }

  /** #carryOut(). */
  #carryOut(effects: JudgeEffect[], nowMs: number): void {
    for (const effect of effects) {
      this.#around.note(this, JSON.stringify(effect));
      if (effect.kind === "releaseEnds") this.core.wasm.releaseEnds();
      else if (effect.kind === "handOver" && this.switching === null) {
        this.#beginSwitch({ isAsked: false, reason: effect.reason }, nowMs);
      }
    }
  }

  /** #judgeFindings() and readFindings(). */
  #judgeFindings(nowMs: number): void {
    const { wasm, view } = this.core;
    const count = wasm.takeFindings();
    if (count === 0) return;
    const findings = Array.from({ length: count }, (_, index): CoreFinding => {
      const at = wasm.findings() + index * wasm.findingSize();
      return {
        kind: FINDINGS[view.getUint32(at, true)],
        clientPort: view.getUint32(at + 8, true) & 0xffff,
        ours: view.getUint32(at + 12, true),
        theirs: view.getUint32(at + 16, true),
        waitedMs: view.getUint32(at + 20, true),
      };
    });
    this.#carryOut(this.#judging.handleFindings(findings, this.#situation(nowMs)), nowMs);
  }

  /** #situation(). */
  #situation(nowMs: number): Situation {
    const { replica } = this;
    const primary = replica.role === "primary";
    const canHandOver = primary && replica.ready && this.#peerReady;
    return { primary, peer: this.#peer, peerWorks: this.#peerReady, canHandOver, nowMs };
  }

  /** #silence(). */
  *#silence(nowMs: number): Generator<string, void> {
    const { wasm } = this.core;
    this.claimed = false;
    this.#announceAtMs = [];
    wasm.setRole(CoreRole.silent);
    this.#around.unprotected(this, "its speaker fell silent");
    this.#keepers.clear();
    wasm.standbyLost();
    do {
      wasm.begin(this.#coreMs(nowMs));
      yield* this.#write(wasm.settle());
    } while (wasm.heldCount() > 0);
    wasm.begin(this.#coreMs(nowMs));
    this.channel?.close();
    this.channel = null;
    this.#endSwitch();
  }

  /** #forget(). */
  *#forget(nowMs: number): Generator<string, void> {
    const { wasm } = this.core;
    let more = true;
    while (more) {
      wasm.begin(this.#coreMs(nowMs));
      more = wasm.forgetAll(1) !== 0;
      yield* this.#write(wasm.settle());
    }
    wasm.begin(this.#coreMs(nowMs));
  }

  /** #takeOver(): drain, adopt, claim, speak. */
  *#takeOver(effect: Effect & { kind: "promote" }, nowMs: number): Generator<string, void> {
    const { wasm } = this.core;
    const { mutant } = this.#options;
    const peerStays = effect.reason !== "start" && effect.reason !== "peer-silent";
    if (mutant === "claimFirst") this.#claim();
    if (!peerStays && this.channel !== null) {
      yield* this.#drainChannel();
      const { channel } = this;
      this.#around.reached(this, "drained");
      channel?.close();
      this.channel = null;
    }
    yield "drained";
    if (effect.afresh) this.#around.unprotected(this, "its next speaker began afresh");
    if (effect.afresh || mutant === "forgetAtTakeover") yield* this.#forget(nowMs);
    wasm.begin(this.#coreMs(this.clock()));
    wasm.promote(peerStays ? 1 : 0);
    this.#keepers.clear();
    if (peerStays) this.#keepers.add("standby", wasm.messageSeq());
    this.#around.reached(this, "adopted");
    yield "adopted";
    if (mutant !== "claimFirst") this.#claim();
    yield "claimed";
    let more = true;
    while (more) {
      wasm.begin(this.#coreMs(this.clock()));
      more = wasm.speak() !== 0;
      const count = wasm.settle();
      if (peerStays) this.#sendMessage(nowMs);
      else if (wasm.bodyLength() > 0) wasm.sealed();
      yield* this.#write(count);
    }
    this.#around.reached(this, "spoken");
    this.#wantServer(true, this.clock());
    this.#announceAtMs = ANNOUNCE_AGAIN_MS.map((ms) => this.clock() + ms);
    wasm.begin(this.#coreMs(this.clock()));
    yield "spoken";
  }

  /** AddressClaim.claim() and announce(). */
  #claim(): void {
    this.#around.reached(this, "claimed");
    this.claimed = true;
    if (this.#maySpeak()) this.#around.announce(this);
  }

  /** #drainChannel(). */
  *#drainChannel(): Generator<string, void> {
    const { channel } = this;
    if (channel === null) return;
    if (channel.connected && channel.epoch >= 0) yield* this.#receiveFrames(channel, "data");
  }

  /** #drain(): hands over as soon as all input is committed and all output out. */
  *#drain(switching: Switch, nowMs: number): Generator<string, void> {
    const { core: { wasm }, channel, replica } = this;
    if (channel === null || wasm.heldCount() > 0 || wasm.isInputCommitted() === 0) return;
    if (switching.reason !== "switch") wasm.judgeEnds();
    wasm.markAll();
    while (wasm.dirty() !== 0) {
      wasm.begin(this.#coreMs(nowMs));
      const count = wasm.settle();
      this.#sendMessage(nowMs);
      yield* this.#write(count);
      if (this.channel === null) return;
    }
    const gone = this.records().filter(({ field }) => {
      return (field("flags") & GONE) !== 0 && (field("flags") & RecordFlag.logged) === 0;
    });
    const why = "the server of who handed over had ended it alone";
    this.#around.unprotected(this, why, gone.map(({ port }) => port));
    wasm.demote();
    this.#keepers.clear();
    this.#wantServer(false, nowMs);
    wasm.relay(1);
    const { epoch } = switching;
    yield* this.#perform(replica.handleHandedOver(epoch), nowMs);
    yield "handed";
    this.#send({ kind: "handover", epoch, reason: switching.reason }, nowMs);
    this.#judging.handleHandedOver();
    this.#announceAtMs = [];
    switching.phase = "handed";
  }
}

/** Whether a record is protected, and why it is not. */
export function protectionOf({ field }: RecordView): { isHot: boolean; reason: string | null } {
  const isHot = (field("flags") & RecordFlag.hot) !== 0;
  return { isHot, reason: REASONS[field("reason")] ?? null };
}

function makeFrame(frame: Frame, body: Uint8Array): Uint8Array {
  const envelope = encodeFrame(frame);
  const bytes = new Uint8Array(2 + envelope.length + body.length);
  bytes[0] = envelope.length >> 8;
  bytes[1] = envelope.length;
  bytes.set(envelope, 2);
  bytes.set(body, 2 + envelope.length);
  return bytes;
}

function openFrame(bytes: Uint8Array): { frame: Frame; body: Uint8Array } {
  const end = 2 + ((bytes[0] << 8) | bytes[1]);
  return { frame: decodeFrame(bytes.slice(2, end)), body: bytes.subarray(end) };
}
