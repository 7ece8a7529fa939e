/**
 * replica.ts - who speaks for a service: the role of one replica
 *
 * Theory of operation
 * Each daemon runs one such machine for each service. It takes what was heard, what was asked, what
 * the register answered and the time, and returns effects that the caller performs in the order
 * given. It has no clock, no socket and no randomness.
 *
 *   joining ──peer is primary──> standby ──suspect, ask, granted / handover──> primary
 *      │                            ^                                            │
 *      └──nobody: ask, granted──> primary                                        │ the register or a
 *                                   │                                            v newer primary says so
 *                                   └──────────────────── retired <──────────────┘
 *
 *   joining   hears for a while before it claims anything: `joinMs`, twice as long when the other
 *             node is preferred
 *   standby   follows the primary; `ready` once the channel stands, so that it could take over now
 *   primary   speaks while it has voice, see below; `ready` while a standby is there
 *   retired   was primary and must not speak; what it knows is kept until it follows somebody
 *
 * An epoch is one term of one primary. It only grows; whoever becomes primary uses one more than
 * any it has seen, stored before it is used.
 *
 * Authority (with an arbiter). Nobody becomes primary, and no primary gives its standby up, before
 * the register (register.ts) has granted an epoch for that:
 *
 *   start, takeover   granted: primary in that epoch. Lost: stay what we are. Who does not hold the
 *                     connections of the last primary (a first start, a standby that lost) asks
 *                     only after nobody has answered for the address for PROBE_MS.
 *   hold              a primary misses its standby. Granted: it speaks on, as no claim of the
 *                     standby can succeed from now on; the new epoch is kept to ourselves until the
 *                     standby is back (it then follows in the new epoch) or dropped. Lost: retired.
 *   switch            the epoch of the standby we hand over to, claimed in its name
 *   no answer         a standby stays standby, a primary that misses its standby stays silent
 *                     (clients wait, nothing is acknowledged); asked again after RETRY_MS, twice as
 *                     long each time, to RETRY_MS_MAX
 *
 * Voice. Authority alone would let a primary speak that was stopped and continued, or is cut off,
 * while the new one speaks already. So a primary may send only until `voiceUntilMs`:
 *
 *   with a standby    a lease: `leaseMs` after it sent the last beat that the standby has echoed
 *                     while not asking for the service, in its same life, and knowing of no newer
 *                     epoch. The standby asks no sooner than heartbeat * detect after it heard that
 *                     beat, which is later by `marginMs`.
 *   on a hold, alone  ALONE_MS after we were last awake: who could take over then listens for
 *                     JOIN_MS_MIN first. After a longer stall: the peer's fresh echo, or a new grant.
 *   no arbiter        with a standby: a stall of our own ends the voice until the standby echoes or
 *                     for another heartbeat * detect; alone: no end
 *
 * What rests on that: clocks of hosts run equally fast (marginMs: a quarter heartbeat), and no
 * packet takes longer than marginMs from our last look at the clock to the wire.
 *
 * Voided. A claim whose answer did not come, or came too late (`grantMs`), may have been granted.
 * When it is wanted no more it is void: we shall never act on it, our own next claim says so, and so
 * does the peer's, whom our beats tell up to which epoch our claims are void.
 *
 * In step. A standby's connections may go on only in the epoch they were told in: `#stateEpoch`.
 * The primary's beats carry it on to a new epoch as long as the primary counts on us (`ready`).
 * Whoever becomes primary with anything else starts afresh.
 *
 * Several peers. The replicas of a service form a chain, the primary at its head:
 *
 *   primary ──messages──> standby ──the same──> second standby ──> ...        spare (names nobody, holds nothing)
 *      ^ confirmed by us ───┘ ^ confirmed by us ──┘
 *
 *   each one   passes on what it was told, octet by octet. So whoever stands further down knows a beginning of
 *              what is known further up, and when the head dies the next one goes on with the rest of the
 *              chain as it stands
 *   invites    the primary invites the first of its peers that is heard, in the order given, to be its
 *              standby, and changes its mind when nobody counts as such and that one is silent. Each
 *              follower invites the first that follows nobody. Who is invited connects and is told of all
 *              connections in the stream of messages
 *   heirs      the first `copies` of the chain, of whom the caller says that they have all that was let out
 *              (`Follower.isWhole`). A claim of the primary names them; nobody else is granted anything. Who is named
 *              and in step (`#bound`) may go on: so the primary has a voice only while it has a lease from each, and
 *              the caller lets nothing leave that one of `keepers` has not confirmed
 *   changes    of the heirs are claims of the primary, like a hold, announced when granted: the new epoch
 *              reaches who is still counted on (`counted`), and is unknown to who is not. An heir without a lease is
 *              dropped so at once, other than the standby, who gets STANDBY_MS
 *   exposed    somebody is named, perhaps by a claim without an answer, who is not bound: such a one has
 *              to listen, and to look for us at the address, so a grant's voice (ALONE_MS) is safe until
 *              the next claim names the right ones
 *   order      an heir asks when the primary is silent and no other standby that could is heard, or has let
 *              LEADERLESS_MS pass. That is for order alone: the register decides
 *   spare      follows nobody yet. Of itself it takes nothing over: it cannot tell the death of all others from
 *              its own isolation, and the register would refuse it
 *
 * Logs on disk (with an arbiter that is a register). A replica that starts with connections from its disk was
 * part of the term that its log is whole in (log_store/record.ts). It goes on from them as a standby does
 * that is in step: it claims with that term as what it follows on, so the register refuses it if anybody
 * has gone on since. What it has is then of no use, and somebody else's log is newer: a replica without the
 * newest connections leaves LOG_WAIT_MS to who has them, or LOG_HEARD_MS while that one is heard, before it
 * starts afresh. `logTerm` is what our own log is to say.
 *
 *   primary     its term, a grant that is kept to ourselves included: all that it lets out is in its log
 *   standby     the term it is in step with, once the primary has said that it was told everything
 *   others      nothing new; who joins a primary throws its log away before it says hello
 *
 * Without an arbiter two hosts that lose sight of each other both go on; when they meet again the
 * newer epoch wins, then the preferred node.
 *
 * Sources: DESIGN sections 1 (P2, P3, P6) and 6; ST-TCP's rule of `detect` missed heartbeats; Gray
 * and Cheriton 1989, "Leases".
 */
import type { HandOverReason } from "./judge.ts";
import type { BeatService, Role } from "./message.ts";
import type { Claim, RegisterValue, Void } from "./register.ts";

/** What the machine is made with. */
export interface ReplicaOptions {
  /** Name of the service. */
  service: string;
  /** This node's name. */
  node: string;
  /** Names of the other replicas, in the order in which a primary wants them as its standby. */
  peers: readonly string[];
  /** Node that is primary at the first start; null for the name that sorts first. */
  prefer: string | null;
  /** Interval of heartbeats, milliseconds. */
  heartbeatMs: number;
  /** Heartbeats that may be missed on every link. */
  detect: number;
  /** Highest epoch this node has ever stored. */
  epoch: number;
  /** Told apart from every other life of this node; see register.ts. */
  token: string;
  /** Who decides when the replicas lose sight of each other; null for nobody. */
  arbiter: ArbiterTimes | null;
  /** Joining replicas listen at least this long, milliseconds; JOIN_MS_MIN if not given. */
  listenMs?: number;
  /** Of more than two replicas: how many others are to hold a connection; 1 if not given. */
  copies?: number;
}

/** Who follows us in the chain, the nearest first. */
export interface Follower {
  /** Its name. */
  node: string;
  /** Told apart from the other times it followed somebody. */
  session: number;
  /** It has all that was ever let out. */
  isWhole: boolean;
  /** Number of the last message that it has applied. */
  seq: number;
}

/** What the machine must know of an arbiter. */
export interface ArbiterTimes {
  /** Longest time until it has answered or will not, milliseconds. */
  answerMs: number;
  /** How old a grant may be, from the question, to be acted on; milliseconds. Infinity: any. */
  grantMs: number;
  /** How much longer than its lease a primary waits for its standby before it asks, milliseconds. */
  patienceMs: number;
}

/** What a claim is for. */
export type Purpose = "start" | "takeover" | "hold" | "switch";

/** What the caller has to do; in the order of the list. */
export type Effect =
  /** Store `epoch` durably before anything else of this list is done. */
  | { kind: "storeEpoch"; epoch: number }
  /**
   * Take over: drain, adopt, claim, speak. With `afresh`, forget all connections first: what we know
   * of them is not what clients were told since.
   */
  | {
    kind: "promote";
    reason: TakeoverReason;
    epoch: number;
    silentMs: number;
    afresh: boolean;
    /** Who follows us goes on doing so, as the standby. */
    keeps: boolean;
  }
  /** Open the replication channel to the primary. */
  | { kind: "follow" }
  /** Close the replication channel: another one than who is at its other end is primary. */
  | { kind: "leave" }
  /** The standby can no longer be counted on: release what waits for it, close its channel. */
  | { kind: "dropStandby"; reason: string }
  /** Say nothing any more: release the address, and let nothing of what is held leave. */
  | { kind: "silence"; reason: string }
  /** The planned switch may go on: hand over in `epoch`. */
  | { kind: "handOver"; epoch: number }
  /** The planned switch may not go on. */
  | { kind: "keep"; why: string }
  /** Find out whether somebody answers for the service address, for PROBE_MS; `handleProbe()`. */
  | { kind: "probe"; ticket: number }
  /** Ask the register, and bring the answer to `handleVerdict()`. */
  | { kind: "arbitrate"; ticket: number; purpose: Purpose; claim: Claim }
  /** Read the register, and bring the answer to `handleRegister()`. */
  | { kind: "consult"; ticket: number }
  /** Something was judged: log it, and show it in the status. */
  | { kind: "judgement"; judgement: string; evidence: Evidence };

/** What a judgement rests on: numbers and texts by name. */
export type Evidence = Record<string, string | number | boolean | null>;

/** Why a replica became primary. */
export type TakeoverReason = "start" | "peer-silent" | "switch" | HandOverReason;

/** What the register said to a claim. */
export type Verdict =
  & { ticket: number }
  & (
    /** `heirs` as the register has them now. */
    | { kind: "granted"; heirs?: string[] }
    | { kind: "lost"; value: RegisterValue | null }
    /** It gave no answer; whether it took the claim is not known. */
    | { kind: "unreachable"; why: string }
  );

/** How it stands with the arbiter, for status. */
export interface Arbitration {
  /** What is being asked for; null for nothing. */
  asking: Purpose | null;
  /** Whether it gave an answer the last time; null before the first question. */
  reachable: boolean | null;
  /** The last outcome; null before the first. */
  last: {
    purpose: Purpose;
    outcome: Verdict["kind"];
    epoch: number;
    /** Milliseconds of the caller's clock. */
    atMs: number;
    /** From the question to the answer, milliseconds. */
    tookMs: number;
    /** In words. */
    detail: string;
  } | null;
}

/** When a beat of a peer was heard. */
export interface Heard {
  /** Name of the node that sent it. */
  node: string;
  /** Now, milliseconds of the caller's monotonic clock. */
  nowMs: number;
  /** When we sent the newest beat of ours that it echoes; null when that is not known. */
  echoedMs: number | null;
  /** Which life of the peer it is; as in its claims. */
  token: string;
}

/**
 * Somebody who speaks for the address is given so long to answer for it, milliseconds: longer than
 * ALONE_MS, so that who was stopped all that time will not speak when it is continued.
 */
export const PROBE_MS = 450;
/** Joining replicas listen at least this long, in milliseconds. */
const JOIN_MS_MIN = 500;
/** A primary without a standby that was not awake for so long asks before it speaks, milliseconds. */
const ALONE_MS = 400;
/** A primary waits at least this long for a silent standby, in milliseconds. */
const STANDBY_MS = 250;
/** Replicas that hear each other are without a primary for at most about this long. */
const LEADERLESS_MS = 1000;
/** How much longer the node that is not preferred leaves it to the other one. */
const YIELD_MS = 2000;
/** Pause after a question that was not answered, doubled each time up to the second. */
const RETRY_MS = 50;
const RETRY_MS_MAX = 1000;
/** Pause after somebody was found to answer for the address. */
const OCCUPIED_MS = 1000;
/** With logs on disk: how long the newest connections are waited for, milliseconds. */
export const LOG_WAIT_MS = 30_000;
/** The same while the other replica is heard, and does not go on from what it has. */
const LOG_HEARD_MS = 6000;
/** A primary without a lease looks into the register this often, milliseconds. */
const CONFIRM_MS = 1000;

/** What is known of a peer, be it the partner or not. */
interface Known {
  role: Role;
  epoch: number;
  heardMs: number;
  /** Claims of the life that is heard, on which it will never act. */
  voided: Void;
  /** It could go on, or follows somebody at least. */
  ready: boolean;
  /** When we sent the newest beat that it has echoed while it did not ask. */
  leaseFromMs: number;
  /** The life of it whose echoes count. */
  token: string | null;
}

/** A claim on its way. */
interface Asked {
  ticket: number;
  purpose: Purpose;
  claim: Claim;
  askedMs: number;
}

/** The machine of one service on one node. */
export class Replica {
  readonly #options: ReplicaOptions;
  #role: Role = "joining";
  #epoch: number;
  #joinUntilMs: number;
  readonly #known = new Map<string, Known>();
  /** The other replica that all below is about, the standby or the primary; null without peers. */
  #partner: string | null;
  /** Standby: whom we follow, the primary or one that follows it. */
  #upstream: string | null;
  /** Which time that is; see `Follower.session`. */
  #session = 0;
  /** Who follows us, the nearest first; of a primary the standby is one of them. */
  #followers: readonly Follower[] = [];
  /** Standby: whom we invite to follow us. */
  #invited: string | null = null;
  /** Primary of more than two: heirs that may go on in this epoch. */
  #bound: readonly Follower[] = [];
  /** Who the register names beside us, and whom claims without an answer may have named. */
  #named: readonly string[] = [];
  #perhapsNamed: readonly string[] = [];
  /** The primary that is our partner names another standby. */
  #isSpare = false;
  #heardMs: number | null = null;
  /** When time was looked at last, and how much silence we have been awake for since a beat. */
  #lookedMs: number;
  #silenceObservedMs = Infinity;
  #peerRole: Role | null = null;
  #peerEpoch = 0;
  #peerAlive = false;
  /** Since when the peer has been heard without being primary. */
  #leaderlessSinceMs: number | null = null;
  #channelUp = false;
  /** Why the channel to the standby broke, while what it holds back still waits for a word. */
  #lostStandby: string | null = null;

  /** Our claims up to this epoch will never be acted on. */
  #voided = 0;
  /** What the register held for us without our doing: the peer has claimed it in our name. */
  #given: Void | null = null;
  /** Epoch the register named when we lost; whoever has it may act on it. */
  #observed = 0;
  /** Epoch our copy of the primary's connections is in step with; null for none. */
  #stateEpoch: number | null = null;
  /** Connections outlive us on a disk. */
  #isDurable = false;
  /** Standby: the primary has said that we were told of all connections. */
  #isWhole = false;
  /** Primary: an epoch that was granted and the peer does not know of. */
  #heldEpoch: number | null = null;
  /** The newest that we held and then gave up, of more than two replicas; else 0. */
  #lapsedEpoch = 0;
  /** Primary: when we last knew that we had not been away for long. */
  #awakeMs = -Infinity;
  #stalledSinceMs: number | null = null;
  /** Primary: since when an heir further down has no lease, as far as we were awake. */
  #unheardSinceMs: number | null = null;
  /** Primary: a planned switch has begun and may be called off. */
  #isSwitching = false;
  /** Standby: the register has refused us since we heard the primary. */
  #refused = false;
  #asked: Asked | null = null;
  /** The look for somebody at the address that comes before a claim. */
  #probe: { ticket: number; purpose: Purpose; sinceMs: number } | null = null;
  #consulted: { ticket: number; askedMs: number } | null = null;
  #nextConsultMs = 0;
  #tickets = 0;
  #retryAtMs = -Infinity;
  #retryMs = RETRY_MS;
  #reachable: boolean | null = null;
  #last: Arbitration["last"] = null;

  /** Starts in `joining` at `nowMs` of the caller's monotonic clock. */
  constructor(options: ReplicaOptions, nowMs: number) {
    this.#options = options;
    this.#epoch = options.epoch;
    this.#lookedMs = nowMs;
    this.#partner = options.peers[0] ?? null;
    this.#upstream = this.#partner;
    this.#joinUntilMs = nowMs +
      (this.#partner === null ? 0 : this.#listenMs() * (1 + this.#rank(options.node)));
  }

  /** Role now. */
  get role(): Role {
    return this.#role;
  }

  /** Highest epoch known: of this term when primary. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Our claims up to this epoch are void; for beats. */
  get voided(): number {
    return this.#voided;
  }

  /** True while the primary's connections reach the standby (as seen by either side). */
  get ready(): boolean {
    if (!this.#channelUp) return false;
    if (this.#role !== "primary") return this.#role === "standby";
    return !this.#hasSpares || isIn(this.#bound, this.#followers[0]);
  }

  /** True when the standby could take over now: `ready`, and no grant stands against its claim. */
  get hasSuccessor(): boolean {
    if (this.#role === "standby") return this.ready && this.#inStep;
    if (this.#hasSpares && !this.isInEpoch(this.#partner!)) return false;
    return this.ready && this.#heldEpoch === null;
  }

  /** `node` has told us that it knows our epoch: before that it could claim nothing after it. */
  isInEpoch(node: string): boolean {
    return this.#known.get(node)?.epoch === this.#epoch;
  }

  /** True while the register is asked for the right to speak: the peer's lease must not grow. */
  get asking(): boolean {
    return this.#asked !== null && this.#role !== "primary";
  }

  /** True while the peer is heard in time. */
  get peerAlive(): boolean {
    return this.#peerAlive;
  }

  /** The other replica of the pair that counts now; null without peers. */
  get partner(): string | null {
    return this.#partner;
  }

  /** Whom a standby follows: the primary, or one that follows it. */
  get upstream(): string | null {
    return this.#upstream;
  }

  /** `node` is to follow us, or does; for beats. */
  invites(node: string): boolean {
    if (this.#role === "primary") return this.#partner === node;
    return this.#role === "standby" && this.#channelUp && this.#invited === node;
  }

  /** Primary of more than two: which time of following us `node` may go on from; 0 for none. For beats. */
  counted(node: string): number {
    if (this.#role !== "primary") return 0;
    return this.#bound.find((heir) => heir.node === node)?.session ?? 0;
  }

  /** Primary of more than two: who has to confirm what leaves. */
  get keepers(): Follower[] {
    return [...this.#bound, ...this.#wanted().filter((heir) => !isIn(this.#bound, heir))];
  }

  /** Primary: `node` may begin to follow us now as the standby. */
  admits(node: string): boolean {
    // Others who were told by the standby before could still go on.
    const others = this.#bound.some((heir) => heir.node !== node);
    return this.#role === "primary" && this.#partner === node && !others;
  }

  /** True while the primary names another one as its standby, and we follow nobody. */
  get isSpare(): boolean {
    return this.#role === "standby" && this.#isSpare && !this.#channelUp;
  }

  /** True of one that follows the primary's standby, or another one further down. */
  get isFurther(): boolean {
    return this.#role === "standby" && this.#isSpare && this.#channelUp;
  }

  /** When the peer was heard last, milliseconds of the caller's clock, or null. */
  get heardMs(): number | null {
    return this.#heardMs;
  }

  /** The newest epoch seen anywhere, and the peer's role, for status. */
  get peer(): { role: Role | null; epoch: number } {
    return { role: this.#peerRole, epoch: this.#peerEpoch };
  }

  /** How it stands with the arbiter. */
  get arbitration(): Arbitration {
    return {
      asking: this.#asked?.purpose ?? this.#probe?.purpose ?? null,
      reachable: this.#reachable,
      last: this.#last,
    };
  }

  /**
   * Whether we may send anything for the service now. To be asked right before sending, and between
   * the parts of a long pass.
   */
  maySpeak(nowMs: number): boolean {
    if (nowMs > this.voiceUntilMs) return false;
    this.#awakeMs = Math.max(this.#awakeMs, nowMs);
    return true;
  }

  /** Until when we may send anything for the service, milliseconds of the caller's clock. */
  get voiceUntilMs(): number {
    if (this.#role !== "primary") return -Infinity;
    const leaseUntilMs = this.#leaseUntilMs(this.#partner);
    if (this.#options.arbiter === null) {
      return this.#counts ? Math.max(leaseUntilMs, this.#awakeMs + this.#leaseMs()) : Infinity;
    }
    const grantUntilMs = this.#awakeMs + ALONE_MS;
    if (!this.#counts || this.#heldEpoch !== null) return grantUntilMs;
    if (!this.#hasSpares) return leaseUntilMs;
    let untilMs = this.#isExposed ? grantUntilMs : Infinity;
    for (const { node } of this.#bound) untilMs = Math.min(untilMs, this.#leaseUntilMs(node));
    return untilMs;
  }

  /** Until when `node` cannot ask for what we have. */
  #leaseUntilMs(node: string | null): number {
    return this.#leaseFrom(node) + this.#leaseMs();
  }

  #leaseFrom(node: string | null): number {
    return (node === null ? undefined : this.#known.get(node))?.leaseFromMs ?? -Infinity;
  }

  /** Longest silence before the peer counts as down, milliseconds. */
  #silenceMs(): number {
    return this.#options.heartbeatMs * this.#options.detect;
  }

  #leaseMs(): number {
    return this.#silenceMs() - this.#options.heartbeatMs / 4;
  }

  #listenMs(): number {
    return Math.max(this.#options.listenMs ?? JOIN_MS_MIN, 3 * this.#silenceMs());
  }

  /** Primary: there is a standby that could go on from what we have let out. */
  get #counts(): boolean {
    return this.#channelUp || this.#lostStandby !== null;
  }

  /** Primary with an arbiter: a grant is what lets us speak, and no lease. */
  get #isBoundByGrant(): boolean {
    return !this.#counts || this.#heldEpoch !== null || this.#isExposed;
  }

  /** Primary: somebody could be granted our service from whom no lease binds us. */
  get #isExposed(): boolean {
    if (!this.#hasSpares) return false;
    const isBound = (node: string) => this.#bound.some((heir) => heir.node === node);
    return this.#bound.length === 0 || ![...this.#named, ...this.#perhapsNamed].every(isBound);
  }

  /** Primary: who should be the heirs. */
  #wanted(): Follower[] {
    return this.#channelUp ? this.#followers.slice(0, this.#options.copies ?? 1) : [];
  }

  /** Primary of more than two: the register must name others as the heirs. */
  get #mustName(): boolean {
    // What is held is told first: a claim that is not answered would void it (see "Voided").
    if (!this.#hasSpares || !this.#channelUp || this.#heldEpoch !== null) return false;
    const wanted = this.#wanted();
    if (!wanted.every(({ isWhole }) => isWhole)) return false;
    return this.#isExposed || !wanted.every((heir) => isIn(this.#bound, heir)) ||
      !this.#bound.every((heir) => isIn(wanted, heir));
  }

  get #hasSpares(): boolean {
    return this.#options.peers.length > 1;
  }

  /**
   * Standby: our connections are those of the primary's epoch. Joining: we have some from our disk, and
   * nobody has said yet that they are of no use.
   */
  get #inStep(): boolean {
    if (this.#refused || this.#stateEpoch === null) return false;
    if (this.#role === "joining") return true;
    return this.#role === "standby" && this.#stateEpoch === this.#epoch;
  }

  /** Nobody speaks, though both are there: a hand-over went wrong. The preferred one takes it. */
  #isLeaderless(nowMs: number): boolean {
    const sinceMs = this.#leaderlessSinceMs;
    if (sinceMs === null || !this.#peerAlive) return false;
    const rank = this.#rank(this.#options.node);
    if (rank > 0 && this.#options.arbiter === null) return false;
    const waitMs = this.#isDurable && !this.#inStep ? LOG_HEARD_MS : LEADERLESS_MS;
    return nowMs - sinceMs > waitMs + rank * YIELD_MS;
  }

  /** How many replicas come before `node` where nobody is primary: the preferred one, then by name. */
  #rank(node: string): number {
    const { peers, prefer } = this.#options;
    const before = (other: string) => node !== prefer && (other === prefer || other < node);
    return [this.#options.node, ...peers].filter((other) => other !== node && before(other)).length;
  }

  /** One that comes before us where nobody is primary is heard. */
  #isBetterHeard(nowMs: number): boolean {
    const own = this.#rank(this.#options.node);
    return [...this.#known].some(([node, { heardMs }]) =>
      this.#rank(node) < own && nowMs - heardMs <= this.#silenceMs()
    );
  }

  // What is heard ---------------------------------------------------------------------------------

  /** A peer said something about this service; each beat of it in the order it was sent. */
  handleBeat(beat: BeatService, heard: Heard): Effect[] {
    const { node, nowMs, token } = heard;
    const before = this.#known.get(node);
    const had = before?.voided.token === token ? before.voided.epoch : 0;
    // A silent primary believes only the life it has spoken beside: another one may come after a
    // takeover that we have slept through.
    const isBelieved = this.#role !== "primary" || this.maySpeak(nowMs);
    this.#known.set(node, {
      role: beat.role,
      epoch: beat.epoch,
      heardMs: nowMs,
      voided: { token, epoch: Math.max(had, beat.voided) },
      ready: beat.ready,
      leaseFromMs: before?.leaseFromMs ?? -Infinity,
      token: isBelieved ? token : before?.token ?? null,
    });
    this.handleEcho(beat, heard);
    // One who speaks in an older epoch than we know of has lost it, and does not know yet.
    const speaks = beat.role === "primary" && beat.epoch >= this.#epoch;
    const effects: Effect[] = [];
    if (node !== this.#partner) {
      if (this.#role === "primary") {
        if (beat.role === "primary") return this.#collide(node, beat);
        this.#noteUnrivalled(nowMs);
        return this.#bound.length > 0 && this.#lostStandby === null ? this.#heardHeir(nowMs) : [];
      }
      if (!speaks || (beat.epoch === this.#epoch && this.#peerRole === "primary")) {
        return this.#heardFollower(node, beat);
      }
      // Who follows another standby goes on doing so: that one will follow the new primary, or be it.
      const isLeft = this.#channelUp && this.#upstream === this.#partner;
      if (isLeft && node !== this.#upstream) effects.push(...this.#turnTo(node));
      this.#pairWith(node);
    }
    this.#heardMs = nowMs;
    this.#lookedMs = Math.max(this.#lookedMs, nowMs);
    this.#silenceObservedMs = 0;
    this.#peerAlive = true;
    this.#peerRole = beat.role;
    this.#peerEpoch = beat.epoch;
    if (this.#role === "primary") {
      return beat.role === "primary" ? this.#collide(node, beat) : this.#heardStandby(nowMs);
    }
    if (!speaks) {
      this.#leaderlessSinceMs ??= nowMs;
      return [];
    }
    this.#leaderlessSinceMs = null;
    const isNewer = beat.epoch > this.#epoch;
    this.#epoch = beat.epoch;
    this.#withdraw();
    this.#isSpare = !beat.invites;
    if (beat.invites && this.#upstream !== node) effects.push(...this.#turnTo(node));
    if (this.#role !== "standby") {
      this.#stateEpoch = null;
      effects.push(...this.#become("standby", []));
    } else {
      this.#refused = false;
      if (isNewer) this.#stateEpoch = this.#isCountedOn(beat) ? beat.epoch : null;
    }
    if (!this.#channelUp && beat.invites) effects.push({ kind: "follow" });
    return effects;
  }

  /** Standby: the primary, in a new epoch, goes on counting on what we have. */
  #isCountedOn(beat: BeatService): boolean {
    if (!this.#channelUp) return false;
    return this.#hasSpares ? beat.counted === this.#session && beat.counted !== 0 : beat.ready;
  }

  /** One that follows the primary, as we should, may want us to follow it. */
  #heardFollower(node: string, beat: BeatService): Effect[] {
    const follows = this.#role === "standby" && this.#isSpare && !this.#channelUp;
    if (!follows || beat.role !== "standby" || !beat.invites) return [];
    if (beat.epoch !== this.#epoch || this.#peerRole !== "primary") return [];
    this.#upstream = node;
    return [{ kind: "follow" }];
  }

  /** Standby: from now on we follow `node`. */
  #turnTo(node: string): Effect[] {
    this.#upstream = node;
    if (!this.#channelUp) return [];
    this.#channelUp = false;
    this.#stateEpoch = null;
    return [{ kind: "leave" }];
  }

  /** From now on the other one of the pair is `node`. Whom we follow stays the same until it invites us. */
  #pairWith(node: string): void {
    this.#partner = node;
    this.#leaderlessSinceMs = null;
    if (this.#upstream !== node) this.#stateEpoch = null;
    const known = this.#known.get(node);
    this.#heardMs = known?.heardMs ?? null;
    this.#peerRole = known?.role ?? null;
    this.#peerEpoch = known?.epoch ?? 0;
  }

  /** Primary whom no standby follows, and whose partner is silent: the first peer that is heard is invited. */
  #choosePartner(nowMs: number): void {
    if (this.#counts || this.#peerAlive || this.#asked !== null) return;
    const next = this.#options.peers.find((node) => {
      const known = this.#known.get(node);
      return known !== undefined && nowMs - known.heardMs <= this.#silenceMs();
    });
    if (next === undefined || next === this.#partner) return;
    this.#pairWith(next);
    this.#silenceObservedMs = 0;
    this.#peerAlive = true;
  }

  /** Standby: whoever follows nobody is to follow us, the first in order that is heard. */
  #chooseFollower(nowMs: number): void {
    if (this.#followers.length > 0) return;
    this.#invited = this.#options.peers.find((node) => {
      const known = this.#known.get(node);
      return known !== undefined && nowMs - known.heardMs <= this.#silenceMs() && !known.ready &&
        node !== this.#partner && node !== this.#upstream && known.role !== "primary";
    }) ?? null;
  }

  /** Primary: heirs further down whose lease has ended are heirs no more; the standby has more patience. */
  #dropSilent(nowMs: number): void {
    const first = this.#followers.findIndex(({ node }, i) => {
      return i > 0 && nowMs >= this.#leaseUntilMs(node);
    });
    if (first < 0) this.#unheardSinceMs = null;
    else {
      // After a stall of our own their answers are on the way.
      this.#unheardSinceMs ??= nowMs;
      if (nowMs - this.#unheardSinceMs < this.#options.heartbeatMs) return;
      this.#followers = this.#followers.slice(0, first);
    }
  }

  /**
   * What a beat echoes; to be called for each of its copies, and for late ones. One that came first may
   * have come over a link that takes nothing to the peer, and echo only what that link took long ago.
   * The lease loses nothing by a late one: who asks does so `leaseMs` after all it has echoed before.
   */
  handleEcho(beat: BeatService, { node, echoedMs, token }: Omit<Heard, "nowMs">): void {
    const known = this.#known.get(node);
    if (known === undefined || echoedMs === null) return;
    const isBound = token === known.token && beat.epoch <= this.#epoch && !beat.asking;
    if (isBound) known.leaseFromMs = Math.max(known.leaseFromMs, echoedMs);
  }

  /** Two primaries: the newer epoch stays, then the preferred node. */
  #collide(node: string, beat: BeatService): Effect[] {
    const isPreferred = this.#rank(this.#options.node) < this.#rank(node);
    const yields = beat.epoch > this.#epoch || (beat.epoch === this.#epoch && !isPreferred);
    if (!yields) return [];
    const own = this.#epoch;
    this.#epoch = beat.epoch;
    return this.#retire("another primary is heard with a newer or equal epoch", {
      own,
      heard: beat.epoch,
    });
  }

  /** Primary: the standby, or who may become it, is there. */
  #heardStandby(nowMs: number): Effect[] {
    if (this.#lostStandby !== null) return this.#goAlone(nowMs);
    const effects = this.#heardHeir(nowMs);
    this.#noteUnrivalled(nowMs);
    return effects;
  }

  /** Primary alone: whoever could have taken over meanwhile has just said that it has not. */
  #noteUnrivalled(nowMs: number): void {
    if (this.#counts) return;
    const rivals = this.#hasSpares ? [...this.#named, ...this.#perhapsNamed] : [this.#partner!];
    for (const node of rivals) if (nowMs >= this.#leaseUntilMs(node)) return;
    const provenMs = Math.min(...rivals.map((node) => this.#leaseFrom(node)));
    if (Number.isFinite(provenMs)) this.#awakeMs = Math.max(this.#awakeMs, provenMs);
  }

  /** Primary: when all heirs are heard in time, what was granted meanwhile can be told. */
  #heardHeir(nowMs: number): Effect[] {
    const heirs = this.#nextBound().map(({ node }) => node);
    if (!this.#hasSpares) heirs.push(this.#partner!);
    if (heirs.length === 0 || !heirs.every((node) => nowMs < this.#leaseUntilMs(node))) return [];
    if (this.#asked?.purpose === "hold" && !this.#mustName) this.#withdraw();
    if (this.#heldEpoch === null) return [];
    const isVoided = this.#hasSpares && this.#voided >= this.#heldEpoch;
    if (isVoided && !this.#bound.every(({ node }) => nowMs < this.#leaseUntilMs(node))) {
      // One of those who knew the epoch before could pass over what we hold: it gives no voice any more. Of the
      // register we were granted it all the same, so the next claim follows on it.
      this.#lapsedEpoch = this.#heldEpoch;
      this.#heldEpoch = null;
    } else this.#announce();
    return [];
  }

  /** Primary of more than two: who may go on, once the epoch that was granted last is told. */
  #nextBound(): Follower[] {
    return this.#wanted().filter(({ node }) => this.#named.includes(node));
  }

  /** The epoch we were granted becomes that of the term the peer knows of. */
  #announce(): void {
    this.#epoch = this.#heldEpoch!;
    this.#heldEpoch = null;
    this.#bound = this.#nextBound();
  }

  /**
   * At the start, before anything else: our disk holds the connections of `term`; 0 for none that could be
   * gone on from.
   */
  handleStored(term: number): void {
    this.#isDurable = true;
    this.#stateEpoch = term === 0 ? null : term;
    this.#epoch = Math.max(this.#epoch, term);
  }

  /**
   * The term that our log on disk is to be whole in: 0 for none, null when it says no more than it did.
   */
  get logTerm(): number | null {
    if (this.#role === "primary") return Math.max(this.#epoch, this.#heldEpoch ?? 0);
    if (this.#role !== "standby" || this.#stateEpoch === null) return null;
    return this.#isWhole ? this.#stateEpoch : 0;
  }

  /** We have told whom we follow, for the time `session`, that we have nothing yet: what we had counts no more. */
  handleGreeting(session = 0): void {
    this.#session = session;
    this.#stateEpoch = null;
    this.#isWhole = false;
  }

  /** Standby: we have been told of all connections that live. */
  handleWhole(): void {
    this.#isWhole = true;
  }

  /** The replication channel stands: both sides have greeted each other, in `epoch`, for the time `session`. */
  handleChannelUp(epoch: number, session = 0): void {
    this.#channelUp = true;
    this.#lostStandby = null;
    if (this.#role !== "standby") {
      this.#followers = [{ node: this.#partner!, session, isWhole: true, seq: 0 }];
      return;
    }
    this.#epoch = Math.max(this.#epoch, epoch);
    // Where the register must name us first, the primary's next epoch says that it does.
    this.#stateEpoch = this.#hasSpares ? null : epoch;
    this.#refused = false;
    this.#followers = [];
  }

  /** Who follows us now; of a primary who follows its standby. */
  handleFollowers(followers: readonly Follower[]): void {
    if (this.#role !== "primary") this.#followers = followers;
    else if (this.#channelUp) this.#followers = [this.#followers[0], ...followers];
  }

  /** Primary: who follows our standby, as far as we count on it. */
  get further(): readonly Follower[] {
    return this.#followers.slice(1);
  }

  /** Of this one we have an answer so new that it cannot have asked for the service meanwhile. */
  hears(node: string, nowMs: number): boolean {
    return nowMs < this.#leaseUntilMs(node);
  }

  /**
   * The replication channel broke. A primary does not drop its standby for that: the standby may just
   * have taken over, and what is held must then never leave (P2). Its next beat, or its silence, tells.
   */
  handleChannelDown(why: string): void {
    if (!this.#channelUp) return;
    this.#channelUp = false;
    if (this.#role === "primary") this.#lostStandby = why;
  }

  // Planned switch --------------------------------------------------------------------------------

  /** We are to hand over: `handOver` follows, at once or when the register has agreed. */
  requestSwitch(nowMs: number): Effect[] {
    if (this.#role !== "primary" || !this.ready) return [];
    if (this.#options.arbiter === null) return [{ kind: "handOver", epoch: this.#next() }];
    // What is given to the standby now, it may act on: so a lease must bind us, and no hold free us.
    if (this.#asked !== null || this.#isBoundByGrant || this.#mustName) return [];
    const effects = this.#ask("switch", nowMs);
    this.#isSwitching = effects.length > 0;
    return effects;
  }

  /** The primary hands over to us, with everything applied before, for a reason it names. */
  handleHandover(
    epoch: number,
    nowMs: number,
    { reason = "switch" }: { reason?: "switch" | HandOverReason } = {},
  ): Effect[] {
    if (this.#role !== "standby" || epoch <= this.#epoch) return [];
    if (nowMs >= this.#leaseUntilMs(this.#partner)) {
      // We were away: it may have taken the service back meanwhile.
      return [judged("hand-over refused", {
        why: "the peer has not echoed a beat in time",
        epoch,
        echoedMsAgo: round(nowMs - this.#leaseFrom(this.#partner)),
      })];
    }
    this.#withdraw();
    const heirs = [this.#partner!];
    return this.#promote(reason, epoch, {
      silentMs: 0,
      afresh: false,
      awakeMs: nowMs,
      heirs,
      nowMs,
    });
  }

  /** We handed over: the peer is primary in `epoch`, and we follow on the same channel. */
  handleHandedOver(epoch: number): Effect[] {
    this.#withdraw();
    this.#epoch = epoch;
    this.#stateEpoch = epoch;
    this.#isWhole = true;
    this.#session = epoch;
    this.#upstream = this.#partner;
    this.#followers = [];
    this.#bound = [];
    this.#heldEpoch = null;
    // It has all we had: its last beat, that it is still joining, is older than that.
    this.#peerRole = "standby";
    return this.#become("standby", [{ kind: "storeEpoch", epoch }]);
  }

  // Time ------------------------------------------------------------------------------------------

  /**
   * Time passes; call it in every pass, after everything that was received has been handled. A stall
   * of our own is no silence of the peer: however long a pass took, it counts as one heartbeat.
   */
  handleTime(nowMs: number): Effect[] {
    const { heartbeatMs, arbiter } = this.#options;
    const passedMs = Math.max(0, nowMs - this.#lookedMs);
    this.#silenceObservedMs += Math.min(passedMs, heartbeatMs);
    this.#lookedMs = Math.max(this.#lookedMs, nowMs);
    const silent = this.#silenceObservedMs > this.#silenceMs();
    if (silent) this.#peerAlive = false;
    const asked = this.#asked;
    if (this.#probe !== null && nowMs - this.#probe.sinceMs > 4 * PROBE_MS) this.#probe = null;
    if (asked !== null && arbiter !== null && nowMs - asked.askedMs > arbiter.answerMs) {
      const why = `no answer within ${arbiter.answerMs} ms`;
      return this.handleVerdict({ kind: "unreachable", ticket: asked.ticket, why }, nowMs);
    }
    if (this.#role === "primary") return this.#timeAsPrimary(nowMs);
    if (this.#role === "standby" && this.#hasSpares) this.#chooseFollower(nowMs);
    return this.#shouldSpeak(nowMs, silent) ? this.#seek(nowMs) : [];
  }

  /** Whether nobody speaks, as far as we can tell, and it is for us to do so. */
  #shouldSpeak(nowMs: number, silent: boolean): boolean {
    const isArbitrated = this.#options.arbiter !== null;
    if (this.#role === "joining") {
      if (nowMs < this.#joinUntilMs) return this.#refused && this.#isLeaderless(nowMs);
      if (this.#inStep) return true;
      // A preferred peer that is heard will claim it; it is only a little slower than we are.
      const yieldMs = this.#rank(this.#options.node) * YIELD_MS;
      return !this.#isBetterHeard(nowMs) || nowMs > this.#joinUntilMs + yieldMs;
    }
    if (this.#isLeaderless(nowMs)) return true;
    if (this.#isSpare && (!this.#inStep || this.#isForestalled(nowMs))) return false;
    if (!isArbitrated) return silent;
    // Without the primary's connections there is no hurry: time to hear it, or others do.
    if (!this.#inStep) {
      return this.#silenceObservedMs > (this.#isDurable ? LOG_WAIT_MS : this.#listenMs());
    }
    // Then it has lost or forgotten what we have.
    const hasLeft = this.#peerRole === "retired" || this.#peerRole === "joining";
    return silent || (this.#peerAlive && hasLeft);
  }

  /** Further down: another standby is heard that could go on, and may still do so. */
  #isForestalled(nowMs: number): boolean {
    if (this.#silenceObservedMs > this.#silenceMs() + LEADERLESS_MS) return false;
    return [...this.#known].some(([node, { role, ready, heardMs }]) => {
      const isBelow = this.#followers.some((follower) => follower.node === node);
      const isThere = nowMs - heardMs <= this.#silenceMs() + this.#options.heartbeatMs;
      return node !== this.#partner && !isBelow && role === "standby" && ready && isThere;
    });
  }

  #seek(nowMs: number): Effect[] {
    const isStart = this.#role === "joining";
    if (this.#options.arbiter !== null) return this.#ask(isStart ? "start" : "takeover", nowMs);
    return this.#promote(isStart ? "start" : "peer-silent", this.#next(), {
      silentMs: isStart ? 0 : this.#silentMs(nowMs),
      afresh: this.#role === "retired",
      awakeMs: nowMs,
      heirs: [],
      nowMs,
    });
  }

  #silentMs(nowMs: number): number {
    return this.#heardMs === null ? Infinity : nowMs - this.#heardMs;
  }

  #timeAsPrimary(nowMs: number): Effect[] {
    const { arbiter } = this.#options;
    this.#choosePartner(nowMs);
    this.#dropSilent(nowMs);
    if (this.maySpeak(nowMs)) this.#stalledSinceMs = null;
    else {
      this.#stalledSinceMs ??= nowMs;
      const waitedMs = nowMs - this.#stalledSinceMs;
      if (arbiter !== null) return waitedMs < arbiter.patienceMs ? [] : this.#ask("hold", nowMs);
      // Whoever has taken over meanwhile is heard now, or is not to be heard at all.
      if (waitedMs > this.#silenceMs()) this.#awakeMs = nowMs;
    }
    // A spare that is cut off from all may have been started anew, and hear of nobody.
    const mayBeRivalled = this.#isBoundByGrant || this.#options.peers.length > 1;
    const effects = arbiter !== null && mayBeRivalled ? this.#confirm(nowMs) : [];
    if (this.#mustName) effects.push(...this.#ask("hold", nowMs));
    if (!this.#counts) return effects;
    // Waiting costs a moment of held output; dropping it costs every connection its protection.
    if (this.#silenceObservedMs <= Math.max(this.#silenceMs(), STANDBY_MS)) return effects;
    this.handleChannelDown(`silent for ${this.#silentMs(nowMs).toFixed(1)} ms`);
    return [...effects, ...this.#goAlone(nowMs)];
  }

  /** The standby is given up, once, after its channel broke; with an arbiter, on a grant only. */
  #goAlone(nowMs: number): Effect[] {
    const reason = this.#lostStandby;
    if (reason === null) return [];
    if (this.#options.arbiter !== null) {
      if (this.#heldEpoch === null) return this.#ask("hold", nowMs);
      this.#announce();
    }
    this.#lostStandby = null;
    this.#followers = [];
    this.#bound = [];
    this.#nextConsultMs = nowMs + CONFIRM_MS;
    return [
      { kind: "dropStandby", reason },
      judged("standby lost", { why: reason, silentMs: round(this.#silentMs(nowMs)) }),
    ];
  }

  /**
   * Without a lease, or with spares: does the register still name us? Also on a hold: a standby that hears none of our
   * beats, while we hear its own, may find nobody at the address when our card is dead for a while.
   */
  #confirm(nowMs: number): Effect[] {
    if (nowMs < this.#nextConsultMs || this.#asked !== null) return [];
    this.#nextConsultMs = nowMs + CONFIRM_MS;
    this.#consulted = { ticket: ++this.#tickets, askedMs: nowMs };
    return [{ kind: "consult", ticket: this.#consulted.ticket }];
  }

  // The register ----------------------------------------------------------------------------------

  /** An epoch newer than any we know of. */
  #next(): number {
    const peers = [...this.#known.values()].map(({ epoch, voided }) =>
      Math.max(epoch, voided.epoch)
    );
    const own = Math.max(this.#epoch, this.#heldEpoch ?? 0, this.#voided, this.#given?.epoch ?? 0);
    return Math.max(own, this.#observed, ...peers) + 1;
  }

  /** Claims an epoch, unless a claim is under way or it is too soon after one without an answer. */
  #ask(purpose: Purpose, nowMs: number): Effect[] {
    const effects: Effect[] = [];
    if (this.#isSwitching && purpose === "hold") {
      // The epoch for the standby would be older than the one we are to ask for.
      this.#isSwitching = false;
      if (this.#asked?.purpose === "switch") this.#withdraw();
      effects.push({ kind: "keep", why: "the standby was not heard in time" });
    }
    const isBusy = this.#asked !== null || this.#probe !== null;
    if (isBusy || nowMs < this.#retryAtMs) return effects;
    const isInStep = this.#inStep;
    if (purpose === "takeover") {
      effects.push(judged(this.#peerAlive ? "nobody speaks" : "peer silent", {
        silentMs: round(this.#silentMs(nowMs)),
        limitMs: this.#silenceMs(),
        peerRole: this.#peerRole,
        inStep: isInStep,
      }));
    } else if (purpose === "hold") {
      const isChange = this.#mustName && this.maySpeak(nowMs);
      const what = isChange ? "heirs change" : this.#counts ? "standby silent" : "own stall";
      effects.push(judged(what, {
        silentMs: round(this.#silentMs(nowMs)),
        echoedMsAgo: round(nowMs - this.#leaseFrom(this.#partner)),
        awakeMsAgo: round(nowMs - this.#awakeMs),
      }));
    }
    if (this.#role === "primary" || isInStep) return [...effects, this.#claim(purpose, nowMs)];
    // Nothing tells whether who had the service last is gone, but its silence at the address.
    const ticket = ++this.#tickets;
    this.#probe = { ticket, purpose, sinceMs: nowMs };
    return [...effects, { kind: "probe", ticket }];
  }

  /** Nobody has answered for the address, or the one with the hardware address `by`. */
  handleProbe(ticket: number, by: string | null, nowMs: number): Effect[] {
    const probe = this.#probe;
    if (probe === null || probe.ticket !== ticket) return [];
    this.#probe = null;
    if (by === null) return [this.#claim(probe.purpose, nowMs)];
    this.#retryAtMs = nowMs + OCCUPIED_MS;
    return [judged("address in use", { by, silentMs: round(this.#silentMs(nowMs)) })];
  }

  #claim(purpose: Purpose, nowMs: number): Effect {
    const { node, token } = this.#options;
    const term = Math.max(this.#epoch, this.#heldEpoch ?? 0, this.#lapsedEpoch);
    const expect = this.#followed(term);
    const voids = [{ token, epoch: this.#voided }];
    for (const { voided } of this.#known.values()) voids.push(voided);
    if (this.#given !== null) voids.push(this.#given);
    const isSwitch = purpose === "switch";
    const owner = isSwitch ? this.#partner! : node;
    const claim: Claim = { expect, voids, epoch: this.#next(), owner, token };
    if (this.#hasSpares) claim.heirs = isSwitch ? [node] : this.#heirs(purpose);
    const ticket = ++this.#tickets;
    this.#asked = { ticket, purpose, claim, askedMs: nowMs };
    return { kind: "arbitrate", ticket, purpose, claim };
  }

  /** The term that a claim of ours is to follow on; `term` is the newest that we know of as somebody's. */
  #followed(term: number): number {
    if (this.#role === "primary") return term;
    // At a start nobody knows whether a log somewhere is newer than ours, or there is one at all.
    if (this.#role === "joining" && this.#isDurable && !this.#refused) return this.#stateEpoch ?? 0;
    return this.#inStep ? term : Math.max(term, this.#observed);
  }

  /** Whom a claim names. */
  #heirs(purpose: Purpose): string[] {
    const copies = this.#options.copies ?? 1;
    const holds = this.#role === "primary" || (purpose === "takeover" && this.#inStep);
    const heirs = holds ? this.#followers.slice(0, copies).map(({ node }) => node) : [];
    if (this.#role === "primary" && !this.#channelUp) heirs.length = 0;
    // Who was primary before must be able to pass over this claim, should we never act on it.
    const isOwner = this.#role === "primary";
    if (heirs.length === 0 || !(isOwner || heirs.includes(this.#partner!))) {
      heirs.push(this.#partner!);
    }
    return heirs;
  }

  /** The claim under way is wanted no more: we shall never act on its epoch. */
  #withdraw(): void {
    this.#probe = null;
    if (this.#asked === null) return;
    const { heirs = [] } = this.#asked.claim;
    this.#perhapsNamed = [...new Set([...this.#perhapsNamed, ...heirs])];
    this.#voided = Math.max(this.#voided, this.#asked.claim.epoch);
    this.#asked = null;
  }

  /** What became of a claim. */
  handleVerdict(verdict: Verdict, nowMs: number): Effect[] {
    const asked = this.#asked;
    if (asked === null || verdict.ticket !== asked.ticket) return [];
    const { purpose, askedMs } = asked;
    const note = this.#note(verdict, asked, nowMs);
    switch (verdict.kind) {
      case "granted":
        return [note, ...this.#granted(asked, verdict.heirs ?? asked.claim.heirs ?? [], nowMs)];
      case "lost":
        this.#asked = null;
        return [note, ...this.#lost(verdict.value, purpose, nowMs)];
      case "unreachable":
        // It may have been granted all the same; whoever claims next may expect that.
        this.#withdraw();
        this.#retryAtMs = Math.max(nowMs, askedMs + this.#retryMs);
        this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MS_MAX);
        if (purpose !== "switch") return [note];
        this.#isSwitching = false;
        return [note, { kind: "keep", why: verdict.why }];
    }
  }

  #note(verdict: Verdict, { purpose, claim, askedMs }: Asked, nowMs: number): Effect {
    const { kind: outcome } = verdict;
    this.#reachable = outcome !== "unreachable";
    const value = outcome === "lost" ? verdict.value : null;
    const detail = outcome === "unreachable"
      ? verdict.why
      : outcome === "granted"
      ? `epoch ${claim.epoch}`
      : value === null
      ? "the register is empty"
      : `epoch ${value.epoch} belongs to ${value.owner}`;
    const tookMs = Math.round((nowMs - askedMs) * 1000) / 1000;
    this.#last = { purpose, outcome, epoch: claim.epoch, atMs: nowMs, tookMs, detail };
    return judged(`arbiter: ${outcome}`, { purpose, epoch: claim.epoch, detail, tookMs });
  }

  #granted(asked: Asked, heirs: readonly string[], nowMs: number): Effect[] {
    const { purpose, claim: { epoch }, askedMs } = asked;
    const { grantMs } = this.#options.arbiter!;
    if (nowMs - askedMs > grantMs) {
      // Meanwhile somebody may have looked for us in vain, and be claiming the next epoch now. The
      // same claim again would be granted without a change of the register, beside theirs: only of
      // two claims of new epochs one is lost.
      this.#withdraw();
      return [this.#claim(purpose, nowMs)];
    }
    this.#asked = null;
    this.#retryMs = RETRY_MS;
    const awakeMs = grantMs === Infinity ? nowMs : askedMs;
    switch (purpose) {
      case "switch":
        // Until it is handed over, nobody acts on it.
        this.#voided = Math.max(this.#voided, epoch);
        return [{ kind: "handOver", epoch }];
      case "hold":
        this.#heldEpoch = epoch;
        this.#named = heirs;
        this.#perhapsNamed = [];
        this.#awakeMs = awakeMs;
        this.#nextConsultMs = awakeMs + CONFIRM_MS;
        if (!this.#counts) this.#announce();
        return [{ kind: "storeEpoch", epoch }];
      case "start":
      case "takeover":
        return this.#promote(purpose === "start" ? "start" : "peer-silent", epoch, {
          silentMs: purpose === "start" ? 0 : this.#silentMs(nowMs),
          afresh: !this.#inStep,
          awakeMs,
          heirs,
          nowMs,
        });
    }
  }

  #lost(value: RegisterValue | null, purpose: Purpose, nowMs: number): Effect[] {
    const epoch = value?.epoch ?? 0;
    this.#retryAtMs = nowMs + RETRY_MS;
    const isGiven = value?.owner === this.#options.node && value.epoch !== this.#given?.epoch;
    if (isGiven && this.#role !== "primary") {
      // Given to us without our knowing: nobody else can act on it.
      this.#given = { token: value.token, epoch };
      this.#retryAtMs = nowMs;
      return [];
    }
    this.#observed = Math.max(this.#observed, epoch);
    if (purpose === "hold" || purpose === "switch") {
      return this.#retire("the register names another primary", {
        owner: value?.owner ?? null,
        epoch,
        own: this.#epoch,
      });
    }
    // Whoever has won is heard soon, or is gone: then it is for us again, but as at a first start.
    if (this.#role !== "joining") this.#silenceObservedMs = 0;
    else if (this.#isDurable && !this.#refused) this.#joinUntilMs = nowMs + LOG_WAIT_MS;
    this.#refused = true;
    return [];
  }

  /** What the register holds, in answer to `consult`; `undefined` when it could not be read. */
  handleRegister(ticket: number, value: RegisterValue | null | undefined, nowMs: number): Effect[] {
    if (this.#consulted?.ticket !== ticket) return [];
    this.#consulted = null;
    this.#reachable = value !== undefined;
    if (value === undefined || this.#role !== "primary") return [];
    if (value === null || value.epoch < this.#epoch) return this.#ask("hold", nowMs);
    const isVoid = [...this.#known.values()].some(({ voided }) =>
      value.token === voided.token && value.epoch <= voided.epoch
    );
    // Whom a claim of ours names, for a switch, is primary when its verdict is here.
    const isOurs = value.owner === this.#options.node || value.token === this.#options.token;
    if (value.epoch === this.#epoch || isVoid || isOurs) return [];
    this.#observed = Math.max(this.#observed, value.epoch);
    return this.#retire("the register names another primary", {
      owner: value.owner,
      epoch: value.epoch,
      own: this.#epoch,
    });
  }

  // Changes of role -------------------------------------------------------------------------------

  #promote(
    reason: TakeoverReason,
    epoch: number,
    how: {
      silentMs: number;
      afresh: boolean;
      awakeMs: number;
      heirs: readonly string[];
      nowMs: number;
    },
  ): Effect[] {
    const { silentMs, afresh, awakeMs, heirs, nowMs } = how;
    this.#epoch = epoch;
    this.#awakeMs = awakeMs;
    this.#heldEpoch = null;
    this.#stateEpoch = null;
    this.#nextConsultMs = awakeMs + CONFIRM_MS;
    const isSwitch = reason !== "start" && reason !== "peer-silent";
    const keeps = !isSwitch && !afresh && this.#role === "standby" && this.#followers.length > 0;
    this.#named = heirs;
    this.#perhapsNamed = [];
    if (isSwitch) {
      // Who hands over has named itself as the heir, and follows on what it has.
      this.#followers = [{ node: this.#partner!, session: epoch, isWhole: true, seq: 0 }];
    } else {
      if (!keeps) this.#followers = [];
      this.#channelUp = keeps;
      if (keeps) this.#pairWith(this.#followers[0].node);
    }
    const effects = this.#become("primary", [
      { kind: "storeEpoch", epoch },
      { kind: "promote", reason, epoch, silentMs, afresh, keeps },
    ]);
    this.#bound = this.#hasSpares ? this.#nextBound() : [];
    // Of the others it is not known how much they have been told.
    const bound = this.#bound;
    this.#followers = this.#followers.filter((follower, i) => i === 0 || isIn(bound, follower));
    if (keeps) this.#followers[0].isWhole = isIn(bound, this.#followers[0]);
    if (!isSwitch && this.#hasSpares) {
      // Nobody can have heard of this epoch before now, and so not missed us in it.
      for (const [node, known] of this.#known) {
        const isBound = this.#bound.some((heir) => heir.node === node);
        known.leaseFromMs = isBound ? nowMs : -Infinity;
      }
    }
    if (keeps) {
      this.#silenceObservedMs = 0;
      this.#peerAlive = true;
    }
    return effects;
  }

  #retire(reason: string, evidence: Evidence): Effect[] {
    const epoch = Math.max(this.#epoch, this.#heldEpoch ?? 0, this.#lapsedEpoch);
    this.#channelUp = false;
    this.#heldEpoch = null;
    this.#stateEpoch = null;
    this.#followers = [];
    this.#bound = [];
    this.#silenceObservedMs = 0;
    this.#withdraw();
    return this.#become("retired", [
      { kind: "silence", reason },
      { kind: "storeEpoch", epoch },
      judged("retired", { why: reason, ...evidence }),
    ]);
  }

  #become(role: Role, effects: Effect[]): Effect[] {
    this.#role = role;
    this.#lostStandby = null;
    this.#leaderlessSinceMs = null;
    this.#stalledSinceMs = null;
    this.#isSwitching = false;
    this.#refused = false;
    return effects;
  }
}

function isIn(list: readonly Follower[], { node, session }: Follower): boolean {
  return list.some((other) => other.node === node && other.session === session);
}

function judged(judgement: string, evidence: Evidence): Effect {
  return { kind: "judgement", judgement, evidence };
}

/** Milliseconds with three places; texts for what JSON has no number for. */
function round(ms: number): number | string {
  return Number.isFinite(ms) ? Math.round(ms * 1000) / 1000 : "never";
}
