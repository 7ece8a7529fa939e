/**
 * replay_window.ts - which numbered datagrams were taken before
 *
 * Theory of operation
 * Datagrams may be lost, doubled and reordered, so a number is fresh when it is greater than all before,
 * or among the last WINDOW numbers and not yet taken. `#taken` is a ring over those numbers.
 *
 *     ... too old | highest - WINDOW + 1 .. highest | greater: fresh, the window moves up
 *
 * A number counts as taken only after its datagram was found genuine, or anybody could move the window.
 *
 * Limits: WINDOW numbers; what is older is refused.
 * Sources: RFC 4303 section 3.4.3, RFC 6479.
 */

/** How far behind the highest number a datagram may arrive. */
export const WINDOW = 64;

/** The numbers of one key in one direction, counted from 1. */
export class ReplayWindow {
  #highest = 0;
  readonly #taken = new Uint8Array(WINDOW);

  /** Whether `number` may be taken. */
  isFresh(number: number): boolean {
    if (number > this.#highest) return true;
    return number > 0 && number > this.#highest - WINDOW && this.#taken[number % WINDOW] === 0;
  }

  /** Notes that the datagram `number`, which was fresh, is genuine. */
  take(number: number): void {
    if (number > this.#highest) {
      if (number - this.#highest >= WINDOW) this.#taken.fill(0);
      else for (let n = this.#highest + 1; n < number; n++) this.#taken[n % WINDOW] = 0;
      this.#highest = number;
    }
    this.#taken[number % WINDOW] = 1;
  }
}
