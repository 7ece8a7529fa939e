/**
 * hang_watch.ts - log mode: does the only server there is hang?
 *
 * Theory of operation
 * In hot mode a server is compared with the other replica's (core/segment/lag.ts). In log mode there is no
 * other. Standing still, a closed window, a full queue of connections that nobody accepts: a server
 * with one thread that waits for its database shows all of these, for as long as that takes, and must not
 * be restarted for it. A process that was stopped (SIGSTOP, and what else leaves it in state T) can do
 * nothing, whatever comes. So a server hangs when every process that has a socket of the service is
 * found stopped, look for look, for `lag_time`.
 *
 *   goes ──stopped at each look for lag_time──> hangs ──not stopped, or another one──> goes
 *
 * Only time in which looks come in time counts: who was not run himself (a suspended host) knows nothing.
 *
 * Not found: threads that wait for each other, endless loops, files that do not answer, the freezer of
 * control groups. health.ts asks somebody who knows.
 */

/** Longest time between two looks, milliseconds. */
const EVERY_MAX_MS = 250;
/** Shortest time between two looks, milliseconds. */
const EVERY_MIN_MS = 10;

/** What a look found. */
export type HangWatchEffect =
  /** It hangs, and was seen stopped for so long. */
  | { kind: "hangs"; forMs: number }
  /** The one that hung goes on, or is another one by now. */
  | { kind: "goesOn" };

/** Watches one service's server. */
export class HangWatch {
  /** How often to look, milliseconds. */
  readonly everyMs: number;
  readonly #lagTimeMs: number;
  #lookedMs: number | null = null;
  #stoodMs = 0;
  #hangs = false;

  /** `lagTimeMs`: for how long a server may stand still. */
  constructor(lagTimeMs: number) {
    this.#lagTimeMs = lagTimeMs;
    this.everyMs = Math.min(EVERY_MAX_MS, Math.max(EVERY_MIN_MS, lagTimeMs / 8));
  }

  /** It was found to hang, and has not gone on since. */
  get hangs(): boolean {
    return this.#hangs;
  }

  /** A look at `nowMs`: whether every process of the server is stopped. */
  handleLook(stopped: boolean, nowMs: number): HangWatchEffect | null {
    const passedMs = this.#lookedMs === null ? 0 : nowMs - this.#lookedMs;
    this.#lookedMs = stopped ? nowMs : null;
    if (!stopped) {
      const hung = this.#hangs;
      this.#stoodMs = 0;
      this.#hangs = false;
      return hung ? { kind: "goesOn" } : null;
    }
    this.#stoodMs += Math.min(passedMs, 2 * this.everyMs);
    if (this.#hangs || this.#stoodMs < this.#lagTimeMs) return null;
    this.#hangs = true;
    return { kind: "hangs", forMs: this.#stoodMs };
  }
}
