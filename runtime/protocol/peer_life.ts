/**
 * peer_life.ts - which of the beats that arrive are news?
 *
 * Theory of operation
 * Links deliver in any order, and twice, so a beat counts only when its number follows on those of its
 * life. A beat of another life is the peer's next one, which has started again, unless it is a late
 * one of the life before. Who has just started itself may take such a late one for the newer life; when
 * that is silent for FORMER_MS, it was the late one.
 */

/** How long the newer of two lives may be silent before the other one is believed, milliseconds. */
export const FORMER_MS = 1000;

/**
 * "late" for a beat that says nothing new: a copy over another link, or one that was overtaken;
 * "reborn" for the first of another life than the one before it, "next" for all others.
 */
export type Novelty = "late" | "next" | "reborn";

/** What is known of the peer's life. */
export class PeerLife {
  #incarnation: number | null = null;
  #seq = 0;
  #heardMs = -Infinity;
  #former: number | null = null;

  /** A beat has arrived. */
  note({ incarnation, seq }: { incarnation: number; seq: number }, nowMs: number): Novelty {
    const isSame = incarnation === this.#incarnation;
    if (isSame && ((seq - this.#seq) | 0) <= 0) return "late";
    if (!isSame && incarnation === this.#former && nowMs - this.#heardMs < FORMER_MS) return "late";
    const isReborn = !isSame && this.#incarnation !== null;
    if (!isSame) this.#former = this.#incarnation;
    this.#incarnation = incarnation;
    this.#seq = seq;
    this.#heardMs = nowMs;
    return isReborn ? "reborn" : "next";
  }
}
