/**
 * octets.ts - the oracle of input log and reassembly: a stream in plain arrays
 *
 * Octets lie at offsets from 0 that never wrap, and the first copy of an octet wins (DESIGN 5.2).
 */
import type { Random } from "../net/random.ts";

/** A stream of which some octets are here. */
export class Octets {
  /** The first copy of each. */
  readonly octets: Uint8Array;
  readonly #have: Uint8Array;
  /** Everything before it is here. */
  next = 0;

  /** None is here. */
  constructor(size: number) {
    this.octets = new Uint8Array(size);
    this.#have = new Uint8Array(size);
  }

  /** Takes a copy of the octets at `at`; those before 0 are ignored. */
  put(at: number, octets: Uint8Array): void {
    for (const [i, octet] of octets.entries()) {
      if (at + i < 0 || this.#have[at + i]) continue;
      this.#have[at + i] = 1;
      this.octets[at + i] = octet;
    }
    while (this.#have[this.next]) this.next++;
  }

  /** True when all `length` octets at `at` are here. */
  has(at: number, length: number): boolean {
    return this.#have.subarray(Math.max(0, at), at + length).every((octet) => octet === 1);
  }
}

/** A first number of a stream, near the wrap or not. */
export function firstNumber(random: Random): number {
  return random.next() < 0.7 ? (-1 - random.integer(30000)) >>> 0 : random.seed();
}
