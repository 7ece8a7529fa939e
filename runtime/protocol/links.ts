/**
 * links.ts - which link carries, judged by the beats of both directions
 *
 * Theory of operation
 * Each beat goes out over every link with the same number. So a link that does not carry falls
 * behind the others: by the beats of the peer that it has not brought, or by ours that have not come
 * back over it, as when only one direction is cut. No clock is asked: a stall of our own delays all
 * links alike. When all are silent none is behind, and it is the peer that is judged (replica.ts).
 */

/** How far a link has come. */
export interface LinkProgress {
  /** The life of the peer that was heard over it; null before the first beat. */
  life: number | null;
  /** The newest beat of the peer that it has brought. */
  heardSeq: number;
  /** The newest beat of ours that has come back over it; null when none has. */
  echoedSeq: number | null;
}

/** Whether `link` misses more than `detect` beats that another one has brought, or brought back. */
export function isBehind(
  link: LinkProgress,
  all: readonly LinkProgress[],
  detect: number,
): boolean {
  return all.some((other) => {
    if (other === link || other.life === null) return false;
    if (link.life === null) return true;
    // Numbers of another life tell nothing.
    if (link.life !== other.life) return false;
    if (((other.heardSeq - link.heardSeq) | 0) > detect) return true;
    if (other.echoedSeq === null) return false;
    return link.echoedSeq === null || ((other.echoedSeq - link.echoedSeq) | 0) > detect;
  });
}

/**
 * The link for the `attempt`th connection: those that are not behind take turns.
 *
 * @returns Its index.
 */
export function linkFor(attempt: number, all: readonly LinkProgress[], detect: number): number {
  const indices = all.map((_, index) => index);
  const good = indices.filter((index) => !isBehind(all[index], all, detect));
  const choice = good.length > 0 ? good : indices;
  return choice[attempt % choice.length];
}
