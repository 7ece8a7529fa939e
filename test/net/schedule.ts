/**
 * schedule.ts - random sequences of faults that must be survived, drawn from a seed
 *
 * Theory of operation
 * A batch is one topology and the schedules that share it, because making hosts takes longer than
 * breaking them. A schedule is 1 to 3 steps; a step is one fault at a random moment of a mixed client's
 * run, and its repair after a random time. All of it is drawn from the batch's seed before anything
 * runs, so that the same seed gives the same batch, and its first n schedules without the others.
 *
 *   batch      family, links, commit, plain or encrypted
 *     schedule   step, step, step
 *       step       prelude ... fault ... repair, under one mixed client
 *
 * Which combinations are drawn. Connections must outlive every one, so there are none that lose some by
 * design; those are:
 *
 *   - a second failure before the service is protected again, of connections that the first has left
 *     unprotected. Steps therefore wait for protection, and each has a client of its own whose connections
 *     are younger than the standby. What keeps protection may precede a fault at once: the preludes
 *     (a planned switch, a restart of the witness, one of two replication links down and up)
 *   - a server's death while the witness is away: the hand-over needs a grant, and a dead server's ends
 *     cannot be kept from clients for ever. So the witness is away only at faults of daemon, host or
 *     replication links, where everybody waits for it
 *   - both hosts at once
 *
 * Sources: DESIGN sections 1 (failure model) and 6 (table of judgements).
 */

import { Random } from "./random.ts";

/** Faults that a step can hold. */
export const FAULT_KINDS = [
  "server SIGKILL",
  "server SIGSEGV",
  "server SIGSTOP",
  "daemon SIGKILL",
  "daemon SIGSTOP",
  "power cut",
  "replication cut",
  "isolation",
  "client cut",
] as const;

/**
 * One of the kinds; "isolation" cuts a host from peer and witness, but not from clients; "client cut" from
 * clients alone.
 */
export type FaultKind = typeof FAULT_KINDS[number];

/** What may come before a fault, because it costs no protection. */
export type PreludeKind = "switch" | "witness restart" | "one link down";

/** Something that costs no protection. */
export interface Prelude {
  /** What. */
  kind: PreludeKind;
  /** Pause before it, milliseconds. */
  afterMs: number;
}

/** A fault and what belongs to it. */
export interface Step {
  /** What comes before, in order. */
  preludes: Prelude[];
  /** The fault. */
  kind: FaultKind;
  /** Role of the host that is struck, at that moment. */
  victim: "primary" | "standby";
  /** Pause before it, milliseconds. */
  afterMs: number;
  /** How long the cause lasts before it is repaired, milliseconds. */
  lastMs: number;
  /** The witness is stopped right before the fault and starts again so much later; null: it stays. */
  witnessAwayMs: number | null;
  /** Seed of the mixed client. */
  clientSeed: number;
}

/** Faults one after the other. */
export type Schedule = Step[];

/** What the hosts of a batch are like. */
export interface BatchSite {
  /** Address family. */
  family: 4 | 6;
  /** Replication links. */
  links: 1 | 2;
  /** `service.commit`. */
  commit: "strict" | "ack";
  /** Replicas talk in plain text. */
  insecure: boolean;
}

/** Schedules that share a topology. */
export interface Batch {
  /** Repeats the batch. */
  seed: number;
  /** The hosts. */
  site: BatchSite;
  /** The schedules, in order. */
  schedules: Schedule[];
}

/** Schedules that one topology serves. */
export const SCHEDULES_PER_BATCH = 6;
/** How likely a schedule has a second fault, and then a third. */
const NEXT_STEP = [0.5, 0.4];
/** A stop or cut shorter than detection: nobody need notice. */
const BRIEF_MS: readonly [number, number] = [20, 150];
/** One that must be noticed; longer than `detect` heartbeats of these tests. */
const LONG_MS: readonly [number, number] = [800, 1800];
/** `service.lag_time` of these tests: how long a server may stand still. */
export const LAG_MS = 1000;
/** A stop of a server that must be noticed. */
const HANG_MS: readonly [number, number] = [2500, 3500];

/**
 * Draws a batch.
 *
 * @param seed Any 32-bit number.
 * @param count How many schedules, up to SCHEDULES_PER_BATCH.
 */
export function drawBatch(seed: number, count: number = SCHEDULES_PER_BATCH): Batch {
  const random = new Random(seed);
  const site: BatchSite = {
    family: random.next() < 0.5 ? 4 : 6,
    links: random.next() < 0.5 ? 1 : 2,
    commit: random.next() < 0.7 ? "strict" : "ack",
    insecure: random.next() < 0.3,
  };
  const schedules = Array.from({ length: count }, () => {
    const schedule = [drawStep(random, site)];
    for (const likely of NEXT_STEP) {
      if (random.next() >= likely) break;
      schedule.push(drawStep(random, site));
    }
    return schedule;
  });
  return { seed, site, schedules };
}

function drawStep(random: Random, site: BatchSite): Step {
  const kind = pick(random, FAULT_KINDS);
  const preludes = random.next() < 0.3 ? [drawPrelude(random, site)] : [];
  const mayBeBrief = kind.endsWith("SIGSTOP") || kind === "replication cut" ||
    kind === "client cut";
  const brief = mayBeBrief && random.next() < 0.25;
  const [leastMs, mostMs] = brief ? BRIEF_MS : kind === "server SIGSTOP" ? HANG_MS : LONG_MS;
  const mayLackWitness = !kind.startsWith("server") && kind !== "isolation" &&
    kind !== "client cut" && !brief;
  return {
    preludes,
    kind,
    victim: random.next() < 0.65 ? "primary" : "standby",
    afterMs: Math.round(random.between(200, 1200)),
    lastMs: Math.round(random.between(leastMs, mostMs)),
    witnessAwayMs: mayLackWitness && random.next() < 0.2
      ? Math.round(random.between(300, 1500))
      : null,
    clientSeed: random.seed(),
  };
}

function drawPrelude(random: Random, { links }: BatchSite): Prelude {
  const kinds: PreludeKind[] = ["switch", "switch", "witness restart"];
  if (links === 2) kinds.push("one link down");
  return { kind: pick(random, kinds), afterMs: Math.round(random.between(200, 700)) };
}

function pick<T>(random: Random, list: readonly T[]): T {
  return list[random.integer(list.length)];
}

/** Whether a fault is too short to be noticed for certain. */
export function isBrief({ lastMs }: Step): boolean {
  return lastMs <= BRIEF_MS[1];
}

/**
 * Who is primary after a fault: the standby ("moves"), who was ("stays"), or whoever the witness
 * granted it ("either").
 */
export function outcomeOf(step: Step): "moves" | "stays" | "either" {
  if (isBrief(step) || step.kind === "replication cut") return "either";
  // While the witness is away everybody waits: a stopped primary that goes on meanwhile stays one.
  if (step.kind === "daemon SIGSTOP" && step.witnessAwayMs !== null) return "either";
  return step.victim === "primary" ? "moves" : "stays";
}

/** A step in words. */
export function describeStep(step: Step): string {
  const { preludes, kind, victim, afterMs, lastMs, witnessAwayMs } = step;
  const before = preludes.map((prelude) => `${prelude.kind} after ${prelude.afterMs} ms, `).join(
    "",
  );
  const witness = witnessAwayMs === null ? "" : `, the witness away for ${witnessAwayMs} ms`;
  return `${before}${kind} of the ${victim} after ${afterMs} ms for ${lastMs} ms${witness}`;
}
