/**
 * random.ts - a small random sequence that a seed repeats
 *
 * Mulberry32: 32 bits of state, one addition and two multiplications a number, full period. Good
 * enough to spread faults and moments; not for keys.
 */

/**
 * The seed of one test in this run: HOLDFAST_SEED, or `usual` when that is not set.
 *
 * @param usual What it is otherwise; null for another one in each run, as with HOLDFAST_SEED=random.
 * @throws {RangeError} If HOLDFAST_SEED is neither "random" nor a number of 32 bits.
 */
export function seedOfRun(usual: number | null = null): number {
  const text = Deno.env.get("HOLDFAST_SEED");
  const seed = text === undefined ? usual : text === "random" ? null : Number(text);
  if (seed === null) return crypto.getRandomValues(new Uint32Array(1))[0];
  if (Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32) return seed;
  throw new RangeError(
    `HOLDFAST_SEED is '${text}', allowed is random or a whole number from 0 to 2^32 - 1`,
  );
}

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
