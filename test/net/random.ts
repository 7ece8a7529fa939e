/**
 * random.ts - a small random sequence that a seed repeats
 *
 * Mulberry32: 32 bits of state, one addition and two multiplications a number, full period. Good
 * enough to spread faults and moments; not for keys.
 */

/** A repeatable random sequence. */
export class Random {
  #state: number;

  /**
   * Starts a sequence.
   *
   * @param seed Any 32-bit number; equal seeds give equal sequences.
   */
  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** The next number, from 0 up to but not including 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let word = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word;
    return ((word ^ (word >>> 14)) >>> 0) / 4294967296;
  }

  /** The next number between two bounds. */
  between(low: number, high: number): number {
    return low + this.next() * (high - low);
  }

  /** The next whole number from 0 up to but not including `limit`. */
  integer(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  /** A 32-bit number to seed another sequence with. */
  seed(): number {
    return this.integer(4294967296);
  }
}
