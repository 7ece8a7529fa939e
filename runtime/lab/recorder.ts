/**
 * recorder.ts - when octets arrived: throughput over time and the largest gap
 *
 * Theory of operation
 * Each arrival is noted with its time and length. Lengths are summed in bins of BIN_MS; the GAPS_MAX longest
 * times between two arrivals are kept exactly, with their place in time and in the stream. The time from
 * the request to the first octet counts as a gap, and so does the time from the last octet to the end.
 *
 * Limits: BINS_MAX bins, 1000 s; what comes later is counted in the last one.
 */

/** Width of a bin, milliseconds. */
export const BIN_MS = 2;
const BINS_MAX = 500_000;
/** Gaps that are kept. */
const GAPS_MAX = 256;

/** A time without an octet. */
export interface Gap {
  /** How long, milliseconds. */
  ms: number;
  /** When it began, milliseconds of the wall clock. */
  atMs: number;
  /** Octets that had arrived before it. */
  offset: number;
}

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
  /** The longest times without an octet, longest first; at least one. */
  gaps: Gap[];
}

/** Milliseconds of the wall clock, with fractions, never going back within a process. */
export function wallClockMs(): number {
  return performance.timeOrigin + performance.now();
}

/** Records one stream. */
export class Recorder {
  readonly #clock: () => number;
  readonly #startMs: number;
  readonly #bins: number[] = [];
  #lastMs: number;
  #octets = 0;
  /** Longest first. */
  readonly #gaps: Gap[];

  /** Starts now; `clock` gives milliseconds of the wall clock. */
  constructor(clock: () => number = wallClockMs) {
    this.#clock = clock;
    this.#startMs = clock();
    this.#lastMs = this.#startMs;
    this.#gaps = [{ ms: 0, atMs: this.#startMs, offset: 0 }];
  }

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
    const nowMs = this.#clock();
    this.#noteGap({ ms: nowMs - this.#lastMs, atMs: this.#lastMs, offset: this.#octets });
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
      gaps: this.#gaps,
    };
  }

  #noteGap(gap: Gap): void {
    if (this.#gaps.length >= GAPS_MAX && gap.ms <= this.#gaps[GAPS_MAX - 1].ms) return;
    const place = this.#gaps.findIndex(({ ms }) => ms < gap.ms);
    this.#gaps.splice(place < 0 ? this.#gaps.length : place, 0, gap);
    if (this.#gaps.length > GAPS_MAX) this.#gaps.pop();
  }
}
