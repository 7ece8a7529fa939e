/**
 * lane.ts - one direction of a bad network: loses, doubles, reorders and delays frames by seed
 *
 * Theory of operation
 * A lane owns SLOT_COUNT buffers. The caller fills a free one with a frame and calls `accept()`;
 * the lane decides the frame's fate and, later, `takeDue()` names buffers whose time has come, in
 * order of departure. Nothing is allocated per frame.
 *
 *   fate of a TCP frame   lost          never seen again
 *                         doubled       departs twice in a row
 *                         reordered     held until 1 to REORDER_DISTANCE_MAX later TCP frames have
 *                                       been queued, or REORDER_HOLD_MS went by
 *                         delayed       delayMs plus 0 to jitterMs, never overtaking by itself
 *   any other frame       delayed only: losing ARP or neighbor discovery would test them, not TCP
 *
 * Every TCP frame draws the same count of random numbers whatever the rates are, so the n-th TCP
 * frame of a seed always meets the same fate; jitter has a sequence of its own. One frame is held for reordering at a time.
 *
 * Limits: SLOT_COUNT frames wait at once; more are dropped at the tail and counted as overruns.
 */

import { Random } from "./random.ts";

/** Longest frame: an MTU of 9000 with Ethernet and a VLAN tag, rounded up. */
export const SLOT_LENGTH = 9216;
/** Frames that wait at once: 50 ms at 1 Gbit/s in 1500-octet frames. */
export const SLOT_COUNT = 4096;
/** How many later frames may pass a reordered one: enough for three duplicate ACKs. */
const REORDER_DISTANCE_MAX = 4;
/** How long a reordered frame waits when nothing follows it. */
const REORDER_HOLD_MS = 10;
const NONE = -1;

/** How bad a lane is. Ratios are probabilities from 0 to 1. */
export interface LaneOptions {
  /** Start of the random sequence; any 32-bit number. */
  seed: number;
  /** Probability that a TCP frame is lost. */
  lossRatio: number;
  /** Probability that a TCP frame is delivered twice. */
  duplicateRatio: number;
  /** Probability that a TCP frame is overtaken by later ones. */
  reorderRatio: number;
  /** Delay of every frame, milliseconds. */
  delayMs: number;
  /** Further random delay up to this, milliseconds. */
  jitterMs: number;
}

/** What a lane did. */
export interface LaneStatistics {
  /** Frames accepted. */
  frames: number;
  /** Octets of them. */
  octets: number;
  /** TCP frames among them. */
  tcpFrames: number;
  /** TCP frames lost on purpose. */
  lost: number;
  /** TCP frames delivered twice. */
  duplicated: number;
  /** TCP frames overtaken. */
  reordered: number;
  /** Frames lost because the lane was full. */
  overruns: number;
}

/** One direction of the hop. */
export class Lane {
  /** What the lane did so far. */
  readonly statistics: LaneStatistics = {
    frames: 0,
    octets: 0,
    tcpFrames: 0,
    lost: 0,
    duplicated: 0,
    reordered: 0,
    overruns: 0,
  };
  /** All slots in one piece: slot `i` begins at `i * SLOT_LENGTH`. */
  readonly octets: Uint8Array<ArrayBuffer> = new Uint8Array(
    new ArrayBuffer(SLOT_COUNT * SLOT_LENGTH),
  );
  readonly #options: LaneOptions;
  readonly #lengths = new Uint32Array(SLOT_COUNT);
  readonly #copies = new Uint8Array(SLOT_COUNT);
  readonly #departsMs = new Float64Array(SLOT_COUNT);
  /** Free slots as a stack. */
  readonly #free = Int32Array.from({ length: SLOT_COUNT }, (_, index) => SLOT_COUNT - 1 - index);
  #freeCount = SLOT_COUNT;
  /** Waiting slots in order of departure, as a ring. */
  readonly #queue = new Int32Array(SLOT_COUNT);
  #queueStart = 0;
  #queueCount = 0;
  #held = NONE;
  #heldPasses = 0;
  #heldUntilMs = 0;
  #lastDepartureMs = 0;
  readonly #fate: Random;
  readonly #jitter: Random;

  /**
   * An empty lane.
   *
   * @param options Seed and rates.
   * @throws {RangeError} If a ratio is not between 0 and 1 or a delay is negative.
   */
  constructor(options: LaneOptions) {
    for (const name of ["lossRatio", "duplicateRatio", "reorderRatio"] as const) {
      if (!(options[name] >= 0 && options[name] <= 1)) {
        throw new RangeError(`Cannot make a lane: ${name} is ${options[name]}, allowed is 0 to 1`);
      }
    }
    for (const name of ["delayMs", "jitterMs"] as const) {
      if (!(options[name] >= 0)) {
        throw new RangeError(
          `Cannot make a lane: ${name} is ${options[name]}, allowed is 0 and up`,
        );
      }
    }
    this.#options = options;
    this.#fate = new Random(options.seed);
    this.#jitter = new Random(~options.seed);
  }

  /** A slot to fill, to be handed to {@linkcode Lane.accept} next; -1 when the lane is full. */
  freeSlot(): number {
    return this.#freeCount === 0 ? NONE : this.#free[this.#freeCount - 1];
  }

  /** Counts a frame that came while there was no free slot. */
  overrun(): void {
    this.statistics.overruns++;
  }

  /**
   * Takes in the frame that the caller put into {@linkcode Lane.freeSlot}.
   *
   * @param length Octets of the frame.
   * @param nowMs The time, on any clock that never goes back.
   */
  accept(length: number, nowMs: number): void {
    const slot = this.#free[this.#freeCount - 1];
    const { statistics } = this;
    statistics.frames++;
    statistics.octets += length;
    this.#lengths[slot] = length;
    this.#copies[slot] = 1;
    if (!isTcpFrame(this.octets, slot * SLOT_LENGTH, length)) {
      this.#freeCount--;
      this.#enqueue(slot, nowMs);
      return;
    }
    statistics.tcpFrames++;
    const isLost = this.#fate.next() < this.#options.lossRatio;
    const isDoubled = this.#fate.next() < this.#options.duplicateRatio;
    const isReordered = this.#fate.next() < this.#options.reorderRatio;
    const distance = 1 + Math.floor(this.#fate.next() * REORDER_DISTANCE_MAX);
    if (isLost) {
      statistics.lost++;
      return;
    }
    this.#freeCount--;
    if (isDoubled) {
      statistics.duplicated++;
      this.#copies[slot] = 2;
    }
    if (isReordered && this.#held === NONE) {
      statistics.reordered++;
      this.#held = slot;
      this.#heldPasses = distance;
      this.#heldUntilMs = nowMs + REORDER_HOLD_MS;
      return;
    }
    this.#enqueue(slot, nowMs);
    if (this.#held !== NONE && --this.#heldPasses === 0) this.#releaseHeld(nowMs);
  }

  /**
   * Names the next frame whose time has come; call it until it says -1, once per copy to send.
   *
   * @param nowMs The time, on the clock of {@linkcode Lane.accept}.
   * @returns The slot to send, valid until the next call to `accept`; -1 when none is due.
   */
  takeDue(nowMs: number): number {
    if (this.#held !== NONE && this.#heldUntilMs <= nowMs) this.#releaseHeld(nowMs);
    if (this.#queueCount === 0) return NONE;
    const slot = this.#queue[this.#queueStart];
    if (this.#departsMs[slot] > nowMs) return NONE;
    if (--this.#copies[slot] > 0) return slot;
    this.#queueStart = (this.#queueStart + 1) % SLOT_COUNT;
    this.#queueCount--;
    this.#free[this.#freeCount++] = slot;
    return slot;
  }

  /** Octets of the frame in a slot that `takeDue` named. */
  lengthOf(slot: number): number {
    return this.#lengths[slot];
  }

  /** Milliseconds until `takeDue` may have something, Infinity when the lane is empty. */
  waitMs(nowMs: number): number {
    const held = this.#held === NONE ? Infinity : this.#heldUntilMs;
    const first = this.#queueCount === 0
      ? Infinity
      : this.#departsMs[this.#queue[this.#queueStart]];
    return Math.max(0, Math.min(held, first) - nowMs);
  }

  #releaseHeld(nowMs: number): void {
    const slot = this.#held;
    this.#held = NONE;
    this.#enqueue(slot, nowMs);
  }

  #enqueue(slot: number, nowMs: number): void {
    const { delayMs, jitterMs } = this.#options;
    const jitter = jitterMs === 0 ? 0 : this.#jitter.next() * jitterMs;
    this.#lastDepartureMs = Math.max(this.#lastDepartureMs, nowMs + delayMs + jitter);
    this.#departsMs[slot] = this.#lastDepartureMs;
    this.#queue[(this.#queueStart + this.#queueCount) % SLOT_COUNT] = slot;
    this.#queueCount++;
  }
}

/** Whether an Ethernet frame carries TCP directly behind its IPv4 or IPv6 header. */
function isTcpFrame(octets: Uint8Array, start: number, length: number): boolean {
  if (length < 34) return false;
  const type = (octets[start + 12] << 8) | octets[start + 13];
  if (type === 0x0800) return octets[start + 23] === 6;
  return type === 0x86dd && octets[start + 20] === 6;
}
