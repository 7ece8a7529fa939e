/**
 * recovery.ts - log mode: is our server dead, is the next one there, is it where the clients are?
 *
 * Theory of operation
 * One for each service that keeps whole logs. It has no clock and reaches nothing: what was seen goes in, what is
 * to be done comes out (core/segment/recovery.ts does it to the connections). On a hot host it also looks after the
 * server of a standby, which is fed from the same logs.
 *
 *             a server listens                 every connection live
 *   waiting ──────────────────> replaying ──────────────────────────> live
 *      ^  replay                    │                                  │
 *      └──── detach ────────────────┴── the server is dead, or is to be restarted
 *
 * While ends of the server are held it must be known whether it lives:
 *
 *   its processes are exiting (/proc)                              dead
 *   nobody listens at a service port (a probe)                     dead
 *   somebody listens, and a process runs                           it meant those ends: confirm
 *
 * A program's listener may be closed after a connection of it. So while the processes of a server that
 * somebody else started are not known yet, it is probed EXTERNAL_WAIT_MS after the end; and the next
 * server is waited for until those of the last one are gone: what they still listened at would answer.
 *
 * Limits: a probe that is not answered is repeated after PROBE_MS; a recovery may take any time.
 */

/** Between two probes, milliseconds. */
export const PROBE_MS = 10;
/** How long an end of a server that we cannot look at waits for its listener's end, milliseconds. */
export const EXTERNAL_WAIT_MS = 5;

/** How far a recovery is. */
export type RecoveryState = "waiting" | "replaying" | "live";

/** Why connections left their server. */
export type RecoveryReason = "start" | "app-exited" | "app-died" | "app-hangs" | "restart";

/** What the caller has to do, in order. */
export type RecoveryEffect =
  /** Ask whether somebody listens; `again` when the last question has no answer yet. */
  | { kind: "probe"; again: boolean }
  /** The server meant the ends that came before the probe's answer. */
  | { kind: "confirm" }
  /** Connections leave the server; `seen` is null when nothing failed. */
  | { kind: "detach"; reason: RecoveryReason; seen: string | null }
  /** Play every connection to the new server. */
  | { kind: "replay" }
  /** Every connection is live again. */
  | { kind: "recovered"; reason: RecoveryReason; tookMs: number; waitedMs: number };

/** What is seen in a pass. */
export interface RecoverySight {
  /** Milliseconds of the caller's clock. */
  nowMs: number;
  /** Ends of the server are held. */
  endsHeld: boolean;
  /** What the last probe found. */
  listening: "unknown" | "yes" | "no";
  /** Looks at the server's processes; "unknown" when it is not known which they are. */
  look: () => "unknown" | "runs" | "exiting" | "gone";
  /** Counts the connections whose server is not yet where the client is. */
  behind: () => number;
}

/** The recovery of one service. */
export class Recovery {
  readonly #spawns: boolean;
  #state: RecoveryState = "waiting";
  #reason: RecoveryReason = "start";
  /** A server we start runs; always true of one that somebody else starts. */
  #runs: boolean;
  #probing = false;
  #nextProbeMs = -Infinity;
  #heldSinceMs: number | null = null;
  #sinceMs: number;
  #replayedMs = 0;

  /** `spawns`: the server is started by us. */
  constructor(spawns: boolean, nowMs: number) {
    this.#spawns = spawns;
    this.#runs = !spawns;
    this.#sinceMs = nowMs;
  }

  /** How far it is. */
  get state(): RecoveryState {
    return this.#state;
  }

  /** Why connections left their last server. */
  get reason(): RecoveryReason {
    return this.#reason;
  }

  /** When they did, milliseconds of the caller's clock. */
  get sinceMs(): number {
    return this.#sinceMs;
  }

  /** Something is to be looked at every few milliseconds. */
  get isBusy(): boolean {
    return this.#state === "live" ? this.#probing || this.#heldSinceMs !== null : this.#runs;
  }

  /** The server that we start runs. */
  handleStart(): void {
    this.#runs = true;
    this.#probing = false;
    this.#nextProbeMs = -Infinity;
  }

  /** It has ended. */
  handleExit(how: string, nowMs: number): RecoveryEffect[] {
    this.#runs = false;
    if (this.#state === "waiting") return [];
    return this.#fail("app-exited", `the server's process ended with ${how}`, nowMs);
  }

  /** It is to be replaced by another one; `handleStart()` says when that runs. */
  handleRestart(nowMs: number): RecoveryEffect[] {
    this.#runs = false;
    this.#leave("restart", nowMs);
    return [{ kind: "detach", reason: "restart", seen: null }];
  }

  /** It hangs and is going to be replaced; `handleStart()` says when the next one runs. */
  handleHang(seen: string, nowMs: number): RecoveryEffect[] {
    this.#runs = false;
    return this.#fail("app-hangs", seen, nowMs);
  }

  /** This replica has become primary; its connections have no server yet. */
  handlePromoted(nowMs: number): void {
    this.#sinceMs = nowMs;
    this.#leave("start", nowMs);
  }

  /** What a pass has shown, where a server is to run. */
  handlePass(sight: RecoverySight): RecoveryEffect[] {
    return this.#state === "waiting" ? this.#await(sight) : this.#watch(sight);
  }

  /** Until the next server listens. */
  #await({ nowMs, listening, look }: RecoverySight): RecoveryEffect[] {
    if (!this.#runs || look() === "exiting") return [];
    if (this.#probing && listening === "yes") {
      this.#probing = false;
      this.#nextProbeMs = -Infinity;
      this.#state = "replaying";
      this.#replayedMs = nowMs;
      return [{ kind: "replay" }];
    }
    return this.#probe(nowMs, listening);
  }

  #watch(sight: RecoverySight): RecoveryEffect[] {
    const { nowMs, endsHeld, listening } = sight;
    if (!endsHeld) {
      this.#heldSinceMs = null;
      this.#probing = false;
      if (this.#state === "live" || sight.behind() > 0) return [];
      this.#state = "live";
      const waitedMs = this.#replayedMs - this.#sinceMs;
      return [{
        kind: "recovered",
        reason: this.#reason,
        tookMs: nowMs - this.#sinceMs,
        waitedMs,
      }];
    }
    this.#heldSinceMs ??= nowMs;
    const life = sight.look();
    if (life === "exiting" || life === "gone") {
      this.#runs = !this.#spawns;
      return this.#fail("app-exited", "the server's process is exiting", nowMs);
    }
    if (this.#probing && listening === "no") {
      return this.#fail("app-died", "its connections ended, and nobody listens any more", nowMs);
    }
    if (this.#probing && listening === "yes") {
      this.#probing = false;
      this.#nextProbeMs = -Infinity;
      return [{ kind: "confirm" }];
    }
    if (life === "unknown" && nowMs - this.#heldSinceMs < EXTERNAL_WAIT_MS) return [];
    return this.#probe(nowMs, listening);
  }

  #probe(nowMs: number, listening: RecoverySight["listening"]): RecoveryEffect[] {
    if (nowMs < this.#nextProbeMs) return [];
    const again = this.#probing && listening === "unknown";
    this.#nextProbeMs = nowMs + PROBE_MS;
    this.#probing = true;
    return [{ kind: "probe", again }];
  }

  #fail(reason: RecoveryReason, seen: string, nowMs: number): RecoveryEffect[] {
    this.#leave(reason, nowMs);
    return [{ kind: "detach", reason, seen }];
  }

  #leave(reason: RecoveryReason, nowMs: number): void {
    // A server that dies while it is played the log: the clients have waited since the first one's end.
    if (this.#state === "live") this.#sinceMs = nowMs;
    this.#reason = reason;
    this.#state = "waiting";
    this.#probing = false;
    this.#nextProbeMs = -Infinity;
    this.#heldSinceMs = null;
  }
}
