/**
 * loop_watch.ts - does the data plane's loop go on?
 *
 * Theory of operation
 * The loop counts its passes, and makes one at least every heartbeat. The main thread looks at the
 * count now and then: one that stands for `allowedMs` is a loop that hangs. Its beats are missing too,
 * so the peer has taken over by then; this tells the operator whose fault it was, and the service
 * manager when to kill us.
 *
 * Only time in which the main thread looks in time counts: one that was not run knows nothing.
 *
 * Limits: one word a second (SAY_EVERY_MS).
 */

/** Between two words about a loop that stands, milliseconds. */
const SAY_EVERY_MS = 1000;

/** What a look found. */
export type LoopWatchEffect =
  /** It has stood still for so long, and still does. */
  | { kind: "stands"; forMs: number }
  /** It goes on, after so long. */
  | { kind: "goesOn"; stoodMs: number };

/** Watches one loop. */
export class LoopWatch {
  /** How often to look, milliseconds. */
  readonly everyMs: number;
  readonly #allowedMs: number;
  #passes: number | null = null;
  #lookedMs = 0;
  #stoodMs = 0;
  #saidMs = -Infinity;
  #isTold = false;

  /** A loop may stand still for `allowedMs`. */
  constructor(allowedMs: number) {
    this.#allowedMs = allowedMs;
    this.everyMs = Math.min(250, Math.max(10, allowedMs / 2));
  }

  /** A look at `nowMs`, when the loop has made so many passes. */
  handleLook(passes: number, nowMs: number): LoopWatchEffect | null {
    const passedMs = nowMs - this.#lookedMs;
    this.#lookedMs = nowMs;
    if (passes !== this.#passes) {
      const stoodMs = this.#stoodMs;
      this.#passes = passes;
      this.#stoodMs = 0;
      if (!this.#isTold) return null;
      this.#isTold = false;
      return { kind: "goesOn", stoodMs };
    }
    this.#stoodMs += Math.min(passedMs, 2 * this.everyMs);
    if (this.#isTold || this.#stoodMs < this.#allowedMs) return null;
    if (nowMs - this.#saidMs < SAY_EVERY_MS) return null;
    this.#isTold = true;
    this.#saidMs = nowMs;
    return { kind: "stands", forMs: this.#stoodMs };
  }
}
