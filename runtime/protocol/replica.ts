/**
 * replica.ts - who speaks for a service: the role of one replica
 *
 * Theory of operation
 * Each daemon runs one such machine for each service. It takes what was heard, what was asked and
 * the time, and returns effects that the caller performs in the order given. It has no clock, no
 * socket and no randomness.
 *
 *   joining ──peer is primary──> standby ──peer silent / handover──> primary
 *      │                            ^                                   │
 *      └──nobody, or we are preferred──> primary                        │ a newer epoch is heard,
 *                                   │                                   v or two primaries collide
 *                                   └────────────── retired <───────────┘
 *
 *   joining   hears for a while before it claims anything: `joinMs`, twice as long when the other
 *             node is preferred
 *   standby   follows the primary; `ready` once the channel stands, so that it could take over now
 *   primary   speaks; `ready` while a standby is there
 *   retired   was primary and must not speak: everything is forgotten, then it joins as standby
 *
 * An epoch is one term of one primary. It only grows; whoever becomes primary uses one more than
 * any it has seen, stored before it is used. Until arbitration exists, two hosts that lose sight of
 * each other both go on; when they meet again the newer epoch wins, then the preferred node.
 *
 * Sources: DESIGN sections 1 (P3, P6) and 6; ST-TCP's rule of `detect` missed heartbeats.
 */
import type { BeatService, Role } from "./message.ts";

/** What the machine is made with. */
export interface ReplicaOptions {
  /** Name of the service. */
  service: string;
  /** This node's name. */
  node: string;
  /** The peer's name, or null when the service has no other replica. */
  peer: string | null;
  /** Node that is primary at the first start; null for the name that sorts first. */
  prefer: string | null;
  /** Interval of heartbeats, milliseconds. */
  heartbeatMs: number;
  /** Heartbeats that may be missed on every link. */
  detect: number;
  /** Highest epoch this node has ever stored. */
  epoch: number;
}

/** What the caller has to do; in the order of the list. */
export type Effect =
  /** Store `epoch` durably before anything else of this list is done. */
  | { kind: "storeEpoch"; epoch: number }
  /** Take over: drain, adopt, claim, speak. */
  | { kind: "promote"; reason: TakeoverReason; epoch: number; silentMs: number }
  /** Open the replication channel to the primary. */
  | { kind: "follow" }
  /** The standby can no longer be counted on: release what waits for it, close its channel. */
  | { kind: "dropStandby"; reason: string }
  /** Say nothing any more: release the address, forget all connections, end them locally. */
  | { kind: "silence"; reason: string };

/** Why a replica became primary. */
export type TakeoverReason = "start" | "peer-silent" | "switch";

/** Joining replicas listen at least this long, in milliseconds. */
const JOIN_MS_MIN = 500;

/** A primary waits at least this long for a silent standby, in milliseconds. */
const STANDBY_MS = 250;
/** Replicas that hear each other are without a primary for at most about this long. */
const LEADERLESS_MS = 1000;

/** The machine of one service on one node. */
export class Replica {
  readonly #options: ReplicaOptions;
  #role: Role = "joining";
  #epoch: number;
  #joinUntilMs: number;
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

  /** Starts in `joining` at `nowMs` of the caller's monotonic clock. */
  constructor(options: ReplicaOptions, nowMs: number) {
    this.#options = options;
    this.#epoch = options.epoch;
    this.#lookedMs = nowMs;
    const listenMs = Math.max(JOIN_MS_MIN, 3 * this.#silenceMs());
    this.#joinUntilMs = nowMs +
      (options.peer === null ? 0 : listenMs * (this.#preferred() ? 1 : 2));
  }

  /** Role now. */
  get role(): Role {
    return this.#role;
  }

  /** Highest epoch known: of this term when primary. */
  get epoch(): number {
    return this.#epoch;
  }

  /** True when a standby could take over now (as seen by either side). */
  get ready(): boolean {
    return this.#channelUp && (this.#role === "standby" || this.#role === "primary");
  }

  /** True while the peer is heard in time. */
  get peerAlive(): boolean {
    return this.#peerAlive;
  }

  /** When the peer was heard last, milliseconds of the caller's clock, or null. */
  get heardMs(): number | null {
    return this.#heardMs;
  }

  /** Longest silence before the peer counts as down, milliseconds. */
  #silenceMs(): number {
    return this.#options.heartbeatMs * this.#options.detect;
  }

  /** Nobody speaks, though both are there: a hand-over went wrong. The preferred one takes it. */
  #isLeaderless(nowMs: number): boolean {
    const sinceMs = this.#leaderlessSinceMs;
    return sinceMs !== null && this.#preferred() && nowMs - sinceMs > LEADERLESS_MS;
  }

  #preferred(): boolean {
    const { node, peer, prefer } = this.#options;
    if (prefer === node || prefer === peer) return prefer === node;
    return peer === null || node < peer;
  }

  /** The peer said something about this service. */
  handleBeat(beat: BeatService, nowMs: number): Effect[] {
    this.#heardMs = nowMs;
    this.#silenceObservedMs = 0;
    this.#peerAlive = true;
    this.#peerRole = beat.role;
    this.#peerEpoch = beat.epoch;
    // Only from one who speaks: the old primary's beats overtake its word that we shall go on.
    if (beat.role === "primary") {
      this.#leaderlessSinceMs = null;
      if (this.#role !== "primary" && beat.epoch > this.#epoch) this.#epoch = beat.epoch;
    } else this.#leaderlessSinceMs ??= nowMs;
    switch (this.#role) {
      case "joining":
        return beat.role === "primary" ? this.#become("standby", [{ kind: "follow" }]) : [];
      case "standby":
        return beat.role === "primary" && !this.#channelUp ? [{ kind: "follow" }] : [];
      case "primary": {
        if (beat.role !== "primary") return this.#dropLost();
        const yields = beat.epoch > this.#epoch ||
          (beat.epoch === this.#epoch && !this.#preferred());
        if (!yields) return [];
        this.#epoch = Math.max(this.#epoch, beat.epoch);
        return this.#retire("another primary is heard with a newer or equal epoch");
      }
      case "retired":
        return beat.role === "primary" ? this.#become("standby", [{ kind: "follow" }]) : [];
    }
  }

  /** The replication channel stands: both sides have greeted each other. */
  handleChannelUp(): void {
    this.#channelUp = true;
    this.#lostStandby = null;
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

  /** The primary hands over to us, with everything applied before. */
  handleHandover(epoch: number): Effect[] {
    if (this.#role !== "standby" || epoch <= this.#epoch) return [];
    return this.#promote("switch", epoch, 0);
  }

  /** We handed over: the peer is primary in `epoch`, and we follow on the same channel. */
  handleHandedOver(epoch: number): Effect[] {
    this.#epoch = epoch;
    return this.#become("standby", [{ kind: "storeEpoch", epoch }]);
  }

  /**
   * Time passes; call it in every pass, after everything that was received has been handled. A stall
   * of our own is no silence of the peer: however long a pass took, it counts as one heartbeat.
   */
  handleTime(nowMs: number): Effect[] {
    const { heartbeatMs } = this.#options;
    this.#silenceObservedMs += Math.min(nowMs - this.#lookedMs, heartbeatMs);
    this.#lookedMs = nowMs;
    const silentMs = this.#heardMs === null ? Infinity : nowMs - this.#heardMs;
    const silent = this.#silenceObservedMs > this.#silenceMs();
    if (silent) this.#peerAlive = false;
    switch (this.#role) {
      case "joining":
        if (nowMs < this.#joinUntilMs) return [];
        // A preferred peer that is heard will claim it; it is only a little slower than we are.
        if (this.#peerAlive && !this.#preferred()) return [];
        return this.#promote("start", this.#next(), 0);
      case "standby":
        if (!silent && !this.#isLeaderless(nowMs)) return [];
        // Without the channel we lack connections; without us they have nobody.
        return this.#promote("peer-silent", this.#next(), silentMs);
      case "primary":
        // Waiting costs a moment of held output; dropping it costs every connection its protection.
        if (this.#silenceObservedMs <= Math.max(this.#silenceMs(), STANDBY_MS)) return [];
        if (this.#channelUp) this.handleChannelDown(`silent for ${silentMs.toFixed(1)} ms`);
        return this.#dropLost();
      case "retired":
        return silent || this.#isLeaderless(nowMs)
          ? this.#promote("peer-silent", this.#next(), silentMs)
          : [];
    }
  }

  /** The newest epoch seen anywhere, and the peer's role, for status. */
  get peer(): { role: Role | null; epoch: number } {
    return { role: this.#peerRole, epoch: this.#peerEpoch };
  }

  /** The standby's connections are given up, once, after its channel broke. */
  #dropLost(): Effect[] {
    const reason = this.#lostStandby;
    if (reason === null) return [];
    this.#lostStandby = null;
    return [{ kind: "dropStandby", reason }];
  }

  /** An epoch newer than any we know of. */
  #next(): number {
    return Math.max(this.#epoch, this.#peerEpoch) + 1;
  }

  #promote(reason: TakeoverReason, epoch: number, silentMs: number): Effect[] {
    this.#epoch = epoch;
    if (reason !== "switch") this.#channelUp = false;
    return this.#become("primary", [
      { kind: "storeEpoch", epoch },
      { kind: "promote", reason, epoch, silentMs },
    ]);
  }

  #retire(reason: string): Effect[] {
    this.#channelUp = false;
    return this.#become("retired", [
      { kind: "silence", reason },
      { kind: "storeEpoch", epoch: this.#epoch },
    ]);
  }

  #become(role: Role, effects: Effect[]): Effect[] {
    this.#role = role;
    this.#lostStandby = null;
    this.#leaderlessSinceMs = null;
    return effects;
  }
}
