/**
 * retained.ts - frames that the peer has not confirmed, kept to be sent again on another connection
 *
 * Theory of operation
 * Octets lie one after the other; the peer confirms messages by number, which frees all up to there. A
 * frame without a number rides with the message before it. Numbers are compared for equality only,
 * so that they may wrap.
 *
 *   | confirmed | head .. tail: frames in the order they were sent | free |
 *
 * Limits: the size it was made with; {@linkcode Retained.add} says when it is full.
 */
import { Memory } from "./io/libc.ts";

interface Entry {
  /** Null for a frame without a number. */
  seq: number | null;
  /** Where its octets end, counted from the first frame ever. */
  end: number;
}

/** Frames in plain text, oldest first. */
export class Retained {
  readonly #memory: Memory;
  #entries: Entry[] = [];
  /** Entries before it are confirmed. */
  #first = 0;
  /** Octets of all frames ever added, and of all confirmed ones. */
  #end = 0;
  #start = 0;
  /** What lies at the beginning of the memory, counted like `#end`. */
  #origin = 0;
  /** Number of the newest message that was confirmed; 0 before the first. */
  #confirmed = 0;

  /** Keeps at most `size` octets. */
  constructor(size: number) {
    this.#memory = new Memory(size);
  }

  /** Octets that are kept. */
  get octets(): number {
    return this.#end - this.#start;
  }

  /** Keeps a copy of a frame; false when there is no room for it. */
  add(seq: number | null, frame: Uint8Array): boolean {
    const { bytes } = this.#memory;
    if (this.octets + frame.length > bytes.length) return false;
    if (this.#end - this.#origin + frame.length > bytes.length) {
      bytes.copyWithin(0, this.#start - this.#origin, this.#end - this.#origin);
      this.#origin = this.#start;
    }
    bytes.set(frame, this.#end - this.#origin);
    this.#end += frame.length;
    this.#entries.push({ seq, end: this.#end });
    return true;
  }

  /** The peer has everything up to message `seq`; false when that is none that it could have. */
  confirm(seq: number): boolean {
    if (seq === this.#confirmed) return true;
    for (let i = this.#first; i < this.#entries.length; i++) {
      if (this.#entries[i].seq !== seq) continue;
      this.#start = this.#entries[i].end;
      this.#confirmed = seq;
      this.#first = i + 1;
      this.#tidy();
      return true;
    }
    return false;
  }

  #tidy(): void {
    if (this.#first === this.#entries.length) {
      this.#entries = [];
      this.#first = 0;
      this.#origin = this.#start;
    } else if (this.#first > 1024 && this.#first > this.#entries.length / 2) {
      this.#entries = this.#entries.slice(this.#first);
      this.#first = 0;
    }
  }

  /** What is kept, oldest first; valid until the next change. */
  *frames(): Generator<Uint8Array> {
    let at = this.#start;
    for (let i = this.#first; i < this.#entries.length; i++) {
      const { end } = this.#entries[i];
      yield this.#memory.bytes.subarray(at - this.#origin, end - this.#origin);
      at = end;
    }
  }
}
