/**
 * recorder.ts - when octets arrived: throughput over time and the largest gap
 *
 * Theory of operation
 * Each arrival is noted with its time and length. Lengths are summed in bins of BIN_MS; the longest time
 * between two arrivals is kept exactly, with its place in time and in the stream. The time from the
 * request to the first octet counts as a gap, and so does the time from the last octet to the end.
 *
 * Limits: BINS_MAX bins, 1000 s; what comes later is counted in the last one.
 */

/** Width of a bin, milliseconds. */
export const BIN_MS = 2;
const BINS_MAX = 500_000;

/** What was recorded; times are milliseconds of the wall clock. */
export interface Recording {
  /** When the request was sent. */
  startMs: number;
  /** When the end was seen. */
  endMs: number;
  /** Octets in all. */
  octets: number;
  /** Octets in each BIN_MS from `startMs` on. */
  bins: number[];
  /** The longest time without an octet. */
  gap: {
    /** How long, milliseconds. */
    ms: number;
    /** When it began. */
    atMs: number;
    /** Octets that had arrived before it. */
    offset: number;
  };
}

/** Milliseconds of the wall clock, with fractions, never going back within a process. */
export function wallClockMs(): number {
  return performance.timeOrigin + performance.now();
}

/** Records one stream. */
export class Recorder {
  readonly #startMs = wallClockMs();
  readonly #bins: number[] = [];
  #lastMs = this.#startMs;
  #octets = 0;
  #gap = { ms: 0, atMs: this.#startMs, offset: 0 };

  /** Octets so far. */
  get octets(): number {
    return this.#octets;
  }

  /** When something arrived last. */
  get lastMs(): number {
    return this.#lastMs;
  }

  /** Notes an arrival; one of 0 octets is the end of the stream. */
  note(octets: number): void {
    const nowMs = wallClockMs();
    const gapMs = nowMs - this.#lastMs;
    if (gapMs > this.#gap.ms) this.#gap = { ms: gapMs, atMs: this.#lastMs, offset: this.#octets };
    const bin = Math.min(BINS_MAX - 1, Math.floor((nowMs - this.#startMs) / BIN_MS));
    while (this.#bins.length <= bin) this.#bins.push(0);
    this.#bins[bin] += octets;
    this.#octets += octets;
    this.#lastMs = nowMs;
  }

  /** What was recorded so far. */
  recording(): Recording {
    return {
      startMs: this.#startMs,
      endMs: this.#lastMs,
      octets: this.#octets,
      bins: this.#bins,
      gap: this.#gap,
    };
  }
}
