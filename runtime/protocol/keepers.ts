/**
 * keepers.ts - who must have a message before what depends on it may leave
 *
 * Theory of operation
 * What a primary tells goes to several keepers: the standby, and its own disk. A message is committed when
 * every keeper that counts has confirmed it, be it in memory or on a disk of its own: any one of them
 * alone must be enough to go on from. A keeper counts from the message on that is next when it comes, and
 * no more once it is gone, so the slowest of those that are left decides. Without any there is nobody to
 * wait for, and nothing is committed: connections are unprotected then.
 *
 *   messages   | .. | 7 | 8 | 9 |
 *   standby    ---------->|         confirmed 8
 *   disk       ------>|             confirmed 7 = committed
 *
 * Numbers of messages are 32 bits wide and wrap around.
 */

/** A place where messages are kept. */
export type Keeper = "standby" | "disk";

/** The keepers of one service's messages. */
export class Keepers {
  readonly #confirmed = new Map<Keeper, number>();

  /** True when nobody keeps anything. */
  get isEmpty(): boolean {
    return this.#confirmed.size === 0;
  }

  /** Whether `keeper` counts. */
  has(keeper: Keeper): boolean {
    return this.#confirmed.has(keeper);
  }

  /** From now on `keeper` counts, for messages from number `next` on. */
  add(keeper: Keeper, next: number): void {
    this.#confirmed.set(keeper, (next - 1) >>> 0);
  }

  /** It is gone: nothing waits for it any more. */
  remove(keeper: Keeper): void {
    this.#confirmed.delete(keeper);
  }

  /** All are gone. */
  clear(): void {
    this.#confirmed.clear();
  }

  /**
   * `keeper` has all messages up to `seq`, and `next` is the first that was not told yet. Who does not
   * count, has said more before, or speaks of what it cannot know, changes nothing.
   */
  confirm(keeper: Keeper, seq: number, next: number): void {
    const before = this.#confirmed.get(keeper);
    if (before === undefined || !isAfter(seq, before) || !isAfter(next, seq)) return;
    this.#confirmed.set(keeper, seq >>> 0);
  }

  /** Up to which message all is kept by everybody who counts; null without keepers. */
  get committed(): number | null {
    let least: number | null = null;
    for (const seq of this.#confirmed.values()) {
      if (least === null || isAfter(least, seq)) least = seq;
    }
    return least;
  }
}

function isAfter(seq: number, other: number): boolean {
  return ((seq - other) | 0) > 0;
}
