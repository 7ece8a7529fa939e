/**
 * spin.ts - when to look again without sleeping
 *
 * Theory of operation
 * Waking up costs 30 to 40 us of a round trip, so it pays to look again for a while before sleeping -
 * if something comes in that while. Between two looks the loop yields its core (sched_yield(2)):
 * whom we wait for may need it. The budget follows what happened, as KVM's halt polling does:
 *
 *   slept, and something came within the longest budget   twice the budget: a spin would have caught it
 *   slept for longer                                      half of it, down to none: an idle host is idle
 *
 * On a crowded machine that is wrong: whoever yields to one that computes gets the core back after a
 * slice of the scheduler, and one who sleeps sooner. Time that yields and wake-ups come back too late is
 * lost time; more than LOST_SHARE of it over some milliseconds ends all spinning for CROWDED_MS, and for
 * twice as long each time it is soon so again. Until then the loop goes before others (loop.ts) and would
 * be woken for each packet, with two switches of the core: so after a pass that moved something it rests
 * for REST_US, and finds more at once. As network cards do (interrupt moderation); with 50 connections
 * that ask nginx on two cores, 15,900 requests a second with a hot standby and not 7,200.
 *
 * Source: Linux Documentation/virt/kvm/halt-polling.rst for the rule of growing and shrinking.
 */

/** A yield or a wake-up that is later has met others who compute, milliseconds. */
const LATE_MS = 0.1;
/** Time that may be lost so: share of all time, and milliseconds at once. */
const LOST_SHARE = 0.15;
const LOST_MAX_MS = 5;
/** How long a machine counts as crowded after that, milliseconds; at most, when it is so again and again. */
const CROWDED_MS = 250;
const CROWDED_MAX_MS = 64_000;
/** The pause after a pass on a crowded machine, microseconds. */
const REST_US = 100;
/** The first budget when growing from none, microseconds. */
const GROW_FROM_US = 10;

/** The budget of one loop. Times are milliseconds of one monotonic clock. */
export class Spin {
  readonly #mostUs: number;
  #budgetUs: number;
  #busyMs = -Infinity;
  /** Time lost lately, milliseconds, as of a time. */
  #lostMs = 0;
  #lostAtMs = 0;
  #crowdedMs = CROWDED_MS;
  #crowdedUntilMs = -Infinity;

  /** `mostUs`: longest spin after the last packet, microseconds; 0 for never. */
  constructor(mostUs: number) {
    this.#mostUs = mostUs;
    this.#budgetUs = mostUs;
  }

  /** How long to look again after the last packet, microseconds. */
  get budgetUs(): number {
    return this.#budgetUs;
  }

  /** A pass at `nowMs` moved something. */
  noteBusy(nowMs: number): void {
    this.#busyMs = nowMs;
  }

  /** The loop slept for `sleptMs` and woke for something. */
  noteSlept(sleptMs: number): void {
    if (sleptMs * 1000 <= this.#mostUs) {
      this.#budgetUs = Math.min(this.#mostUs, Math.max(GROW_FROM_US, this.#budgetUs * 2));
    } else {
      this.#budgetUs = this.#budgetUs > GROW_FROM_US ? this.#budgetUs / 2 : 0;
    }
  }

  /** A yield, or a sleep with an end, came back `lateMs` later than it should have, at `nowMs`. */
  noteLate(lateMs: number, nowMs: number): void {
    if (lateMs <= LATE_MS) return;
    const allowedMs = (nowMs - this.#lostAtMs) * LOST_SHARE;
    this.#lostMs = Math.max(0, this.#lostMs - allowedMs) + lateMs;
    this.#lostAtMs = nowMs;
    if (this.#lostMs <= LOST_MAX_MS) return;
    this.#lostMs = 0;
    if (!this.isCrowded(nowMs)) {
      const isAgain = nowMs - this.#crowdedUntilMs < this.#crowdedMs;
      this.#crowdedMs = isAgain ? Math.min(2 * this.#crowdedMs, CROWDED_MAX_MS) : CROWDED_MS;
    }
    this.#crowdedUntilMs = nowMs + this.#crowdedMs;
  }

  /** True while the machine counts as crowded. */
  isCrowded(nowMs: number): boolean {
    return nowMs < this.#crowdedUntilMs;
  }

  /** How long to pause at `nowMs` before looking again, microseconds; 0 for not at all. */
  restUs(nowMs: number): number {
    return this.isCrowded(nowMs) && (nowMs - this.#busyMs) * 1000 < REST_US ? REST_US : 0;
  }

  /** True when the loop should look again at `nowMs` and not sleep. */
  isDue(nowMs: number): boolean {
    return (nowMs - this.#busyMs) * 1000 < this.#budgetUs && !this.isCrowded(nowMs);
  }
}
