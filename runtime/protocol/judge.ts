/**
 * judge.ts - which failure is it? One judge for each service on each node
 *
 * Theory of operation
 * The core finds what single connections show, the daemon sees its server's process end. The judge
 * turns both into a verdict on one node's server, says it once with its evidence, and tells what to do.
 * It has no clock and no socket: findings and time go in, effects come out (DESIGN 6).
 *
 *   found                                          verdict      act on the primary's side
 *   our server ended, theirs goes on               app-died     hand over
 *   our kernel refuses what theirs accepts         app-refuses  hand over
 *   our spawned server's process ended             app-exited   hand over
 *   their server ended, ours goes on               app-died     the connection is unprotected
 *   both wrote different octets (P5)               diverged     the connection is unprotected
 *   the same, where the standby keeps whole logs   diverged     the standby goes on with the log alone
 *   the same, found after a takeover               diverged     the client is reset
 *   our server stands still, theirs goes on        app-hangs    hand over
 *   its health command fails (health.ts)           app-hangs    hand over
 *   their server stands still, ours goes on        app-hangs    the connection is unprotected
 *   our card is dead, theirs works                 card-down    hand over
 *
 * A hand-over is a planned switch with the verdict as its reason. When nobody can take the service, or
 * the switch fails, clients are told of the ends that were kept from them (P9), and the next attempt
 * waits RETRY_MS.
 *
 * Limits: findings that repeat the last judgement within REPEAT_MS of the one before say nothing, so
 * that ten thousand connections of one dead server make one line of log.
 */

/** What a judge can say of a server. */
export type Verdict = HandOverReason | "diverged";

/** Reasons for a hand-over that nobody asked for. */
export type HandOverReason = "app-died" | "app-refuses" | "app-exited" | "app-hangs" | "card-down";

const REASONS: readonly HandOverReason[] = [
  "app-died",
  "app-refuses",
  "app-exited",
  "app-hangs",
  "card-down",
];

/** The reason a peer named for its hand-over; "switch" for one that this version does not know. */
export function handOverReason(text: string): HandOverReason | "switch" {
  return REASONS.find((reason) => reason === text) ?? "switch";
}

/** What follows from a judgement. */
export type Act = "hand-over" | "unprotect" | "log" | "reset" | "none";

/** Kinds of findings in the core's order, `Finding` in core/judgement.ts. */
export const FINDINGS = [
  "none",
  "oursEnded",
  "theirsEnded",
  "oursRefuses",
  "diverged",
  "divergedReset",
  "oursStopsWriting",
  "oursStopsReading",
  "theirsStopsWriting",
  "theirsStopsReading",
  "divergedFromLog",
] as const;

/** What follows when servers differ, by how that was found. */
const DIVERGED_ACTS = {
  diverged: "unprotect",
  divergedReset: "reset",
  divergedFromLog: "log",
} as const satisfies Partial<Record<typeof FINDINGS[number], Act>>;

/** Something the core has found about one connection. */
export interface CoreFinding {
  /** What. */
  kind: typeof FINDINGS[number];
  /** The client's port. */
  clientPort: number;
  /**
   * How far our server has come in its stream, or for reading in the client's, octets; where it was
   * found to differ.
   */
  ours: number;
  /** How far the other replica's has; up to where both are known to be the same. */
  theirs: number;
  /** How long it took to be sure, milliseconds. */
  waitedMs: number;
}

/** What a judgement rests on, for people. */
export type JudgeEvidence = {
  /** The node whose server it is about. */
  node: string;
  /** What follows. */
  act: Act;
  /** What was seen. */
  seen: string;
};

/** What the caller has to do, in order. */
export type JudgeEffect =
  /** Log it, and show it in status: the verdict and what it rests on. */
  | { kind: "judgement"; judgement: Verdict; evidence: JudgeEvidence }
  /** Move the service to the standby, whose server lives. */
  | { kind: "handOver"; reason: HandOverReason }
  /** Nobody takes it: tell clients what was kept from them. */
  | { kind: "releaseEnds" };

/** How things stand when the judge is asked. */
export interface Situation {
  /** This node is primary. */
  primary: boolean;
  /** Name of the other replica; null when there is none. */
  peer: string | null;
  /** Nothing is known against the other replica's server. */
  peerWorks: boolean;
  /** A standby with a living server could take the service now. */
  canHandOver: boolean;
  /** Milliseconds of the caller's clock. */
  nowMs: number;
}

/** Findings within this time of the last that says the same are one judgement, milliseconds. */
export const REPEAT_MS = 1000;
/** Pause after a hand-over that failed, milliseconds. */
export const RETRY_MS = 1000;

/** The judge of one service on one node. */
export class Judge {
  readonly #node: string;
  /** The last judgement: what it said and when it was found again. */
  #last = "";
  #lastMs = -Infinity;
  #handingOver: HandOverReason | null = null;
  #retryMs = -Infinity;

  /** Judges for `node`. */
  constructor(node: string) {
    this.#node = node;
  }

  /** What the core has found since the last call. */
  handleFindings(findings: readonly CoreFinding[], situation: Situation): JudgeEffect[] {
    return findings.flatMap((finding) => this.#handleFinding(finding, situation));
  }

  #handleFinding(finding: CoreFinding, situation: Situation): JudgeEffect[] {
    const { kind, clientPort, ours, theirs, waitedMs } = finding;
    const about = `connection from port ${clientPort}`;
    const peer = situation.peer ?? "peer";
    switch (kind) {
      case "oursEnded":
        // A server that hangs ends nothing: there is nobody to compare ours with.
        if (!situation.peerWorks && theirs <= ours) return [{ kind: "releaseEnds" }];
        return this.#failed("app-died", situation, {
          seen: `${about}: ended at octet ${ours}, while ${peer}'s server ` +
            (theirs > ours ? `is at octet ${theirs}` : `had not after ${waitedMs} ms`),
        });
      case "oursRefuses":
        return this.#failed("app-refuses", situation, {
          seen: `${about}: refused, while ${peer}'s server accepts it`,
        });
      case "theirsEnded":
        return this.#judge("app-died", {
          node: peer,
          act: "unprotect",
          seen: `${about}: ended at octet ${theirs}, while ${this.#node}'s server ` +
            (ours > theirs ? `is at octet ${ours}` : `had not after ${waitedMs} ms`),
        }, situation.nowMs);
      case "diverged":
      case "divergedReset":
      case "divergedFromLog":
        return this.#judge("diverged", {
          node: peer,
          act: DIVERGED_ACTS[kind],
          seen: `${about}: its server and ${this.#node}'s wrote the same up to octet ${theirs}, ` +
            `and not up to octet ${ours}`,
        }, situation.nowMs);
      case "oursStopsWriting":
      case "oursStopsReading":
        return this.#hangs(finding, situation);
      case "theirsStopsWriting":
      case "theirsStopsReading":
        return this.#judge("app-hangs", {
          node: peer,
          act: "unprotect",
          seen: standstill(finding, { stands: theirs, goesOn: ours, other: this.#node }),
        }, situation.nowMs);
      case "none":
        return [];
    }
  }

  /** Our server stands still; a standby's core has given the connection up already. */
  #hangs(finding: CoreFinding, situation: Situation): JudgeEffect[] {
    const { ours, theirs } = finding;
    const seen = standstill(finding, {
      stands: ours,
      goesOn: theirs,
      other: situation.peer ?? "peer",
    });
    if (situation.primary) return this.#failed("app-hangs", situation, { seen });
    const evidence: JudgeEvidence = { node: this.#node, act: "unprotect", seen };
    return this.#judge("app-hangs", evidence, situation.nowMs);
  }

  /** Our server hangs, as somebody has seen who knows it: to be called as long as it does. */
  handleHang(seen: string, situation: Situation): JudgeEffect[] {
    if (situation.primary) return this.#failed("app-hangs", situation, { seen });
    return this.#judge("app-hangs", { node: this.#node, act: "none", seen }, situation.nowMs);
  }

  /**
   * Our server has failed, where whole logs are kept and a standby whose server is fed could take the service: that
   * is sooner done than another one is started here.
   */
  handleFailure(verdict: HandOverReason, seen: string, situation: Situation): JudgeEffect[] {
    return this.#failed(verdict, situation, { seen });
  }

  /** The process of our spawned server has ended. */
  handleAppExit(how: string, situation: Situation): JudgeEffect[] {
    const seen = `the server's process ended with ${how}`;
    if (situation.primary) return this.#failed("app-exited", situation, { seen });
    return this.#judge("app-exited", { node: this.#node, act: "none", seen }, situation.nowMs);
  }

  /**
   * Our card is dead, to be called as long as it is: the standby takes the service when it can, as its
   * own card works then (card.ts).
   */
  handleCardDown(seen: string, situation: Situation): JudgeEffect[] {
    const { primary, canHandOver, nowMs } = situation;
    const begins = primary && canHandOver && nowMs >= this.#retryMs && this.#handingOver === null;
    const act = begins || this.#handingOver !== null ? "hand-over" : "none";
    const said = this.#judge("card-down", { node: this.#node, act, seen }, nowMs);
    if (!begins) return said;
    this.#handingOver = "card-down";
    return [...said, { kind: "handOver", reason: "card-down" }];
  }

  /** The hand-over came about: another node is primary. */
  handleHandedOver(): void {
    this.#handingOver = null;
  }

  /** The hand-over failed; we are still primary. */
  handleHandOverFailed(nowMs: number): JudgeEffect[] {
    const reason = this.#handingOver;
    if (reason === null) return [];
    this.#handingOver = null;
    this.#retryMs = nowMs + RETRY_MS;
    return reason === "card-down" ? [] : [{ kind: "releaseEnds" }];
  }

  /** Our own server failed. */
  #failed(
    verdict: HandOverReason,
    situation: Situation,
    { seen }: { seen: string },
  ): JudgeEffect[] {
    const { nowMs } = situation;
    const can = situation.canHandOver && nowMs >= this.#retryMs;
    const act = can || this.#handingOver !== null ? "hand-over" : "none";
    const said = this.#judge(verdict, { node: this.#node, act, seen }, nowMs);
    if (this.#handingOver !== null) return said;
    if (!can) return [...said, { kind: "releaseEnds" }];
    this.#handingOver = verdict;
    return [...said, { kind: "handOver", reason: verdict }];
  }

  /** Says a judgement, unless it only repeats the last. */
  #judge(judgement: Verdict, evidence: JudgeEvidence, nowMs: number): JudgeEffect[] {
    const { node, act } = evidence;
    const text = `${node} ${judgement} ${act}`;
    const repeats = text === this.#last && nowMs - this.#lastMs <= REPEAT_MS;
    this.#last = text;
    this.#lastMs = nowMs;
    return repeats ? [] : [{ kind: "judgement", judgement, evidence }];
  }
}

/** Evidence for a server that stands still at octet `stands`, while the other is at `goesOn`. */
function standstill(
  { kind, clientPort, waitedMs }: CoreFinding,
  { stands, goesOn, other }: { stands: number; goesOn: number; other: string },
): string {
  const reads = kind === "oursStopsReading" || kind === "theirsStopsReading";
  const ahead = (goesOn - stands) >>> 0;
  return `connection from port ${clientPort}: stopped ${reads ? "reading" : "writing"} at octet ` +
    `${stands} for ${waitedMs} ms, while ${other}'s server is ${ahead} octets ahead`;
}
