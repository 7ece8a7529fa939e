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
 * slice of the scheduler, and one who sleeps sooner. So a yield or a wake-up that comes LATE_MS too
 * late ends all spinning for CROWDED_MS, and for twice as long each time it is soon so again.
 *
 * Source: Linux Documentation/virt/kvm/halt-polling.rst for the rule of growing and shrinking.
 */

/**
 * A yield or a wake-up that is so late met those who compute, milliseconds. A server that uses up a
 * slice of the scheduler (3 ms) now and then does not yet crowd a machine.
 */
const LATE_MS = 5;
/** How long a machine counts as crowded after that, milliseconds; at most, when it is so again and again. */
const CROWDED_MS = 2000;
const CROWDED_MAX_MS = 64_000;
/** The first budget when growing from none, microseconds. */
const GROW_FROM_US = 10;

/** The budget of one loop. Times are milliseconds of one monotonic clock. */
export class Spin {
  readonly #mostUs: number;
  #budgetUs: number;
  #busyMs = -Infinity;
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

  /** True when the loop should look again at `nowMs` and not sleep. */
  isDue(nowMs: number): boolean {
    return (nowMs - this.#busyMs) * 1000 < this.#budgetUs && !this.isCrowded(nowMs);
  }
}
