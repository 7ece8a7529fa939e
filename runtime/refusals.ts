/**
 * refusals.ts - count what strangers send, and log it at a bounded rate
 *
 * Theory of operation
 * Everything that comes over a link and is not the peer's own, unaltered and new, is refused. Each refusal
 * counts; at most one line in LOG_INTERVAL_MS is logged, with the number of those left out before it,
 * so that nobody can fill a disk.
 */

/** Shortest time between two lines, milliseconds. */
const LOG_INTERVAL_MS = 1000;

/** What can be refused: a datagram, a connection before its greeting, a frame on an open channel, a
 * control connection. */
export type RefusalKind = "datagram" | "connection" | "frame" | "control";

/** Counts and logs refusals. */
export class Refusals {
  /** How many of each there were. */
  readonly counts: Record<RefusalKind, number> = {
    datagram: 0,
    connection: 0,
    frame: 0,
    control: 0,
  };
  readonly #log: (text: string, fields: Record<string, unknown>) => void;
  #loggedMs = -Infinity;
  #leftOut = 0;

  /** `log` takes a line. */
  constructor(log: (text: string, fields: Record<string, unknown>) => void) {
    this.#log = log;
  }

  /** Counts one, and logs it unless another was logged just before. */
  note(kind: RefusalKind, fields: { why: string } & Record<string, unknown>, nowMs: number): void {
    this.counts[kind]++;
    if (nowMs - this.#loggedMs < LOG_INTERVAL_MS) {
      this.#leftOut++;
      return;
    }
    this.#log(
      `${kind} refused`,
      this.#leftOut === 0 ? fields : { ...fields, leftOut: this.#leftOut },
    );
    this.#loggedMs = nowMs;
    this.#leftOut = 0;
  }
}
