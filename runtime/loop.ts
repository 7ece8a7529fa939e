/**
 * loop.ts - the data plane: one blocking loop in a worker of its own
 *
 * Theory of operation
 * The thread that forwards is the thread that says it is alive. One pass:
 *
 *   poll ──> beats ──> for each service: channel ──> clients ──> server ──> core ──> message ──> out
 *     ^                                                                                          │
 *     └───────────── roles: what was heard and the time into Replica, its effects ───────────────┘
 *
 * Packets are read into the core's batch slots and written from wherever the core left them: the
 * output list is an array of `struct iovec`, so nothing is copied and nothing is allocated for a
 * packet. After the last packet the loop looks again for a while before it sleeps (spin.ts). Between
 * passes that moved something it asks poll(2) only now and then: every pass tries the devices and
 * channels anyway, and what only poll can tell is not urgent.
 *
 *   takeover   drain the channel -> adopt (core.promote) -> claim route, proxy entry, GARP/NA ->
 *              speak (parked flights, ACKs)                                        P7, DESIGN 5.6
 *   switch     stop reading -> wait until all is committed -> tell all progress -> demote ->
 *              "handover" -> relay what still arrives here -> "took" -> release the address
 *
 * Commands come as JSON through a mailbox that is polled with the rest; answers and events leave
 * with postMessage.
 *
 * Limits: see core/limits.ts for a pass, channel.ts for the backlog; STALL_MS for a peer that takes
 * nothing, SWITCH_MS for a switch that does not come about.
 */
/// <reference lib="deno.worker" />
import { Channel } from "./channel.ts";
import {
  type Core,
  CoreRole,
  type Field,
  loadCore,
  readCounters,
  REASONS,
  RecordFlag,
} from "./core.ts";
import { AddressClaim } from "./io/address_claim.ts";
import { type Capability, keepOnlyCapabilities } from "./io/capabilities.ts";
import { addressOf, libc, Memory, POLLIN, POLLOUT } from "./io/libc.ts";
import { openLibcrypto } from "./io/libcrypto.ts";
import { Priority } from "./io/scheduling.ts";
import {
  acceptTcp,
  bindUdp,
  connectTcp,
  type Endpoint,
  listenTcp,
  parseHostPort,
  socketError,
  take,
} from "./io/socket.ts";
import { Greeting, type Hello } from "./greeting.ts";
import { Keyring } from "./protocol/keyring.ts";
import { linkFor, type LinkProgress } from "./protocol/links.ts";
import {
  type Beat,
  BEAT_MAX,
  decodeBeat,
  encodeBeat,
  type Frame,
  MessageError,
  type Role,
} from "./protocol/message.ts";
import {
  type CoreFinding,
  FINDINGS,
  type HandOverReason,
  handOverReason,
  Judge,
  type JudgeEffect,
  type Situation,
} from "./protocol/judge.ts";
import type { Claim, RegisterValue } from "./protocol/register.ts";
import {
  type ArbiterTimes,
  type Arbitration,
  type Effect,
  type Evidence,
  PROBE_MS,
  Replica,
  type TakeoverReason,
  type Verdict,
} from "./protocol/replica.ts";
import { Recoverer } from "./recoverer.ts";
import { type RefusalKind, Refusals } from "./refusals.ts";
import { BEAT_HEADER, BeatSeal, placeOf, StreamSeal } from "./seal.ts";
import { keepUp } from "./resumption.ts";
import { Spin } from "./spin.ts";
import type { RecoveryStatus, TakeoverStatus } from "./status.ts";

/** What the loop is started with; plain data, it crosses to the worker. */
export interface LoopOptions {
  /** This node's name. */
  node: string;
  /** The other replica, or null. */
  peer: { name: string; links: { local: string; remote: string }[] } | null;
  /** Interval of beats, milliseconds. */
  heartbeatMs: number;
  /** Beats that may be missed on every link before the peer counts as down. */
  detect: number;
  /** How long to poll without waiting after the last packet, microseconds; 0 for never. */
  spinUs: number;
  /** Who decides when the replicas lose sight of each other; null for nobody. */
  arbiter: ArbiterTimes | null;
  /** How traffic with the peer is protected; null for plain text. */
  seal: { renewOctets: number } | null;
  /** Counts the passes of the loop, for those who watch it: one 32-bit number. */
  passes: SharedArrayBuffer;
  /** Where commands arrive. */
  mailboxFd: number;
  /** The services of this node. */
  services: LoopServiceOptions[];
}

/** One service of the loop. */
export interface LoopServiceOptions {
  /** Its name, the same on both nodes. */
  name: string;
  /** Service address, canonical text and octets. */
  address: string;
  /** The same as octets: 4 or 16. */
  addressBytes: Uint8Array;
  /** TCP ports that are served. */
  ports: number[];
  /** When client-bound segments may leave (DESIGN 5.3). */
  commit: "strict" | "ack";
  /** What becomes of connections whose servers wrote different octets (P5). */
  divergence: "reset" | "unprotect" | "ignore";
  /** Input log of one connection, octets. */
  logLimit: number;
  /** Memory of its packet core, MiB. */
  memoryMiB: number;
  /** Connections that are followed at one time. */
  capacity: number;
  /** Refuse connections that cannot be protected, instead of passing them. */
  refuseUnprotectable: boolean;
  /** Interface where clients arrive. */
  interfaceName: string;
  /** MTU of the path, octets. */
  mtu: number;
  /** The TUN on the host's side: its name and both descriptors. */
  tunName: string;
  /** Descriptor of the TUN on the clients' side. */
  netFd: number;
  /** Descriptor of the TUN on the server's side. */
  appFd: number;
  /** Node that is primary at the first start; null for the name that sorts first. */
  prefer: string | null;
  /** How long one server's FIN or RST waits for the other's, milliseconds. */
  finWaitMs: number;
  /** How far behind a server may be for `lagTimeMs` though it moves, octets. */
  lagBytes: number;
  /** How long a server may stand still while the other replica's goes on, milliseconds. */
  lagTimeMs: number;
  /** File that keeps the highest epoch. */
  epochFile: string;
  /** Log mode; null for hot. */
  log: {
    /** A client whose log is full is slowed, instead of going on unprotected. */
    holds: boolean;
    /** The server is started by this node. */
    spawns: boolean;
  } | null;
}

/** The last time this replica became primary. */
export interface Takeover extends TakeoverStatus {
  /** Why. */
  reason: TakeoverReason;
  /** The term that began with it. */
  epoch: number;
}

/** What the loop knows about a service. */
export interface LoopServiceStatus {
  /** Its name. */
  name: string;
  /** This node's role for it. */
  role: Role;
  /** Highest epoch known. */
  epoch: number;
  /** A standby could take over now. */
  protected: boolean;
  /** How many connections there are, by protection. */
  connections: { total: number; hot: number; log: number; unprotected: number };
  /** Null when this node has not become primary since it started. */
  lastTakeover: Takeover | null;
  /** The core's counters, since the start. */
  counters: Record<string, number>;
  /** Questions to the arbiter; times are wall clock, milliseconds since 1970. */
  arbitration: Arbitration;
  /** A primary that may send now; it may not while it cannot tell whether another one speaks. */
  speaks: boolean;
  /** Our server hangs, as far as its connections show. */
  appHangs: boolean;
  /** What was judged lately and on what evidence, oldest first. */
  judgements: LoopJudgement[];
  /** Log mode: where its server stands; null in hot mode. */
  recovery: RecoveryStatus | null;
}

/** One judgement. */
export interface LoopJudgement {
  /** When; ISO 8601. */
  at: string;
  /** What. */
  judgement: string;
  /** What it rests on. */
  evidence: Evidence;
}

/** What the loop knows about a link. */
export interface LoopLinkStatus {
  /** Own end, as configured. */
  local: string;
  /** The peer's end. */
  remote: string;
  /** The peer was heard here in time. */
  up: boolean;
  /** Smoothed round trip of beats, microseconds; null before the first. */
  rttUs: number | null;
}

/** Answer to the command `status`. */
export interface LoopStatus {
  /** One for each service. */
  services: LoopServiceStatus[];
  /** One for each link. */
  links: LoopLinkStatus[];
  /** What came over the links and was not the peer's, by kind. */
  refused: Record<RefusalKind, number>;
  /** Longest pass since the last question, milliseconds. */
  longestPassMs: number;
}

/** One connection, for people. */
export interface LoopConnection {
  /** Name of its service. */
  service: string;
  /** Address and port of the client. */
  client: string;
  /** Port of the service. */
  port: number;
  /** Where handshake and teardown stand. */
  state: "handshake" | "established" | "closing" | "closed";
  /** Whether it would survive the end of this node. */
  protection: "hot" | "log" | "unprotected";
  /** Why it is not protected; null when it is. */
  reason: string | null;
  /** Octets from the client. */
  bytesIn: number;
  /** Octets to the client. */
  bytesOut: number;
  /** Since its first segment, milliseconds. */
  ageMs: number;
  /** Since its last segment, milliseconds. */
  idleMs: number;
  /** Sequence numbers and windows of the record, for diagnosis; see core/flow/connection.ts. */
  numbers: Record<string, number>;
}

/** Answer to the command `switch`. */
export interface LoopSwitch {
  /** Name of the service. */
  service: string;
  /** The new primary's epoch. */
  epoch: number;
  /** Connections that were handed over. */
  connections: number;
  /** From the last packet forwarded to the peer's word that it speaks, milliseconds. */
  gapMs: number;
}

/** Fields of a record that are shown for diagnosis. */
const NUMBERS = [
  "flags",
  "leg",
  "irs",
  "rcvNxt",
  "rangeCount",
  "legAck",
  "legNxt",
  "legEdge",
  "ackShown",
  "edgeShown",
  "peerEdge",
  "iss",
  "issDelta",
  "sndNxt",
  "sndShown",
  "cliAck",
  "cliWnd",
  "parkBase",
  "parkEnd",
  "tsDelta",
] as const satisfies readonly Field[];

/** Commands through the mailbox. */
export type LoopCommand =
  & { id: number }
  & (
    | { kind: "status" }
    | { kind: "connections" }
    | { kind: "switch"; service: string }
    /** The spawned server runs as process `pid`, or has ended: how. */
    | { kind: "app"; service: string; ended: string | null; pid: number | null }
    /** Log mode: connections leave the server, which is going to be replaced. */
    | { kind: "detach"; service: string }
    | { kind: "stop" }
    | { kind: "verdict"; service: string; verdict: Verdict }
    /** What a register holds; without a value it could not be read. */
    | { kind: "register"; service: string; ticket: number; value?: RegisterValue | null }
    | KeyCommand
  );

/** One step of a key's life (protocol/keyring.ts); `secret`, to install, in hexadecimal digits. */
export type KeyCommand =
  | { kind: "key"; step: "install"; keyId: number; secret: string }
  | { kind: "key"; step: "use" | "keepOnly"; keyId: number };

/** What the worker posts. */
export type LoopMessage =
  | { kind: "started" }
  | { kind: "failed"; message: string }
  | { kind: "reply"; id: number; value: unknown }
  | { kind: "error"; id: number; message: string }
  /** Asks the arbiter: to decide a claim, or, without one, for what the register holds. */
  | { kind: "ask"; service: string; ticket: number; claim: Claim | null }
  | {
    kind: "log";
    level: "debug" | "info" | "warn" | "error";
    text: string;
    fields: Record<string, unknown>;
  }
  /** So much was sealed with the key in use that a new one should be agreed on. */
  | { kind: "worn" }
  /** Log mode: the server is wanted here, or no longer. */
  | { kind: "serve"; service: string; wanted: boolean }
  | { kind: "stopped" };

/** A peer that takes nothing from the channel for so long is no standby. */
const STALL_MS = 2000;
/** A switch that has not come about by then is given up. */
const SWITCH_MS = 3000;
/** A channel that has not been greeted by then is closed. */
const GREET_MS = 1000;
/** Pause between attempts to open a channel. */
const RECONNECT_MS = 100;
/** How long the old primary still hands over what arrives, after the new one speaks. */
const RELAY_MS = 100;
/** When the address is announced again after a claim. */
const ANNOUNCE_AGAIN_MS = [10, 50, 200, 1000] as const;
/** Longest wait in poll, so that a stop is always seen. */
const WAIT_MAX_MS = 100;
/** While timers of the core run. */
const WAIT_TIMERS_MS = 5;
const DATAGRAM_MAX = BEAT_MAX + BEAT_HEADER;
/** Busy passes go on without poll for at most so long: a beat must not lie unread. */
const POLL_EVERY_MS = 0.5;
/** Beats are heard only once keys are agreed on: a call, TLS, and three messages. */
const LISTEN_SEALED_MS = 1000;
/** Connections that may wait for their greeting. */
const GREETINGS_MAX = 16;
/**
 * A beat of the life before is late, and not news; but who has just started may hear a late one after
 * the first of the new life. When the one it took for new is silent for so long, it was the late one.
 */
const FORMER_MS = 1000;
/** Sent beats whose time is remembered for the round trip. */
const BEATS_KEPT = 64;
/** Judgements that are shown. */
const JUDGEMENTS_MAX = 32;
/** What people are told of a connection that a standby follows whose server does not work. */
const STANDBY_NOT_READY = "the standby's server has ended or hangs";
/** Between two questions for the address. */
const PROBE_EVERY_MS = 50;
/** Between two alarms about one address. */
const ALARM_EVERY_MS = 10_000;

/**
 * How the data plane shares its cores, see spin.ts and io/scheduling.ts: a thread that goes far before
 * others gives them little when it yields, so it does that only where it does not spin.
 */
const NICE = -5;
const CROWDED_NICE = -15;
const SLICE_US = 100;

/**
 * What this thread may do once everything is open: routes and socket buffers, priority, and its epoch
 * files wherever the state directory is.
 */
const CAPABILITIES: Capability[] = ["CAP_NET_ADMIN", "CAP_SYS_NICE", "CAP_DAC_OVERRIDE"];

/** Milliseconds since 1970 of a time of `performance.now()`. */
function wallMs(ms: number): number {
  return performance.timeOrigin + ms;
}

/** One path to the peer. */
class Link implements LinkProgress {
  readonly local: Endpoint;
  readonly remote: Endpoint;
  readonly text: { local: string; remote: string };
  readonly udp: number;
  readonly listener: number;
  readonly seal: BeatSeal | null;
  heardMs: number | null = null;
  life: number | null = null;
  heardSeq = 0;
  heardAtMs = 0;
  echoedSeq: number | null = null;
  rttUs: number | null = null;
  readonly #sentMs = new Float64Array(BEATS_KEPT);

  constructor(text: { local: string; remote: string }, seal: BeatSeal | null) {
    this.text = text;
    this.seal = seal;
    this.local = parseHostPort(text.local);
    this.remote = parseHostPort(text.remote);
    this.udp = bindUdp(this.local, { remote: this.remote });
    this.listener = listenTcp(this.local);
  }

  noteSent(seq: number, nowMs: number): void {
    this.#sentMs[seq % BEATS_KEPT] = nowMs;
  }

  /** Returns when the beat was sent that this one echoes; null when that is not known. */
  noteHeard(beat: Beat, nowMs: number, lastSeq: number): number | null {
    this.heardMs = nowMs;
    this.life = beat.incarnation;
    this.heardSeq = beat.seq;
    this.heardAtMs = nowMs;
    const sentMs = this.#sentMs[beat.echoSeq % BEATS_KEPT];
    if (((lastSeq - beat.echoSeq) >>> 0) >= BEATS_KEPT || sentMs === 0) return null;
    this.echoedSeq = beat.echoSeq;
    const rttUs = (nowMs - sentMs) * 1000 - beat.echoDelayUs;
    if (rttUs >= 0 && rttUs <= 10_000_000) {
      this.rttUs = this.rttUs === null ? rttUs : this.rttUs + (rttUs - this.rttUs) / 8;
    }
    return sentMs;
  }

  close(): void {
    libc.close(this.udp);
    libc.close(this.listener);
    this.seal?.close();
  }
}

/** A planned switch on its way. */
interface Switch {
  /** The command that asked for it; null when the judge did. */
  id: number | null;
  reason: "switch" | HandOverReason;
  phase: "asking" | "drain" | "handed";
  /** When the phase began in which nobody speaks. */
  sinceMs: number;
  deadlineMs: number;
  /** Of the new primary, once the arbiter has agreed. */
  epoch: number;
}

/** One service in the loop. */
class Service {
  readonly options: LoopServiceOptions;
  readonly core: Core;
  readonly base: bigint;
  readonly replica: Replica;
  readonly judge: Judge;
  /** Our spawned server runs, or somebody else takes care of it. */
  appRuns = true;
  /** The standby says that it could take over, its server included. */
  peerReady = false;
  readonly claim: AddressClaim;
  /** In log mode. */
  recoverer: Recoverer | null = null;
  /** Our server was found hanging at the last look. */
  appHung = false;
  channel: Channel | null = null;
  switching: Switch | null = null;
  lastTakeover: Takeover | null = null;
  nextConnectMs = 0;
  /** Which link the next attempt uses. */
  attempt = 0;
  announceAtMs: number[] = [];
  relayUntilMs: number | null = null;
  /** Primary, but not sure to be the only one: nothing is read from the devices. */
  isMute = false;
  readonly judgements: LoopJudgement[] = [];
  /** A look for somebody who answers for the address. */
  probe: { ticket: number; untilMs: number; nextMs: number } | null = null;
  nextAlarmMs = 0;
  netReady = false;
  appReady = false;
  readonly netSlots: bigint[];
  readonly appSlots: bigint[];
  readonly vectors: bigint[];
  readonly netLengthsAt: number;
  readonly appLengthsAt: number;
  readonly outListAt: number;
  readonly outEntry: number;
  readonly slotSize: number;

  constructor(
    options: LoopServiceOptions,
    { loop, token, nowMs }: { loop: LoopOptions; token: string; nowMs: number },
  ) {
    this.options = options;
    this.core = loadCore({
      memoryMiB: options.memoryMiB,
      capacity: options.capacity,
      address: options.addressBytes,
      ports: options.ports,
      commit: options.commit,
      divergence: options.divergence,
      logLimit: options.logLimit,
      refuseUnprotectable: options.refuseUnprotectable,
    });
    const { wasm } = this.core;
    this.base = addressOf(this.core.bytes);
    // Touched now, so that no pass waits for the kernel to find and clear pages.
    this.core.bytes.fill(0, wasm.netSlots(), wasm.inbox() + wasm.inboxSize());
    wasm.setBase(Number(this.base & 0xffffffffn), Number(this.base >> 32n));
    const slots = (first: number) =>
      Array.from(
        { length: wasm.batch() },
        (_, i) => this.base + BigInt(first + i * wasm.slotSize()),
      );
    this.netSlots = slots(wasm.netSlots());
    this.appSlots = slots(wasm.appSlots());
    this.outListAt = wasm.outList();
    this.outEntry = wasm.outEntry();
    this.vectors = Array.from(
      { length: wasm.outMax() },
      (_, i) => this.base + BigInt(this.outListAt + i * this.outEntry),
    );
    this.netLengthsAt = wasm.netLengths();
    this.appLengthsAt = wasm.appLengths();
    this.slotSize = wasm.slotSize();
    this.replica = new Replica({
      service: options.name,
      node: loop.node,
      peer: loop.peer?.name ?? null,
      prefer: options.prefer,
      heartbeatMs: loop.heartbeatMs,
      detect: loop.detect,
      epoch: readEpoch(options.epochFile),
      token,
      arbiter: loop.arbiter,
      listenMs: loop.seal === null ? undefined : LISTEN_SEALED_MS,
    }, nowMs);
    this.judge = new Judge(loop.node, loop.peer?.name ?? null);
    wasm.setJudgement(options.finWaitMs);
    if (options.log !== null) wasm.setLogMode(options.log.holds ? 1 : 0);
    // In log mode there is one server, and nothing to compare it with.
    wasm.setLag(options.lagBytes, options.log === null ? options.lagTimeMs : 0);
    wasm.setMssMax(this.mssFor(options.mtu));
    this.claim = new AddressClaim({
      address: options.address,
      tunName: options.tunName,
      interfaceName: options.interfaceName,
      // Answered from this loop, so that a stopped daemon no longer draws traffic (P6).
      answers: "caller",
    });
    this.claim.prepare();
  }

  /** Nothing is known against our server. */
  get appWorks(): boolean {
    return this.appRuns && this.core.wasm.hangs() === 0;
  }

  /** Largest MSS for a path of `mtu` octets. */
  mssFor(mtu: number): number {
    return mtu - (this.options.addressBytes.length === 4 ? 40 : 60);
  }

  close(): void {
    this.channel?.close();
    this.channel = null;
    this.claim.close();
  }
}

/** The stored epoch; 0 when there is none yet. */
function readEpoch(file: string): number {
  let text: string;
  try {
    text = Deno.readTextFileSync(file);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
  const epoch = Number(text.trim());
  if (!Number.isInteger(epoch) || epoch < 0 || epoch > 0xffffffff) {
    throw new Error(
      `Cannot use epoch file ${file}: it holds ${
        JSON.stringify(text.slice(0, 40))
      }, allowed is a ` +
        `number below 2^32`,
    );
  }
  return epoch;
}

/** Stores an epoch so that a reader sees the old or the new one, never half. */
function writeEpoch(file: string, epoch: number): void {
  const temporary = `${file}.new`;
  Deno.writeTextFileSync(temporary, `${epoch}\n`, { mode: 0o600 });
  Deno.renameSync(temporary, file);
}

/** The data plane. */
class DataLoop {
  readonly #options: LoopOptions;
  readonly #passes: Int32Array<SharedArrayBuffer>;
  readonly #services: Service[] = [];
  readonly #links: Link[] = [];
  readonly #greeting = new Map<number, Greeting>();
  /** Null for plain text. */
  readonly #keyring: Keyring | null;
  readonly #refusals = new Refusals((text, fields) => this.#log("warn", text, fields));
  readonly #datagram = new Memory(DATAGRAM_MAX);
  readonly #datagramPlace = placeOf(this.#datagram.bytes);
  readonly #beatOut = new Memory(DATAGRAM_MAX);
  readonly #beatPlace = placeOf(this.#beatOut.bytes);
  readonly #polls = new Memory(8 * 256);
  #pollCount = 0;
  readonly #incarnation: number;
  /** Starts anywhere, so that echoes of a former life are not taken for ours. */
  #beatSeq: number;
  #nextBeatMs = 0;
  #lastBeatMs = 0;
  /** The newest beat of the peer, and its life before this one. */
  #peerLife = { incarnation: -1, seq: 0, heardMs: -Infinity, former: -1 };
  #stopping = false;
  #longestPassMs = 0;
  readonly #priority = new Priority(SLICE_US);
  #isCrowded = false;
  /** When the last pass ended. */
  #passedMs = 0;
  readonly #spin: Spin;
  /** When poll is asked again, at the latest. */
  #nextPollMs = 0;

  constructor(options: LoopOptions) {
    this.#options = options;
    this.#passes = new Int32Array(options.passes);
    this.#spin = new Spin(options.spinUs);
    [this.#incarnation, this.#beatSeq] = crypto.getRandomValues(new Uint32Array(2));
    const token = this.#incarnation.toString(16);
    const nowMs = performance.now();
    this.#keyring = options.seal === null ? null : new Keyring(options.seal.renewOctets);
    try {
      if (this.#keyring !== null) openLibcrypto();
      for (const link of options.peer?.links ?? []) {
        const ends = { node: options.node, peer: options.peer!.name, ...link };
        const seal = this.#keyring === null ? null : new BeatSeal(this.#keyring, ends);
        this.#links.push(new Link(link, seal));
      }
      for (const service of options.services) {
        this.#services.push(new Service(service, { loop: options, token, nowMs }));
        this.#addRecoverer(this.#services.at(-1)!, nowMs);
      }
    } catch (error) {
      this.#close();
      throw error;
    }
    this.#priority.set(NICE);
    keepOnlyCapabilities(CAPABILITIES);
  }

  /** Runs until it is told to stop. */
  run(): void {
    try {
      while (!this.#stopping) this.#pass();
    } finally {
      this.#close();
    }
  }

  #close(): void {
    for (const service of this.#services) {
      service.claim.release();
      service.close();
    }
    for (const link of this.#links) link.close();
    for (const fd of this.#greeting.keys()) this.#dropGreeting(fd);
  }

  #log(
    level: "debug" | "info" | "warn" | "error",
    text: string,
    fields: Record<string, unknown> = {},
  ): void {
    post({ kind: "log", level, text, fields });
  }

  // One pass ------------------------------------------------------------------------------------

  #pass(): void {
    Atomics.add(this.#passes, 0, 1);
    const ready = this.#wait();
    const startMs = performance.now();
    if (ready) this.#receiveControl(startMs);
    let busy = false;
    for (const service of this.#services) {
      if (this.#serve(service, startMs)) busy = true;
    }
    if (busy) this.#spin.noteBusy(startMs);
    else this.#nextPollMs = 0;
    this.#beatIfDue();
    for (const service of this.#services) this.#judge(service, startMs);
    if (this.#keyring?.takeWorn()) post({ kind: "worn" });
    this.#passedMs = performance.now();
    this.#longestPassMs = Math.max(this.#longestPassMs, this.#passedMs - startMs);
  }

  /** Waits for something to do; true when poll has something to tell. */
  #wait(): boolean {
    const nowMs = this.#passedMs;
    const isCrowded = this.#spin.isCrowded(nowMs);
    if (isCrowded !== this.#isCrowded) {
      this.#isCrowded = isCrowded;
      this.#priority.set(isCrowded ? CROWDED_NICE : NICE);
    }
    if (nowMs < this.#nextPollMs) {
      for (const service of this.#services) {
        service.netReady = true;
        service.appReady = true;
      }
      return false;
    }
    this.#nextPollMs = nowMs + POLL_EVERY_MS;
    let waitMs = Math.min(WAIT_MAX_MS, this.#nextBeatMs - nowMs);
    for (const service of this.#services) {
      const { wasm } = service.core;
      if (service.isMute) waitMs = Math.min(waitMs, WAIT_TIMERS_MS);
      else if (wasm.more() !== 0 || wasm.bodyLength() > 0) waitMs = 0;
      else if (wasm.hasTimers() !== 0 || service.switching !== null) {
        waitMs = Math.min(waitMs, WAIT_TIMERS_MS);
      }
      if (service.recoverer?.isBusy) waitMs = Math.min(waitMs, WAIT_TIMERS_MS);
      if (service.announceAtMs.length > 0) {
        waitMs = Math.min(waitMs, service.announceAtMs[0] - nowMs);
      }
    }
    if (waitMs > 0 && this.#spin.isDue(nowMs)) {
      const yieldMs = performance.now();
      libc.sched_yield();
      const backMs = performance.now();
      this.#spin.noteLate(backMs - yieldMs, backMs);
      waitMs = 0;
    }
    this.#pollCount = 0;
    this.#add(this.#options.mailboxFd, POLLIN);
    for (const link of this.#links) {
      this.#add(link.udp, POLLIN);
      this.#add(link.listener, POLLIN);
    }
    for (const { fd } of this.#greeting.values()) this.#add(fd, POLLIN);
    for (const service of this.#services) {
      const { channel, options } = service;
      const frozen = service.isMute || service.switching?.phase === "drain";
      this.#add(frozen || channel?.isCongested ? -1 : options.netFd, POLLIN);
      this.#add(frozen || service.core.wasm.appBudget() === 0 ? -1 : options.appFd, POLLIN);
      let events = POLLIN;
      if (channel !== null && (!channel.connected || channel.hasBacklog)) events |= POLLOUT;
      this.#add(channel?.fd ?? -1, events);
      this.#add(service.claim.fd, POLLIN);
      this.#add(service.claim.watchFd, POLLIN);
    }
    const timeoutMs = Math.max(0, Math.ceil(waitMs));
    const result = libc.poll(this.#polls.address, this.#pollCount, timeoutMs);
    if (timeoutMs > 0) {
      const wokeMs = performance.now();
      this.#spin.noteLate(wokeMs - nowMs - timeoutMs, wokeMs);
      if (result > 0) this.#spin.noteSlept(wokeMs - nowMs);
    }
    return result > 0;
  }

  #add(fd: number, events: number): void {
    const at = this.#pollCount * 8;
    this.#polls.view.setInt32(at, fd, true);
    this.#polls.view.setInt16(at + 4, events, true);
    this.#polls.view.setInt16(at + 6, 0, true);
    this.#pollCount++;
  }

  /** What poll said of the `index`th descriptor that was added. */
  #events(index: number): number {
    return this.#polls.view.getInt16(index * 8 + 6, true);
  }

  #receiveControl(nowMs: number): void {
    let index = 0;
    if (this.#events(index++) !== 0) this.#takeCommands(nowMs);
    for (const link of this.#links) {
      if (this.#events(index++) !== 0) this.#receiveBeats(link);
      if (this.#events(index++) !== 0) this.#accept(link, nowMs);
    }
    for (const greeting of [...this.#greeting.values()]) {
      if (this.#events(index++) !== 0) this.#greet(greeting.fd, nowMs);
    }
    for (const service of this.#services) {
      service.netReady = this.#events(index++) !== 0;
      service.appReady = this.#events(index++) !== 0;
      const events = this.#events(index++);
      const { channel } = service;
      if (channel !== null && (events & POLLOUT) !== 0) {
        if (!channel.connected) this.#finishConnect(service, channel, nowMs);
        else channel.flush(nowMs);
      }
      if (this.#events(index++) !== 0) {
        service.claim.answerNeighbours(service.replica.maySpeak(performance.now()));
      }
      if (this.#events(index++) !== 0) this.#noteRival(service, nowMs);
    }
  }

  // Beats ---------------------------------------------------------------------------------------

  /** Between the parts of a pass too: a long pass is work, not silence. */
  #beatIfDue(): void {
    const nowMs = performance.now();
    if (nowMs < this.#nextBeatMs) return;
    this.#nextBeatMs = Math.max(this.#nextBeatMs + this.#options.heartbeatMs, nowMs);
    this.#sendBeats(nowMs);
  }

  #sendBeats(nowMs: number): void {
    if (this.#links.length === 0) return;
    this.#beatSeq = (this.#beatSeq + 1) >>> 0;
    this.#lastBeatMs = nowMs;
    const services = this.#services.map((s) => ({
      name: s.options.name,
      role: s.replica.role,
      epoch: s.replica.epoch,
      ready: s.replica.ready && s.appWorks,
      asking: s.replica.asking,
      voided: s.replica.voided,
    }));
    for (const link of this.#links) {
      // Before the first agreement nobody could tell that a beat is ours.
      if (link.seal !== null && !link.seal.canSend) continue;
      const bytes = encodeBeat({
        kind: "beat",
        node: this.#options.node,
        incarnation: this.#incarnation,
        seq: this.#beatSeq,
        echoSeq: link.heardSeq,
        echoDelayUs: Math.min(0xffffffff, Math.round((nowMs - link.heardAtMs) * 1000)),
        services,
      });
      this.#beatOut.bytes.set(bytes, link.seal === null ? 0 : BEAT_HEADER);
      const length = link.seal?.seal(this.#beatPlace, bytes.length) ?? bytes.length;
      link.noteSent(this.#beatSeq, nowMs);
      // A link that is down refuses; its silence is noticed on the other side.
      libc.send(link.udp, this.#beatOut.address, length, 0);
    }
  }

  #receiveBeats(link: Link): void {
    let heard = false;
    for (let i = 0; i < 256; i++) {
      const length = libc.recv(link.udp, this.#datagram.address, DATAGRAM_MAX, 0);
      if (length < 0) break;
      let beat: Beat;
      try {
        beat = this.#openBeat(link, length);
      } catch (error) {
        if (!(error instanceof MessageError)) throw error;
        const fields = { link: link.text.local, why: error.message };
        this.#refusals.note("datagram", fields, performance.now());
        continue;
      }
      // Not the time this pass began: the peer's lease rests on when we have heard it.
      const nowMs = performance.now();
      const echoedMs = link.noteHeard(beat, nowMs, this.#beatSeq);
      heard = true;
      const { incarnation } = this.#peerLife;
      if (!this.#isNews(beat, nowMs)) continue;
      const isReborn = incarnation !== -1 && incarnation !== beat.incarnation;
      const token = beat.incarnation.toString(16);
      for (const said of beat.services) {
        const service = this.#services.find((s) => s.options.name === said.name);
        if (service !== undefined) {
          // TCP tells nobody that a host has lost its power, while nothing is sent to it.
          if (isReborn && service.replica.role === "standby") {
            this.#closeChannel(service, "the peer has started again", nowMs);
          }
          service.peerReady = said.ready;
          this.#perform(
            service,
            service.replica.handleBeat(said, { nowMs, echoedMs, token }),
            nowMs,
          );
        }
      }
    }
    // An echo at once: the peer's lease is then as long as it can be.
    if (heard && performance.now() - this.#lastBeatMs > this.#options.heartbeatMs / 2) {
      this.#nextBeatMs = 0;
      this.#beatIfDue();
    }
  }

  /** Whether a beat is newer than all before it: links may deliver in any order, and twice. */
  #isNews({ incarnation, seq }: Beat, nowMs: number): boolean {
    const life = this.#peerLife;
    if (life.incarnation === incarnation) {
      if (((seq - life.seq) | 0) <= 0) return false;
    } else if (life.former === incarnation && nowMs - life.heardMs < FORMER_MS) return false;
    this.#peerLife = {
      incarnation,
      seq,
      heardMs: nowMs,
      former: life.incarnation === incarnation ? life.former : life.incarnation,
    };
    return true;
  }

  /** The beat in the datagram of `length` octets that was received last; throws MessageError. */
  #openBeat(link: Link, length: number): Beat {
    const why = link.seal?.open(this.#datagramPlace, length) ?? null;
    if (why !== null) throw new MessageError(why);
    const start = link.seal === null ? 0 : BEAT_HEADER;
    const beat = decodeBeat(this.#datagram.bytes.slice(start, length));
    if (beat.node === this.#options.peer?.name) return beat;
    throw new MessageError(
      `it comes from node "${beat.node}", expected "${this.#options.peer?.name}"`,
    );
  }

  // Channels ------------------------------------------------------------------------------------

  /** A standby's connection: which service it is for, its first frame says. */
  #accept(link: Link, nowMs: number): void {
    for (;;) {
      const accepted = acceptTcp(link.listener);
      if (accepted === null) return;
      if (this.#greeting.size >= GREETINGS_MAX) {
        libc.close(accepted.fd);
        this.#refusals.note("connection", { why: "too many wait for a greeting" }, nowMs);
        continue;
      }
      const seal = this.#streamSeal(false);
      this.#greeting.set(accepted.fd, new Greeting(accepted.fd, { seal, nowMs }));
    }
  }

  /** What protects a connection that we have opened, or accepted; null for plain text. */
  #streamSeal(connects: boolean): StreamSeal | null {
    const { node, peer } = this.#options;
    if (this.#keyring === null) return null;
    return new StreamSeal(this.#keyring, { node, peer: peer!.name, connects });
  }

  #greet(fd: number, nowMs: number): void {
    const greeting = this.#greeting.get(fd);
    if (greeting === undefined) return;
    try {
      const hello = greeting.receive();
      if (hello === null) return;
      this.#greeting.delete(fd);
      this.#welcome(greeting, hello, nowMs);
    } catch (error) {
      if (!(error instanceof MessageError)) throw error;
      this.#refusals.note("connection", { why: error.message }, nowMs);
      this.#dropGreeting(fd);
    }
  }

  #dropGreeting(fd: number): void {
    this.#greeting.get(fd)?.seal?.close();
    this.#greeting.delete(fd);
    libc.close(fd);
  }

  /** Takes a standby's hello: from now on it counts. */
  #welcome(greeting: Greeting, hello: Hello, nowMs: number): void {
    if (hello.kind === "resume") return this.#resume(greeting, hello, nowMs);
    const { fd, seal } = greeting;
    const service = this.#services.find((s) => s.options.name === hello.service);
    const refusal = service === undefined
      ? `no service "${hello.service}" here`
      : hello.node !== this.#options.peer?.name
      ? `node "${hello.node}" is not our peer`
      : service.replica.role !== "primary" || service.switching !== null
      ? "not primary"
      : null;
    if (service === undefined || refusal !== null) {
      this.#log("info", "standby refused", { service: hello.service, why: refusal });
      seal?.close();
      libc.close(fd);
      return;
    }
    if (service.channel !== null) this.#closeChannel(service, "a new one replaces it", nowMs);
    const { core, options, replica } = service;
    const channel = new Channel(fd, {
      core,
      base: service.base,
      connected: true,
      seal,
      session: this.#links.length > 1 ? hello.session : 0,
      link: null,
      nowMs,
    });
    service.channel = channel;
    channel.open = true;
    channel.epoch = replica.epoch;
    core.wasm.setMssMax(service.mssFor(Math.min(options.mtu, hello.mtu)));
    core.wasm.begin(nowMs >>> 0);
    // Whatever an earlier standby had is gone: those connections are unprotected.
    core.wasm.standbyLost();
    core.wasm.standbyJoined(hello.logLimit);
    channel.send({
      kind: "welcome",
      node: this.#options.node,
      epoch: replica.epoch,
      mtu: options.mtu,
      logLimit: options.logLimit,
      capacity: options.capacity,
    }, nowMs);
    replica.handleChannelUp(replica.epoch);
    this.#log("info", "standby joined", {
      service: options.name,
      node: hello.node,
      epoch: replica.epoch,
    });
  }

  /** The peer goes on with its channel on another connection. */
  #resume({ fd, seal }: Greeting, asked: Hello & { kind: "resume" }, nowMs: number): void {
    const service = this.#services.find((s) => s.options.name === asked.service);
    const channel = service?.channel ?? null;
    const isKnown = channel !== null && channel.canResume && channel.session === asked.session;
    if (!isKnown || asked.node !== this.#options.peer?.name || asked.epoch < channel.epoch) {
      this.#log("info", "resumption refused", { service: asked.service, epoch: asked.epoch });
      seal?.close();
      libc.close(fd);
      return;
    }
    channel.attach(fd, { seal, connected: true, link: null, nowMs });
    service!.core.wasm.committed(asked.applied);
    const { epoch } = service!.replica;
    channel.resume(asked.applied, nowMs, { kind: "resumed", epoch, applied: channel.applied });
    this.#log("info", "channel resumed", { service: asked.service });
  }

  /** A channel between several links outlives its connection; any other one is closed. */
  #noteBroken(service: Service, why: string, nowMs: number): void {
    const channel = service.channel!;
    // Closed after our greeting: the other side knows of no such channel.
    const isRefused = channel.suspendedSinceMs !== null && channel.connected;
    if (!channel.canResume || isRefused) return this.#closeChannel(service, why, nowMs);
    channel.suspend(nowMs);
    this.#log("info", "channel suspended", { service: service.options.name, why });
  }

  #keepUp(service: Service, channel: Channel, nowMs: number): void {
    const { heartbeatMs, detect } = this.#options;
    const why = keepUp(channel, {
      links: this.#links,
      detect,
      heartbeatMs,
      nowMs,
      connect: (index) => {
        const fd = this.#connectOver(this.#links[index]);
        if (fd === null) return;
        channel.attach(fd, { seal: this.#streamSeal(true), connected: false, link: index, nowMs });
      },
      log: (text, fields) => this.#log("info", text, { service: service.options.name, ...fields }),
    });
    if (why !== null) this.#closeChannel(service, why, nowMs);
  }

  /** Begins a connection; null when the link refuses at once. */
  #connectOver(link: Link): number | null {
    try {
      return connectTcp({ address: link.local.address, port: 0 }, link.remote);
    } catch (error) {
      this.#log("debug", "cannot open a channel", { why: (error as Error).message });
      return null;
    }
  }

  #connect(service: Service, nowMs: number): void {
    if (service.channel !== null || nowMs < service.nextConnectMs) return;
    if (this.#keyring !== null && this.#keyring.sendId === null) return;
    service.nextConnectMs = nowMs + RECONNECT_MS;
    const index = linkFor(service.attempt++, this.#links, this.#options.detect);
    const fd = this.#connectOver(this.#links[index]);
    if (fd === null) return;
    service.channel = new Channel(fd, {
      core: service.core,
      base: service.base,
      connected: false,
      seal: this.#streamSeal(true),
      session: this.#links.length > 1 ? crypto.getRandomValues(new Uint32Array(1))[0] : 0,
      link: index,
      nowMs,
    });
  }

  #finishConnect(service: Service, channel: Channel, nowMs: number): void {
    const trouble = socketError(channel.fd);
    if (trouble !== 0) {
      this.#noteBroken(service, `connecting failed with error ${trouble}`, nowMs);
      return;
    }
    channel.connected = true;
    const { options } = service;
    if (channel.open) {
      channel.greet({
        kind: "resume",
        node: this.#options.node,
        service: options.name,
        epoch: service.replica.epoch,
        session: channel.session,
        applied: channel.applied,
      }, nowMs);
      return;
    }
    service.replica.handleGreeting();
    channel.greet({
      kind: "hello",
      node: this.#options.node,
      service: options.name,
      epoch: service.replica.epoch,
      mtu: options.mtu,
      logLimit: options.logLimit,
      capacity: options.capacity,
      session: channel.session,
    }, nowMs);
  }

  #closeChannel(service: Service, why: string, nowMs: number): void {
    const { channel, replica } = service;
    if (channel === null) return;
    if (channel.refused !== null) this.#refusals.note("frame", { why: channel.refused }, nowMs);
    const wasOpen = channel.open;
    channel.close();
    service.channel = null;
    service.nextConnectMs = nowMs + RECONNECT_MS;
    if (wasOpen) this.#log("info", "channel closed", { service: service.options.name, why });
    replica.handleChannelDown(why);
  }

  #handleFrame(service: Service, channel: Channel, frame: Frame, body: number): void {
    const nowMs = performance.now();
    const { core, replica, options } = service;
    const { wasm } = core;
    switch (frame.kind) {
      case "data": {
        if (!channel.open) throw new MessageError("data before the greeting");
        if (frame.epoch < channel.epoch) {
          throw new MessageError(`data of epoch ${frame.epoch}, known is ${channel.epoch}`);
        }
        channel.epoch = frame.epoch;
        wasm.committed(frame.committed);
        if (frame.bodyLength === 0) return;
        const trouble = wasm.apply(body, frame.bodyLength);
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
        wasm.setMssMax(service.mssFor(Math.min(options.mtu, frame.mtu)));
        wasm.setPeerLogLimit(frame.logLimit);
        this.#forget(service, nowMs);
        wasm.setRole(CoreRole.standby);
        replica.handleChannelUp(frame.epoch);
        this.#log("info", "following", {
          service: options.name,
          primary: frame.node,
          epoch: frame.epoch,
        });
        return;
      case "handover":
        this.#perform(
          service,
          replica.handleHandover(frame.epoch, nowMs, { reason: handOverReason(frame.reason) }),
          nowMs,
        );
        if (replica.role === "primary") {
          channel.send({ kind: "took", epoch: replica.epoch }, nowMs);
        }
        return;
      case "took":
        // One that was sent again may be of the switch before.
        if (frame.epoch === replica.epoch) this.#finishSwitch(service, nowMs);
        return;
      case "resumed":
        if (channel.suspendedSinceMs === null || frame.epoch < channel.epoch) {
          throw new MessageError(`resumed in epoch ${frame.epoch} out of turn`);
        }
        wasm.committed(frame.applied);
        channel.resume(frame.applied, nowMs);
        this.#log("info", "channel resumed", {
          service: options.name,
          link: this.#links[channel.link!].text.local,
        });
        return;
      default:
        throw new MessageError(`frame ${frame.kind} out of turn`);
    }
  }

  // Forwarding ----------------------------------------------------------------------------------

  /** One pass for one service; true when packets or messages moved. */
  #serve(service: Service, nowMs: number): boolean {
    const { core, options, replica } = service;
    const { wasm, view } = core;
    let { channel } = service;
    wasm.begin(nowMs >>> 0);
    let busy = false;
    if (channel !== null && channel.connected) {
      const trouble = channel.receive((frame, body) => {
        busy = true;
        this.#handleFrame(service, channel!, frame, body);
      });
      if (trouble !== null && service.channel === channel) {
        this.#noteBroken(service, trouble, nowMs);
      }
      channel = service.channel;
      this.#beatIfDue();
    }
    service.isMute = replica.role === "primary" && !replica.maySpeak(performance.now());
    if (service.isMute) return busy;
    let net = 0;
    let app = 0;
    const frozen = service.switching?.phase === "drain";
    if (service.netReady && !frozen && !channel?.isCongested) {
      const budget = wasm.netBudget();
      while (net < budget) {
        const length = libc.read(options.netFd, service.netSlots[net], service.slotSize);
        if (length <= 0) break;
        view.setUint32(service.netLengthsAt + net * 4, length, true);
        net++;
      }
      service.netReady = net === budget;
    }
    if (service.appReady && !frozen) {
      const budget = wasm.appBudget();
      while (app < budget) {
        const length = libc.read(options.appFd, service.appSlots[app], service.slotSize);
        if (length <= 0) break;
        view.setUint32(service.appLengthsAt + app * 4, length, true);
        app++;
      }
      service.appReady = app === budget;
    }
    if (net > 0 || app > 0) busy = true;
    const count = wasm.run(net, app);
    this.#sendMessage(service, nowMs);
    this.#write(service, count);
    this.#judgeFindings(service, nowMs);
    if (replica.role === "primary") service.recoverer?.step(nowMs);
    if (service.switching?.phase === "drain") this.#drain(service, service.switching, nowMs);
    return busy;
  }

  /** Sends what the pass produced for the peer, or at least what was applied. */
  #sendMessage(service: Service, nowMs: number): void {
    const { core, channel, replica } = service;
    const { wasm } = core;
    const ackDue = wasm.takeAckDue() !== 0;
    if (channel === null || !channel.open) {
      if (wasm.bodyLength() > 0) wasm.sealed();
      return;
    }
    if (wasm.bodyLength() > 0) channel.sendBody(replica.epoch, nowMs);
    else if (ackDue || channel.owesConfirmation) channel.acknowledge(replica.epoch, nowMs);
    if (channel.isClosed) this.#closeChannel(service, "its backlog is full", nowMs);
  }

  /** Writes the output list; an entry starts as the iovec that writev(2) wants. */
  #write(service: Service, count: number): void {
    const { core, options, replica, vectors, outListAt, outEntry } = service;
    const { view, wasm } = core;
    for (let i = 0; i < count; i++) {
      if ((i & 7) === 7) this.#beatIfDue();
      const toServer = view.getUint32(outListAt + i * outEntry + 16, true) === 1;
      // For each one anew: a process that is stopped here and continued after the takeover must not say
      // even what is left of a pass (seen at one of 50 SIGSTOPs, with a look for eight packets).
      if (!toServer && !replica.maySpeak(performance.now())) {
        wasm.noteSwallowed();
        continue;
      }
      const fd = toServer ? options.appFd : options.netFd;
      // A full device queue drops; TCP repeats it.
      if (libc.writev(fd, vectors[i], 1) < 0) wasm.noteSwallowed();
    }
  }

  // Roles ---------------------------------------------------------------------------------------

  /** Time, greetings that take too long, a peer that stalls, announcements that are due. */
  #judge(service: Service, nowMs: number): void {
    const { channel, replica, switching } = service;
    for (const { fd, sinceMs } of this.#greeting.values()) {
      if (nowMs - sinceMs <= GREET_MS) continue;
      this.#refusals.note("connection", { why: `no greeting came in ${GREET_MS} ms` }, nowMs);
      this.#dropGreeting(fd);
    }
    if (channel !== null) {
      if (!channel.open && nowMs - channel.sinceMs > GREET_MS) {
        this.#closeChannel(service, "no greeting came", nowMs);
      } else if (channel.stalledSinceMs !== null && nowMs - channel.stalledSinceMs > STALL_MS) {
        this.#closeChannel(service, `the peer took nothing for ${STALL_MS} ms`, nowMs);
      } else this.#keepUp(service, channel, nowMs);
    }
    const hung = service.core.wasm.hangs() !== 0;
    if (service.appHung && !hung) {
      this.#log("info", "server goes on", { service: service.options.name });
    }
    service.appHung = hung;
    this.#perform(service, replica.handleTime(nowMs), nowMs);
    this.#continueProbe(service, nowMs);
    while (service.announceAtMs.length > 0 && service.announceAtMs[0] <= nowMs) {
      service.announceAtMs.shift();
      if (replica.maySpeak(performance.now())) service.claim.announce();
    }
    if (service.relayUntilMs !== null && nowMs >= service.relayUntilMs) {
      service.relayUntilMs = null;
      if (replica.role !== "primary") {
        service.core.wasm.relay(0);
        service.claim.release();
      }
    }
    if (switching !== null && nowMs > switching.deadlineMs) {
      const { name } = service.options;
      this.#failSwitch(
        service,
        switching.phase === "asking"
          ? `Cannot switch ${name}: no answer from the arbiter within ${SWITCH_MS} ms`
          : switching.phase === "drain"
          ? `Cannot switch ${name}: the standby did not confirm all input within ${SWITCH_MS} ms`
          : `Cannot tell whether ${name} was switched: the peer did not answer within ${SWITCH_MS} ms`,
      );
    } else if (switching?.id === null && switching.phase === "asking") {
      // The arbiter may have been busy with another question; one that is under way asks for nothing.
      this.#perform(service, replica.requestSwitch(nowMs), nowMs);
    }
  }

  #perform(service: Service, effects: Effect[], nowMs: number): void {
    for (const effect of effects) {
      switch (effect.kind) {
        case "storeEpoch":
          writeEpoch(service.options.epochFile, effect.epoch);
          break;
        case "promote":
          this.#takeOver(service, effect, nowMs);
          break;
        case "follow":
          this.#connect(service, nowMs);
          break;
        case "dropStandby":
          this.#dropStandby(service, effect.reason);
          break;
        case "silence":
          this.#silence(service, effect.reason, nowMs);
          break;
        case "handOver":
          if (service.switching?.phase !== "asking") break;
          service.switching.phase = "drain";
          service.switching.epoch = effect.epoch;
          service.switching.sinceMs = performance.now();
          break;
        case "keep":
          this.#endSwitch(service, effect.why);
          break;
        case "arbitrate":
          post({
            kind: "ask",
            service: service.options.name,
            ticket: effect.ticket,
            claim: effect.claim,
          });
          break;
        case "consult":
          post({
            kind: "ask",
            service: service.options.name,
            ticket: effect.ticket,
            claim: null,
          });
          break;
        case "probe":
          service.claim.heardRival(); // what was said before is no answer
          service.probe = { ticket: effect.ticket, untilMs: nowMs + PROBE_MS, nextMs: nowMs };
          break;
        case "judgement":
          this.#noteJudgement(service, effect);
          break;
      }
    }
  }

  #dropStandby(service: Service, reason: string): void {
    const { core, options } = service;
    core.wasm.standbyLost();
    service.channel?.close();
    service.channel = null;
    this.#log("warn", "standby lost", { service: options.name, why: reason });
    this.#endSwitch(service, `the standby was lost (${reason})`);
  }

  /** A switch that has not handed over yet does not come about. */
  #endSwitch(service: Service, why: string): void {
    const { switching, options } = service;
    if (switching === null || switching.phase === "handed") return;
    this.#failSwitch(service, `Cannot switch ${options.name}: ${why}`);
  }

  #failSwitch(service: Service, message: string): void {
    const { switching, judge, options } = service;
    if (switching === null) return;
    service.switching = null;
    if (switching.id !== null) post({ kind: "error", id: switching.id, message });
    else {
      this.#log("error", "hand-over failed", { service: options.name, why: message });
      this.#carryOut(service, judge.handleHandOverFailed(performance.now()), performance.now());
    }
  }

  /** Somebody else says that the address is theirs. */
  #noteRival(service: Service, nowMs: number): void {
    const { claim, options, probe, replica } = service;
    const mac = claim.heardRival();
    if (mac === null) return;
    if (probe !== null) {
      service.probe = null;
      this.#perform(service, replica.handleProbe(probe.ticket, mac, nowMs), nowMs);
    }
    if (replica.role !== "primary" || nowMs < service.nextAlarmMs) return;
    service.nextAlarmMs = nowMs + ALARM_EVERY_MS;
    this.#log("error", "another host claims the address", {
      service: options.name,
      address: options.address,
      by: mac,
    });
    this.#remember(service, "another host claims the address", { by: mac });
  }

  #noteJudgement(
    service: Service,
    effect: { kind: "judgement"; judgement: string; evidence: Evidence },
  ): void {
    const { judgement, evidence } = effect;
    this.#remember(service, judgement, evidence);
    this.#log("info", judgement, { service: service.options.name, ...evidence });
  }

  #remember({ judgements }: Service, judgement: string, evidence: Evidence): void {
    judgements.push({ at: new Date().toISOString(), judgement, evidence });
    if (judgements.length > JUDGEMENTS_MAX) judgements.shift();
  }

  /** Asks for the address again, or concludes that nobody answers. */
  #continueProbe(service: Service, nowMs: number): void {
    const { claim, probe, replica } = service;
    if (probe === null || nowMs < probe.nextMs) return;
    if (nowMs < probe.untilMs) {
      probe.nextMs = nowMs + PROBE_EVERY_MS;
      claim.probe();
      return;
    }
    service.probe = null;
    this.#perform(service, replica.handleProbe(probe.ticket, null, nowMs), nowMs);
  }

  #silence(service: Service, reason: string, nowMs: number): void {
    const { core, options } = service;
    service.claim.release();
    service.announceAtMs = [];
    core.wasm.setRole(CoreRole.silent);
    // What waits for a standby must never leave; without voice it is written nowhere.
    core.wasm.standbyLost();
    do {
      core.wasm.begin(nowMs >>> 0);
      this.#write(service, core.wasm.settle());
    } while (core.wasm.heldCount() > 0);
    core.wasm.begin(nowMs >>> 0);
    service.channel?.close();
    service.channel = null;
    this.#endSwitch(service, reason);
    this.#log("error", "retired", { service: options.name, why: reason });
  }

  /** Forgets all connections and ends them at our own server, who would wait for nobody. */
  #forget(service: Service, nowMs: number): void {
    const { wasm } = service.core;
    let more = true;
    while (more) {
      wasm.begin(nowMs >>> 0);
      more = wasm.forgetAll(1) !== 0;
      this.#write(service, wasm.settle());
    }
    wasm.begin(nowMs >>> 0);
  }

  /** Drain, adopt, claim, speak (DESIGN 5.6). */
  #takeOver(service: Service, effect: Effect & { kind: "promote" }, nowMs: number): void {
    const { core, options, replica } = service;
    const { wasm } = core;
    const suspectMs = performance.now();
    const peerStays = effect.reason !== "start" && effect.reason !== "peer-silent";
    if (!peerStays && service.channel !== null) this.#drainChannel(service);
    if (effect.afresh) this.#forget(service, nowMs);
    wasm.begin(performance.now() >>> 0);
    const connections = wasm.promote(peerStays ? 1 : 0);
    const adoptedMs = performance.now();
    service.claim.claim();
    // Stopped since the arbiter's word, we may have lost it: neighbours are not to be drawn here.
    if (replica.maySpeak(performance.now())) service.claim.announce();
    const claimedMs = performance.now();
    let firstByteMs = 0;
    let more = true;
    while (more) {
      wasm.begin(performance.now() >>> 0);
      more = wasm.speak() !== 0;
      const count = wasm.settle();
      if (peerStays) this.#sendMessage(service, nowMs);
      else if (wasm.bodyLength() > 0) wasm.sealed();
      this.#write(service, count);
      if (firstByteMs === 0) firstByteMs = performance.now();
    }
    const spokenMs = performance.now();
    this.#wantServer(service, true, spokenMs);
    service.announceAtMs = ANNOUNCE_AGAIN_MS.map((ms) => claimedMs + ms);
    const heardMs = replica.heardMs;
    service.lastTakeover = {
      reason: effect.reason,
      epoch: effect.epoch,
      detectMs: effect.silentMs,
      takeoverMs: spokenMs - suspectMs,
      connections,
      at: new Date(wallMs(suspectMs)).toISOString(),
      timeline: {
        lastHeartbeatMs: heardMs === null ? null : wallMs(heardMs),
        suspectMs: wallMs(suspectMs),
        adoptedMs: wallMs(adoptedMs),
        claimedMs: wallMs(claimedMs),
        firstByteMs: wallMs(firstByteMs),
      },
    };
    // A pass that was under way goes on with an empty output list.
    wasm.begin(performance.now() >>> 0);
    this.#log("info", "primary", {
      service: options.name,
      reason: effect.reason,
      epoch: effect.epoch,
      connections,
      detectMs: round(effect.silentMs),
      takeoverMs: round(spokenMs - suspectMs),
    });
  }

  /** Applies everything the peer had sent before it went silent. */
  #drainChannel(service: Service): void {
    const { channel } = service;
    if (channel === null) return;
    for (let i = 0; i < 64 && channel.open && service.channel === channel; i++) {
      let received = false;
      const trouble = channel.receive((frame, body) => {
        received = true;
        if (frame.kind === "data") this.#handleFrame(service, channel, frame, body);
      });
      if (trouble !== null || !received) break;
    }
    channel.close();
    service.channel = null;
  }

  // Planned switch ------------------------------------------------------------------------------

  #startSwitch(id: number, name: string, nowMs: number): void {
    const service = this.#services.find((s) => s.options.name === name);
    const refuse = (message: string) => post({ kind: "error", id, message });
    if (service === undefined) {
      const known = this.#services.map((s) => s.options.name).join(", ");
      return refuse(`Cannot switch ${name}: no such service, known are ${known}`);
    }
    const { replica } = service;
    if (replica.role !== "primary") {
      return refuse(`Cannot switch ${name} from here: this node is ${replica.role}, not primary`);
    }
    if (!replica.ready || !service.peerReady) {
      return refuse(`Cannot switch ${name}: no standby is ready`);
    }
    if (service.switching !== null) return refuse(`Cannot switch ${name}: a switch is under way`);
    const effects = replica.requestSwitch(nowMs);
    if (effects.length === 0) {
      return refuse(`Cannot switch ${name}: the arbiter is being asked something else, try again`);
    }
    this.#beginSwitch(service, { id, reason: "switch" }, nowMs);
    this.#perform(service, effects, nowMs);
  }

  #beginSwitch(service: Service, why: Pick<Switch, "id" | "reason">, nowMs: number): void {
    const deadlineMs = nowMs + SWITCH_MS;
    service.switching = { ...why, phase: "asking", sinceMs: nowMs, deadlineMs, epoch: 0 };
  }

  // Failures of servers -------------------------------------------------------------------------

  #situation(service: Service, nowMs: number): Situation {
    const { replica, peerReady } = service;
    const primary = replica.role === "primary";
    return {
      primary,
      peerWorks: peerReady,
      canHandOver: primary && replica.ready && peerReady,
      nowMs,
    };
  }

  #carryOut(service: Service, effects: JudgeEffect[], nowMs: number): void {
    for (const effect of effects) {
      switch (effect.kind) {
        case "judgement":
          this.#noteJudgement(service, effect);
          break;
        case "handOver":
          // A switch that is under way takes the service to the same place.
          if (service.switching === null) {
            this.#beginSwitch(service, { id: null, reason: effect.reason }, nowMs);
          }
          break;
        case "releaseEnds":
          service.core.wasm.releaseEnds();
          break;
      }
    }
  }

  /** What the core has found in this pass. */
  #judgeFindings(service: Service, nowMs: number): void {
    const { core, judge } = service;
    const count = core.wasm.takeFindings();
    if (count === 0) return;
    const situation = this.#situation(service, nowMs);
    this.#carryOut(service, judge.handleFindings(readFindings(core, count), situation), nowMs);
  }

  #noteApp(command: LoopCommand & { kind: "app" }, nowMs: number): void {
    const service = this.#services.find((s) => s.options.name === command.service);
    if (service === undefined) return;
    const { recoverer } = service;
    if (recoverer !== null) {
      if (command.ended !== null) recoverer.noteExit(command.ended, nowMs);
      else if (command.pid !== null) recoverer.noteStart(command.pid);
      return;
    }
    service.appRuns = command.ended === null;
    if (command.ended === null) {
      service.core.wasm.noteAppStart();
      return;
    }
    const effects = service.judge.handleAppExit(command.ended, this.#situation(service, nowMs));
    this.#carryOut(service, effects, nowMs);
  }

  // Log mode ------------------------------------------------------------------------------------

  #addRecoverer(service: Service, nowMs: number): void {
    const { core, options, judgements } = service;
    if (options.log === null) return;
    const host = {
      flush: () => {
        const count = core.wasm.settle();
        this.#sendMessage(service, performance.now());
        this.#write(service, count);
      },
      onFailure: (reason: string, seen: string) => {
        judgements.splice(0, Math.max(0, judgements.length - JUDGEMENTS_MAX + 1));
        const evidence = { node: this.#options.node, act: "replay", seen };
        this.#noteJudgement(service, { kind: "judgement", judgement: reason, evidence });
      },
      onRecovered: ({ last }: RecoveryStatus) =>
        this.#log("info", "connections live again", { service: options.name, ...last }),
    };
    const { spawns } = options.log;
    service.recoverer = new Recoverer(core, { ports: options.ports, spawns, nowMs, host });
  }

  /** Log mode: only the primary has a server. */
  #wantServer(service: Service, wanted: boolean, nowMs: number): void {
    if (service.recoverer === null) return;
    if (wanted) service.recoverer.notePromoted(nowMs);
    post({ kind: "serve", service: service.options.name, wanted });
  }

  #detach({ id, service: name }: LoopCommand & { kind: "detach" }, nowMs: number): void {
    const service = this.#services.find((s) => s.options.name === name);
    const recoverer = service?.recoverer ?? null;
    if (service?.replica.role !== "primary" || recoverer === null) {
      const message = `Cannot restart ${name} here: this node is not its primary`;
      return post({ kind: "error", id, message });
    }
    post({ kind: "reply", id, value: recoverer.restart(nowMs) });
  }

  /** While nothing is read: as soon as all input is committed and all output out, hand over. */
  #drain(service: Service, switching: Switch, nowMs: number): void {
    const { core, channel, replica } = service;
    const { wasm } = core;
    if (channel === null || wasm.heldCount() > 0 || wasm.isInputCommitted() === 0) return;
    if (switching.reason !== "switch") wasm.judgeEnds();
    wasm.markAll();
    while (wasm.dirty() !== 0) {
      wasm.begin(nowMs >>> 0);
      const count = wasm.settle();
      this.#sendMessage(service, nowMs);
      this.#write(service, count);
      if (service.channel === null) return;
    }
    wasm.demote();
    this.#wantServer(service, false, nowMs);
    wasm.relay(1);
    const { epoch } = switching;
    this.#perform(service, replica.handleHandedOver(epoch), nowMs);
    channel.send({ kind: "handover", epoch, reason: switching.reason }, nowMs);
    service.judge.handleHandedOver();
    service.announceAtMs = [];
    switching.phase = "handed";
  }

  #finishSwitch(service: Service, nowMs: number): void {
    const { switching, replica, options } = service;
    service.relayUntilMs = nowMs + RELAY_MS;
    if (switching === null) return;
    service.switching = null;
    const gapMs = nowMs - switching.sinceMs;
    const connections = service.core.wasm.recordsUsed();
    this.#log("info", "handed over", {
      service: options.name,
      epoch: replica.epoch,
      reason: switching.reason,
      connections,
      gapMs: round(gapMs),
    });
    const value: LoopSwitch = { service: options.name, epoch: replica.epoch, connections, gapMs };
    if (switching.id !== null) post({ kind: "reply", id: switching.id, value });
  }

  // Commands ------------------------------------------------------------------------------------

  #takeCommands(nowMs: number): void {
    for (;;) {
      const text = take(this.#options.mailboxFd);
      if (text === null) return;
      const command = JSON.parse(text) as LoopCommand;
      switch (command.kind) {
        case "status":
          post({ kind: "reply", id: command.id, value: this.#status(nowMs) });
          break;
        case "connections":
          post({ kind: "reply", id: command.id, value: this.#connections(nowMs) });
          break;
        case "switch":
          this.#startSwitch(command.id, command.service, nowMs);
          break;
        case "key":
          this.#handleKey(command);
          post({ kind: "reply", id: command.id, value: null });
          break;
        case "app":
          this.#noteApp(command, nowMs);
          post({ kind: "reply", id: command.id, value: null });
          break;
        case "detach":
          this.#detach(command, nowMs);
          break;
        case "stop":
          this.#stopping = true;
          post({ kind: "reply", id: command.id, value: null });
          break;
        case "verdict":
        case "register": {
          const service = this.#services.find((s) => s.options.name === command.service);
          if (service === undefined) break;
          const { replica } = service;
          const effects = command.kind === "verdict"
            ? replica.handleVerdict(command.verdict, nowMs)
            : replica.handleRegister(command.ticket, command.value, nowMs);
          this.#perform(service, effects, nowMs);
          break;
        }
      }
    }
  }

  #handleKey(command: KeyCommand): void {
    const keyring = this.#keyring;
    if (keyring === null) return;
    if (command.step === "install") {
      keyring.install(command.keyId, Uint8Array.fromHex(command.secret));
    } else if (command.step === "use") keyring.use(command.keyId);
    else keyring.keepOnly(command.keyId);
  }

  #status(nowMs: number): LoopStatus {
    const longestPassMs = this.#longestPassMs;
    this.#longestPassMs = 0;
    const silenceMs = this.#options.heartbeatMs * this.#options.detect;
    return {
      services: this.#services.map((service) => {
        const { core, replica, options } = service;
        let total = 0;
        let hot = 0;
        let log = 0;
        const top = core.wasm.highWater();
        const standby = replica.role === "standby";
        const works = standby ? service.appWorks : service.peerReady;
        for (let i = 0; i < top; i++) {
          const at = core.wasm.recordAt(i);
          if (at === 0) continue;
          total++;
          const kept = protection(core, at, standby);
          if (kept === "hot" && works) hot++;
          else if (kept === "log") log++;
        }
        return {
          name: options.name,
          role: replica.role,
          epoch: replica.epoch,
          protected: replica.ready && service.appWorks && (standby || service.peerReady),
          connections: { total, hot, log, unprotected: total - hot - log },
          appHangs: core.wasm.hangs() !== 0,
          lastTakeover: service.lastTakeover,
          counters: { ...readCounters(core), blockOctetsFree: core.wasm.blockOctetsFree() },
          arbitration: inWallTime(replica.arbitration),
          speaks: replica.maySpeak(nowMs),
          judgements: service.judgements,
          recovery: service.recoverer?.status(nowMs) ?? null,
        };
      }),
      links: this.#links.map((link) => ({
        local: link.text.local,
        remote: link.text.remote,
        up: link.heardMs !== null && nowMs - link.heardMs <= silenceMs,
        rttUs: link.rttUs === null ? null : Math.round(link.rttUs),
      })),
      refused: { ...this.#refusals.counts },
      longestPassMs,
    };
  }

  #connections(nowMs: number): LoopConnection[] {
    const list: LoopConnection[] = [];
    for (const service of this.#services) {
      const { core, replica, options } = service;
      const { view, offsets } = core;
      const top = core.wasm.highWater();
      const standby = replica.role === "standby";
      const works = standby ? service.appWorks : service.peerReady;
      const now = nowMs >>> 0;
      for (let i = 0; i < top; i++) {
        const at = core.wasm.recordAt(i);
        if (at === 0) continue;
        const u32 = (field: Field) => view.getUint32(at + offsets[field], true);
        const ports = u32("ports");
        const phase = u32("phase");
        const followed = protection(core, at, standby);
        const kept = followed === "hot" && !works ? "unprotected" : followed;
        list.push({
          service: options.name,
          client: endpointText(core.bytes, at, options.addressBytes.length, ports & 0xffff),
          port: ports >>> 16,
          state: phase <= 2
            ? "handshake"
            : phase === 3
            ? "established"
            : phase === 4
            ? "closing"
            : "closed",
          protection: kept,
          reason: kept === "hot"
            ? null
            : followed === "hot"
            ? STANDBY_NOT_READY
            : REASONS[u32("reason")] ?? null,
          bytesIn: Number(view.getBigUint64(at + offsets.bytesIn, true)),
          bytesOut: Number(view.getBigUint64(at + offsets.bytesOut, true)),
          ageMs: (now - u32("openedAt")) >>> 0,
          idleMs: (now - u32("seenAt")) >>> 0,
          numbers: Object.fromEntries(NUMBERS.map((field) => [field, u32(field)])),
        });
      }
    }
    return list;
  }
}

/**
 * "hot": the standby has the connection, and its server has accepted it; "log": whoever is to serve it
 * next can be played all that the client has said.
 */
function protection(core: Core, at: number, standby: boolean): LoopConnection["protection"] {
  const { view, offsets } = core;
  const flags = view.getUint32(at + offsets.flags, true);
  if ((flags & RecordFlag.logged) !== 0) return "log";
  if (view.getUint32(at + offsets.reason, true) !== 0) return "unprotected";
  return standby || (flags & RecordFlag.hot) !== 0 ? "hot" : "unprotected";
}

function endpointText(bytes: Uint8Array, at: number, length: number, port: number): string {
  if (length === 4) return `${bytes.slice(at, at + 4).join(".")}:${port}`;
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) {
    groups.push(((bytes[at + i] << 8) | bytes[at + i + 1]).toString(16));
  }
  return `[${groups.join(":").replace(/(^|:)0(:0)+(:|$)/, "::")}]:${port}`;
}

function inWallTime(arbitration: Arbitration): Arbitration {
  const { last } = arbitration;
  return last === null
    ? arbitration
    : { ...arbitration, last: { ...last, atMs: wallMs(last.atMs) } };
}

/** The core's newest findings; see core/judgement.ts. */
function readFindings({ wasm, view }: Core, count: number): CoreFinding[] {
  const size = wasm.findingSize();
  return Array.from({ length: count }, (_, index) => {
    const at = wasm.findings() + index * size;
    return {
      kind: FINDINGS[view.getUint32(at, true)],
      clientPort: view.getUint32(at + 8, true) & 0xffff,
      ours: view.getUint32(at + 12, true),
      theirs: view.getUint32(at + 16, true),
      waitedMs: view.getUint32(at + 20, true),
    };
  });
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

function post(message: LoopMessage): void {
  self.postMessage(message);
}

self.onmessage = (event: MessageEvent<LoopOptions>) => {
  let loop: DataLoop;
  try {
    loop = new DataLoop(event.data);
  } catch (error) {
    post({ kind: "failed", message: (error as Error).message });
    self.close();
    return;
  }
  post({ kind: "started" });
  try {
    loop.run();
    post({ kind: "stopped" });
  } catch (error) {
    // Whatever it was, the devices close with us: better silent than wrong (P6).
    post({ kind: "failed", message: (error as Error).stack ?? String(error) });
  }
  self.close();
};
