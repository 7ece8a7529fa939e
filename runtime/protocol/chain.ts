/**
 * chain.ts - who holds the connections further down the chain, and what of it is confirmed there
 *
 * Theory of operation
 * Each replica of a chain passes on what it was told under the number it had (replica.ts, "Several peers"). So one
 * row of numbers says who has what: the last message that each one further down has applied. A standby
 * hands names and numbers upwards, its own number before them. To a primary they belong to those who
 * follow its standby:
 *
 *   telling    has begun to follow: it is told of all connections once more; what it has confirmed
 *              says nothing of older ones
 *   catching   all was told, up to message `mark`, which it is yet to confirm
 *   counting   offered to the replica's machine as an heir: from now on nothing leaves that it has not confirmed
 *              (if it is among the first `copies`); whole, as soon as it has what had left before
 *
 * One that the machine has dropped (no answer in time) is offered again after AGAIN_MS, with a new mark.
 *
 * Limits: PEERS_MAX names. Numbers go around; differences mean less than 2^31.
 */
import { MessageError } from "./message.ts";
import { PEERS_MAX } from "./register.ts";
import type { Follower, Replica } from "./replica.ts";

/** One that was dropped as an heir is not offered again sooner, milliseconds. */
export const AGAIN_MS = 1000;

/** A member of the chain, as it is told of. */
export type Name = Pick<Follower, "node" | "session">;

interface Member extends Follower {
  /** It is to confirm this message before it counts; null while it is told of all. */
  mark: number | null;
  /** It has been offered, and what had left by then. */
  offer: { before: number; atMs: number } | null;
}

/** Those further down than the standby of a primary, or than a standby itself. */
export class Chain {
  #members: Member[] = [];
  /** Primary since the chain's head died: its standby, until that has what was on its way then. */
  #standby: Member | null = null;

  /** Their names, the nearest first. */
  get names(): Name[] {
    return this.#members.map(({ node, session }) => ({ node, session }));
  }

  /** Primary: those who have been told all, by name. */
  get told(): string[] {
    return this.#members.filter(({ offer }) => offer !== null).map(({ node }) => node);
  }

  /** What each has applied, in the same order. */
  get numbers(): number[] {
    return this.#members.map(({ seq }) => seq);
  }

  /** For the replica's machine. */
  get followers(): readonly Follower[] {
    return this.#members;
  }

  /** One of them is to be told of all connections. */
  get isTelling(): boolean {
    return this.#members.some(({ mark }) => mark === null);
  }

  /** Nobody is there any more. */
  clear(): void {
    this.#members = [];
    this.#standby = null;
  }

  /**
   * They are these now; a new one has applied nothing that counts after message `seq`.
   *
   * @throws {MessageError} When they are too many.
   */
  setNames(names: readonly Name[], seq: number): void {
    if (names.length > PEERS_MAX) throw new MessageError(`a chain of ${names.length} replicas`);
    this.#members = names.map(({ node, session }) =>
      this.#members.find((member) => member.node === node && member.session === session) ??
        { node, session, seq, isWhole: true, mark: null, offer: null }
    );
  }

  /** Primary: that one has lost what it was told, and is told of all connections once more before it counts again. */
  forget(node: string): void {
    for (const member of this.#members) {
      if (member.node !== node) continue;
      member.mark = null;
      member.offer = null;
      member.isWhole = false;
    }
  }

  /** What each has applied; numbers beyond the names are of nobody. */
  setNumbers(numbers: readonly number[]): void {
    for (const [i, member] of this.#members.entries()) {
      const seq = numbers[i];
      if (seq !== undefined && isBefore(member.seq, seq)) member.seq = seq;
    }
  }

  /**
   * Standby that became primary: the first is its standby now, of whom what was sent to it up to message `sent` is
   * still to be confirmed; of the others those in `counted` count.
   */
  shift(counted: readonly Follower[], sent: number): void {
    this.#standby = this.#members.shift() ?? null;
    if (this.#standby !== null) this.#standby.mark = sent;
    for (const member of this.#members) {
      const counts = counted.some(({ node, session }) =>
        node === member.node && session === member.session
      );
      member.mark = counts ? member.seq : null;
      member.isWhole = counts;
      member.offer = counts ? { before: member.seq, atMs: -Infinity } : null;
    }
  }

  /** Primary: its standby has applied message `seq`. */
  noteStandby(seq: number): void {
    const standby = this.#standby;
    if (standby === null || isBefore(seq, standby.mark!)) return;
    standby.isWhole = true;
    this.#standby = null;
  }

  /** Primary: all connections have been told of in the messages up to `seq`. */
  noteTold(seq: number): void {
    for (const member of this.#members) member.mark ??= seq;
  }

  /**
   * Primary: offers those who have all to the machine; `sent` and `released` are the last message that was sent,
   * and the last one that something may depend on which has left.
   */
  step(
    replica: Replica,
    { sent, released, nowMs }: Record<"sent" | "released" | "nowMs", number>,
  ): void {
    const taken = replica.further;
    let offered = 0;
    let isChanged = false;
    for (const [i, member] of this.#members.entries()) {
      const { offer } = member;
      const isTaken = taken[i] === member;
      if (offer !== null && !isTaken && nowMs - offer.atMs > AGAIN_MS) {
        member.offer = null;
        member.mark = sent;
      }
      if (member.offer === null && i === offered && this.#isReady(member, replica, nowMs)) {
        member.offer = { before: released, atMs: nowMs };
        member.isWhole = false;
        isChanged = true;
      }
      if (member.offer === null || (member.offer === offer && !isTaken)) break;
      if (!isBefore(member.seq, member.offer.before)) member.isWhole = true;
      offered++;
    }
    if (isChanged || taken.length > offered) {
      replica.handleFollowers(this.#members.slice(0, offered));
    }
  }

  #isReady(member: Member, replica: Replica, nowMs: number): boolean {
    return member.mark !== null && !isBefore(member.seq, member.mark) &&
      replica.hears(member.node, nowMs);
  }
}

/** The last message that all of `keepers` have applied; `first` is the number of the standby, `standby`. */
export function confirmedBy(
  keepers: readonly Follower[],
  { first, standby }: { first: number; standby: string | null },
): number {
  let seq = first;
  for (const { node, seq: its } of keepers) {
    if (node !== standby && isBefore(its, seq)) seq = its;
  }
  return seq;
}

function isBefore(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}
