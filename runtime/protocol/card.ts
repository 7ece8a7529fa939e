/**
 * card.ts - does this host still hear the clients' network?
 *
 * Theory of operation
 * One for each service on each node, about the interface where clients arrive. A dead card or a pulled
 * cable shows as a carrier that is gone. One that has gone deaf with its carrier on shows as a counter of
 * received packets that stands still although somebody is asked who always answers: the gateway, or
 * without one a client on the link. It has no clock and reads nothing: looks go in, judgements come out.
 *
 *             carrier gone for GONE_MS                      carrier for BACK_MS
 *   works ─────────────────────────────> no-carrier ───────────────────────────> works
 *     │    nothing for QUIET_MS, ASKS questions unanswered         anything heard
 *     └───────────────────────────────────────────────────> deaf ───────────────> works
 *          ASKS_MORE on a primary
 *
 * Each side judges its own card only. A standby whose card is dead is not ready, so that a primary with a
 * dead card hands over to one that hears; when both are deaf, or there is nobody to ask, nothing moves
 * (DESIGN 6).
 */

/** How long the carrier must be gone: a cable that is touched is no failure, milliseconds. */
export const GONE_MS = 40;
/** How long it must be back, milliseconds: a link that flaps does not take the service with it. */
export const BACK_MS = 1000;
/** How long nothing is heard before somebody is asked, milliseconds. */
export const QUIET_MS = 500;
/** Between two questions, milliseconds. */
export const ASK_EVERY_MS = 250;
/** Questions that nobody answers. */
export const ASKS = 4;
/** As many more on a primary: by then a standby that is as deaf knows, and is not ready. */
export const ASKS_MORE = 2;

/** What is known of a card. */
export type CardState = "works" | "no-carrier" | "deaf";

/** What a look at the interface shows. */
export interface CardSight {
  /** Milliseconds of the caller's clock. */
  nowMs: number;
  /** The interface is up and has a carrier. */
  carrier: boolean;
  /** Packets it has received, modulo anything; null when that cannot be read. */
  received: number | null;
  /** There is somebody who could be asked. */
  canAsk: () => boolean;
  /** This node is primary. */
  primary: boolean;
}

/** The card of one service on one node. */
export class Card {
  #state: CardState = "works";
  #goneSinceMs: number | null = null;
  #backSinceMs: number | null = null;
  #received: number | null = null;
  #movedMs = -Infinity;
  #asks = 0;
  /** How long nothing had come when it was called deaf. */
  #quietMs = 0;
  #askedMs = -Infinity;

  /** What is known. */
  get state(): CardState {
    return this.#state;
  }

  /** What that rests on, for people; null while it works. */
  get seen(): string | null {
    if (this.#state === "works") return null;
    if (this.#state === "no-carrier") return `no carrier for ${GONE_MS} ms`;
    return `nothing received for ${
      Math.round(this.#quietMs)
    } ms, ${this.#asks} questions unanswered`;
  }

  /** Notes what was seen; true when somebody is to be asked now. */
  handleLook({ nowMs, carrier, received, canAsk, primary }: CardSight): boolean {
    if (!carrier) {
      this.#goneSinceMs ??= nowMs;
      this.#backSinceMs = null;
      if (nowMs - this.#goneSinceMs >= GONE_MS) this.#state = "no-carrier";
      return false;
    }
    this.#goneSinceMs = null;
    if (this.#state === "no-carrier") {
      this.#backSinceMs ??= nowMs;
      if (nowMs - this.#backSinceMs < BACK_MS) return false;
      this.#state = "works";
      this.#received = null;
    }
    if (received === null) return false;
    if (received !== this.#received) {
      this.#received = received;
      this.#movedMs = nowMs;
      this.#asks = 0;
      this.#state = "works";
      return false;
    }
    if (nowMs - this.#movedMs < QUIET_MS || nowMs - this.#askedMs < ASK_EVERY_MS) return false;
    if (this.#asks >= ASKS + (primary ? ASKS_MORE : 0) && this.#state !== "deaf") {
      this.#state = "deaf";
      this.#quietMs = nowMs - this.#movedMs;
    }
    if (!canAsk()) return false;
    if (this.#state !== "deaf") this.#asks++;
    this.#askedMs = nowMs;
    return true;
  }
}
