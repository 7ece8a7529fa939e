/**
 * storing.ts - takes messages from the ring and stores them: what the writer's thread does
 *
 * Theory of operation
 * `step()` takes all that is there, as one group, and then, if anything waits for it, makes the group
 * durable and says so. While fdatasync(2) runs, the data plane goes on and the next group gathers. What
 * nobody waits for (the progress of downloads) is written at once, so that it outlives the daemon,
 * and made durable within LAZY_MS.
 *
 *   ring ──> segments.ts: append, commit ──> stored ──> ring
 *
 * When the disk is full, either the same is tried again every RETRY_MS, and clients wait (`holds`), or, as
 * after any other error, the log is given up: it is removed, durably, as a later start must not go
 * on from what is too old; then all connections are told to be unprotected. When it cannot even be
 * removed, there is nothing left but to end (`failed`): what nobody has stored, nobody was told.
 *
 * A log may also be begun anew (`clear`): a standby that joins is told everything once more. It is made
 * durable first that what there is belongs to no term any more, then all is removed.
 *
 * Limits: GROUP_OCTETS for a group; LAZY_MS, RETRY_MS.
 */
import type { LogFiles } from "./files.ts";
import type { LogOwner } from "./record.ts";
import { Entry, type LogStart, type Ring, type RingEntry } from "./ring.ts";
import { SegmentWriter } from "./segments.ts";

/** How long what nobody waits for may stay undurable, milliseconds. */
export const LAZY_MS = 100;
/** Between two attempts to write on a full disk, milliseconds. */
export const RETRY_MS = 200;

/** What the writer works with. */
export interface StoringOptions {
  /** The directory. */
  files: LogFiles;
  /** Whose log it is. */
  owner: LogOwner;
  /** The ring. */
  ring: Ring;
  /** On a full disk clients wait, instead of becoming unprotected. */
  holds: boolean;
  /** 32 random bits. */
  random: () => number;
  /** Takes what people should know. */
  warn: (text: string, fields: Record<string, unknown>) => void;
}

/** The writer of one log. */
export class Storing {
  readonly #options: StoringOptions;
  readonly #writer: SegmentWriter;
  /** Numbers of messages are a core's. */
  #appended: number | null = null;
  #isUrgent = false;
  /** Since when something is written and not durable. */
  #lazySinceMs: number | null = null;
  /** After the log was given up: until the data plane says that it begins anew. */
  #isLost = false;
  #isFull = false;

  /** Goes on where the log ended. */
  constructor(options: StoringOptions, start: LogStart) {
    this.#options = options;
    const { oldest, nextSegment, nextSeq } = start;
    const segments = oldest < nextSegment ? [oldest] : [];
    this.#writer = new SegmentWriter(options.files, options.owner, {
      segments,
      nextSegment,
      nextSeq,
    });
  }

  /**
   * Takes what is there and stores it.
   *
   * @returns How long to wait for more, milliseconds.
   * @throws {Error} When nothing can be stored and what is on the disk cannot be removed.
   */
  step(nowMs: number): number {
    try {
      this.#gather(nowMs);
      if (this.#isUrgent || this.#isDue(nowMs)) this.#commit();
      else this.#writer.write();
      this.#noteFull(false);
    } catch (error) {
      if (!isFullDisk(error) || !this.#options.holds) {
        this.#giveUp(error as Error);
        return 0;
      }
      this.#noteFull(true);
      return RETRY_MS;
    }
    if (this.#options.ring.peek() !== null) return 0;
    return this.#lazySinceMs === null ? Infinity : Math.max(0, this.#lazySinceMs + LAZY_MS - nowMs);
  }

  /** Makes all durable that was taken, and closes the log. */
  close(): void {
    if (!this.#isLost) this.#commit();
    this.#writer.close();
  }

  #isDue(nowMs: number): boolean {
    return this.#lazySinceMs !== null && nowMs - this.#lazySinceMs >= LAZY_MS;
  }

  #gather(nowMs: number): void {
    const { ring } = this.#options;
    for (let entry = ring.peek(); entry !== null && this.#writer.hasRoom; entry = ring.peek()) {
      this.#handle(entry, nowMs);
      ring.take(entry);
    }
  }

  #handle(entry: RingEntry, nowMs: number): void {
    if (entry.kind === Entry.restart) this.#isLost = false;
    if (entry.kind === Entry.source) {
      if (!this.#isLost) this.#commit();
      this.#options.ring.tellSource(entry.seq);
    }
    if (this.#isLost) {
      if (entry.kind === Entry.clear) this.#options.ring.tellCleared();
      return;
    }
    switch (entry.kind) {
      case Entry.message:
      case Entry.term:
        while (this.#writer.segment < entry.segment) {
          this.#commit();
          this.#writer.begin(this.#options.random());
        }
        this.#writer.append(entry);
        if (entry.kind === Entry.message) this.#appended = entry.seq;
        this.#isUrgent ||= entry.urgent;
        this.#lazySinceMs ??= nowMs;
        break;
      case Entry.clear:
        this.#clear();
        break;
      case Entry.remove:
        // What makes them needless must outlive them.
        this.#commit();
        this.#writer.removeBelow(entry.segment);
        break;
    }
  }

  #clear(): void {
    try {
      // The term that was put last says that nobody is to go on from what half of this leaves.
      this.#commit();
    } catch (error) {
      // To remove is what a full disk needs.
      if (!isFullDisk(error)) throw error;
    }
    this.#writer.clear();
    this.#isUrgent = false;
    this.#lazySinceMs = null;
    this.#appended = null;
    this.#options.ring.tellCleared();
  }

  #commit(): void {
    this.#writer.commit();
    this.#isUrgent = false;
    this.#lazySinceMs = null;
    if (this.#appended !== null) this.#options.ring.tellStored(this.#appended);
    this.#appended = null;
  }

  #giveUp(why: Error): void {
    this.#writer.clear();
    this.#isLost = true;
    this.#isUrgent = false;
    this.#lazySinceMs = null;
    this.#appended = null;
    this.#options.warn("log given up", { why: why.message });
    this.#options.ring.tellLost();
  }

  #noteFull(isFull: boolean): void {
    if (isFull === this.#isFull) return;
    this.#isFull = isFull;
    this.#options.ring.tellFull(isFull);
    this.#options.warn(isFull ? "disk full, clients wait" : "disk takes the log again", {});
  }
}

function isFullDisk(error: unknown): boolean {
  return (error as { code?: string }).code === "ENOSPC";
}
