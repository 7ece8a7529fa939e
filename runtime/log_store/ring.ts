/**
 * ring.ts - what the data plane hands to the thread that writes its log, without ever waiting
 *
 * Theory of operation
 * One SharedArrayBuffer for each service: words that both threads read and write with Atomics, and a
 * ring of entries. One thread puts entries, the other takes them.
 *
 *   words | kind, length, seq, epoch, segment, urgent, wall clock | body | next entry ...
 *                 ^ taken (mod ring)                    ^ put (mod ring)
 *
 * An entry does not wrap around the end: one of kind `skip` fills what is left there. The writer sleeps on
 * the word `wake` (Atomics.wait, a futex); the data plane, which sleeps in poll(2), is woken by an
 * eventfd.
 *
 * Limits: RING_OCTETS; `put()` says when there is no room.
 */
import { libc, Memory } from "../io/libc.ts";

/** Octets of the ring: a power of two, and room for several of the longest messages. */
export const RING_OCTETS = 32 << 20;
const WORDS_OCTETS = 64;
const HEAD_OCTETS = 32;

/** Places of the words. */
const Word = {
  /** Octets put and taken since the start, mod 2^32. */
  put: 0,
  taken: 1,
  /** Number of the last message that is durable. */
  stored: 2,
  wake: 3,
  /** Of the log on disk when the writer was to begin: see {@linkcode Ring.start}. */
  state: 4,
  oldest: 5,
  nextSegment: 6,
  nextSeqLow: 7,
  nextSeqHigh: 8,
  /** How often the log was given up. */
  lost: 9,
  /** 1 while the disk is full, and the writer waits for room. */
  full: 10,
  /** How often the numbers of messages have become others', and how often the log was begun anew. */
  sources: 11,
  clears: 12,
} as const;

const State = { preparing: 0, running: 1, stopping: 2 } as const;

/** Kinds of entries. */
export const Entry = {
  skip: 0,
  /** A message to be stored. */
  message: 1,
  /** Segments below `segment` are needed no more. */
  remove: 2,
  /** The log was given up, and begins anew. */
  restart: 3,
  /** The next messages are numbered by somebody else; `seq` is the number before theirs. */
  source: 4,
  /** All that is on the disk is to be removed. */
  clear: 5,
  /** From here on the log is whole in the term `epoch`, or, with 0, in none; see record.ts. */
  term: 6,
} as const;

/** One entry. */
export interface RingEntry {
  /** What it is, of {@linkcode Entry}. */
  kind: number;
  /** Number of the message, which the primary's core has given it. */
  seq: number;
  /** Term that the log is whole in; 0 for none. */
  epoch: number;
  /** Segment that it belongs to. */
  segment: number;
  /** Something waits until it is stored. */
  urgent: boolean;
  /** Wall clock, milliseconds. */
  wallMs: number;
  /** What is to be stored; valid until the entry is taken. */
  body: Uint8Array;
}

/** Where the log on disk goes on. */
export interface LogStart {
  /** Oldest segment there is. */
  oldest: number;
  /** Number for the next segment. */
  nextSegment: number;
  /** Number for the next message. */
  nextSeq: number;
}

/** A new ring's memory; `octets` is a power of two, and at least twice the longest message. */
export function newRing(octets: number = RING_OCTETS): SharedArrayBuffer {
  return new SharedArrayBuffer(WORDS_OCTETS + octets);
}

/** Both ends of a ring, each thread using its own. */
export class Ring {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #bytes: Uint8Array<SharedArrayBuffer>;
  readonly #view: DataView<SharedArrayBuffer>;
  readonly #eventFd: number;
  readonly #octets: number;
  readonly #one = new Memory(8);

  /** `eventFd`: readable when something was stored. */
  constructor(buffer: SharedArrayBuffer, eventFd: number) {
    this.#words = new Int32Array(buffer, 0, WORDS_OCTETS / 4);
    this.#bytes = new Uint8Array(buffer, WORDS_OCTETS);
    this.#view = new DataView(buffer, WORDS_OCTETS);
    this.#eventFd = eventFd;
    this.#octets = this.#bytes.length;
    this.#one.view.setBigUint64(0, 1n, true);
  }

  /** True when more than half of it waits to be taken. */
  get isCongested(): boolean {
    return this.waiting > this.#octets / 2;
  }

  // The data plane's end --------------------------------------------------------------------------

  /** The log was read: the writer may begin. */
  start({ oldest, nextSegment, nextSeq }: LogStart): void {
    this.#set(Word.oldest, oldest);
    this.#set(Word.nextSegment, nextSegment);
    this.#set(Word.nextSeqLow, nextSeq % 2 ** 32);
    this.#set(Word.nextSeqHigh, Math.floor(nextSeq / 2 ** 32));
    Atomics.compareExchange(this.#words, Word.state, State.preparing, State.running);
    Atomics.notify(this.#words, Word.state);
  }

  /** Octets that wait to be taken. */
  get waiting(): number {
    return (this.#get(Word.put) - this.#get(Word.taken)) >>> 0;
  }

  /** Puts an entry; false when there is no room for it now. */
  put(entry: RingEntry): boolean {
    const { body } = entry;
    const octets = HEAD_OCTETS + ((body.length + 7) & ~7);
    let put = this.#get(Word.put);
    const left = this.#octets - put % this.#octets;
    const skipped = left < octets ? left : 0;
    if (this.waiting + skipped + octets > this.#octets) return false;
    if (skipped > 0) {
      this.#view.setUint32(put % this.#octets, Entry.skip, true);
      put += skipped;
    }
    const at = put % this.#octets;
    this.#view.setUint32(at, entry.kind, true);
    this.#view.setUint32(at + 4, body.length, true);
    this.#view.setUint32(at + 8, entry.seq, true);
    this.#view.setUint32(at + 12, entry.epoch, true);
    this.#view.setUint32(at + 16, entry.segment, true);
    this.#view.setUint32(at + 20, entry.urgent ? 1 : 0, true);
    this.#view.setFloat64(at + 24, entry.wallMs, true);
    this.#bytes.set(body, at + HEAD_OCTETS);
    this.#set(Word.put, put + octets);
    this.#wakeWriter();
    return true;
  }

  /** Number of the last message that is durable. Of whose numbers, `sources` says: to be read first. */
  get stored(): number {
    return this.#get(Word.stored);
  }

  /** How many entries of kind `source` the writer has come past. */
  get sources(): number {
    return this.#get(Word.sources);
  }

  /** How many of kind `clear`. */
  get clears(): number {
    return this.#get(Word.clears);
  }

  /** How often the log was given up. */
  get lost(): number {
    return this.#get(Word.lost);
  }

  /** True while the disk is full and the writer waits. */
  get isFull(): boolean {
    return this.#get(Word.full) !== 0;
  }

  /** Makes the eventfd unreadable. */
  clearEvent(): void {
    libc.read(this.#eventFd, this.#one.address, 8);
    this.#one.view.setBigUint64(0, 1n, true);
  }

  /** The writer is to store what is there, and end. Any thread may say so. */
  stop(): void {
    this.#set(Word.state, State.stopping);
    Atomics.notify(this.#words, Word.state);
    this.#wakeWriter();
  }

  // The writer's end ------------------------------------------------------------------------------

  /** Waits until the log was read; null when it is to end at once. */
  awaitStart(): LogStart | null {
    while (this.#get(Word.state) === State.preparing) {
      Atomics.wait(this.#words, Word.state, State.preparing, 1000);
    }
    if (this.isStopping) return null;
    return {
      oldest: this.#get(Word.oldest),
      nextSegment: this.#get(Word.nextSegment),
      nextSeq: this.#get(Word.nextSeqLow) + this.#get(Word.nextSeqHigh) * 2 ** 32,
    };
  }

  /** True when the writer is to end. */
  get isStopping(): boolean {
    return this.#get(Word.state) === State.stopping;
  }

  /** What `sleep()` compares with: to be read before the last look for entries. */
  get wakes(): number {
    return Atomics.load(this.#words, Word.wake);
  }

  /** Sleeps until something was put since `wakes` was read, at most so long. */
  sleep(wakes: number, timeoutMs: number): void {
    Atomics.wait(this.#words, Word.wake, wakes, timeoutMs);
  }

  /** The oldest entry; null when there is none. It stays there until `take()`. */
  peek(): RingEntry | null {
    for (;;) {
      const taken = this.#get(Word.taken);
      if (taken === this.#get(Word.put)) return null;
      const at = taken % this.#octets;
      const kind = this.#view.getUint32(at, true);
      if (kind === Entry.skip) {
        this.#set(Word.taken, taken + this.#octets - at);
        continue;
      }
      const length = this.#view.getUint32(at + 4, true);
      return {
        kind,
        seq: this.#view.getUint32(at + 8, true),
        epoch: this.#view.getUint32(at + 12, true),
        segment: this.#view.getUint32(at + 16, true),
        urgent: this.#view.getUint32(at + 20, true) !== 0,
        wallMs: this.#view.getFloat64(at + 24, true),
        body: this.#bytes.subarray(at + HEAD_OCTETS, at + HEAD_OCTETS + length),
      };
    }
  }

  /** Frees the place of the entry that `peek()` has returned. */
  take({ body }: RingEntry): void {
    this.#set(Word.taken, this.#get(Word.taken) + HEAD_OCTETS + ((body.length + 7) & ~7));
  }

  /** All messages up to `seq` are durable. */
  tellStored(seq: number): void {
    this.#set(Word.stored, seq);
    this.wakeLoop();
  }

  /** Numbers of messages are others' from now on, and go on after `seq`. */
  tellSource(seq: number): void {
    this.#set(Word.stored, seq);
    Atomics.add(this.#words, Word.sources, 1);
  }

  /** Nothing is left on the disk of what was there. */
  tellCleared(): void {
    Atomics.add(this.#words, Word.clears, 1);
    this.wakeLoop();
  }

  /** The log was given up, and nothing of it is on the disk. */
  tellLost(): void {
    Atomics.add(this.#words, Word.lost, 1);
    this.wakeLoop();
  }

  /** The disk is full, or no longer. */
  tellFull(isFull: boolean): void {
    this.#set(Word.full, isFull ? 1 : 0);
  }

  /** Wakes the data plane. */
  wakeLoop(): void {
    libc.write(this.#eventFd, this.#one.address, 8);
  }

  #wakeWriter(): void {
    Atomics.add(this.#words, Word.wake, 1);
    Atomics.notify(this.#words, Word.wake);
  }

  #get(word: number): number {
    return Atomics.load(this.#words, word) >>> 0;
  }

  #set(word: number, value: number): void {
    Atomics.store(this.#words, word, value | 0);
  }
}
